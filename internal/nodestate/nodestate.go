// Package nodestate answers questions of fact about one node: is it ready, since when, is it simulated.
//
// It owns the reading of a node's status and of the marks that Coracle puts on nodes. It refuses decisions: what to do
// about a node is its readers' business.
package nodestate

import corev1 "k8s.io/api/core/v1"

// SimulatedAnnotation is the annotation with which a node says that nothing stands behind it: its pods
// have no containers, only a status.
const SimulatedAnnotation = "coracle.io/simulated"

// Simulated reports whether a node is a simulated one.
func Simulated(n *corev1.Node) bool { return n.Annotations[SimulatedAnnotation] == "true" }

// Condition returns the node's condition of that type, or nil. The result is part of the node and must not be changed.
func Condition(n *corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == kind {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// Ready reports whether the node's Ready condition is true. A node without the condition is not ready.
func Ready(n *corev1.Node) bool {
	c := Condition(n, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// PodRanges are the ranges of a node's pods, that of their first addresses first.
func PodRanges(n *corev1.Node) []string {
	switch {
	case len(n.Spec.PodCIDRs) > 0:
		return n.Spec.PodCIDRs
	case n.Spec.PodCIDR != "":
		return []string{n.Spec.PodCIDR}
	}
	return nil
}
