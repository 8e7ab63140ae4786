package place

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/fit"
	"coracle/internal/workload/placement"
)

// The words in which a node refuses a pod are upstream's scheduler's: tools and people know them.
const (
	reasonUnschedulable = "node(s) were unschedulable"
	reasonAffinity      = "node(s) didn't match Pod's node affinity/selector"
	reasonOS            = "node(s) didn't have the Pod's operating system"
	reasonPorts         = "node(s) didn't have free ports for the requested pod ports"
	reasonPods          = "Too many pods"
)

// unschedulable is the taint that a cordoned node has in all but name.
var unschedulable = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}

// static says why a node cannot take pods of a class, whatever other pods and volumes there are
// but those that use the node; the cheapest question first. It is "" when the node can.
func static(p *Pod, n *Node) (string, Cause) {
	if n.Object.Spec.Unschedulable && !placement.Tolerates(p.Object.Spec.Tolerations, &unschedulable) {
		return reasonUnschedulable, CauseNode
	}
	if t := untolerated(p, n); t != nil {
		return fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value), CauseNode
	}
	// The selector was validated by the API; what cannot be parsed matches nothing.
	if match, err := p.affinity.Match(n.Object); err != nil || !match {
		return reasonAffinity, CauseNode
	}
	if os := p.Object.Spec.OS; os != nil && os.Name != systemOf(n.Object) {
		return reasonOS, CauseNode
	}
	for _, want := range p.ports {
		if n.ports.Taken(want) {
			return reasonPorts, CauseResources
		}
	}
	if reason := n.lacks(p); reason != "" {
		return reason, CauseResources
	}
	return "", 0
}

// systemOf is the operating system of a node, by the label that its agent gives it; Linux where there is none, which all of
// ours run.
func systemOf(n *corev1.Node) corev1.OSName {
	if name := n.Labels[corev1.LabelOSStable]; name != "" {
		return corev1.OSName(name)
	}
	return corev1.Linux
}

// untolerated is the first taint that keeps the pod off the node, or nil.
func untolerated(p *Pod, n *Node) *corev1.Taint {
	for i := range n.Object.Spec.Taints {
		t := &n.Object.Spec.Taints[i]
		if t.Effect != corev1.TaintEffectPreferNoSchedule && !placement.Tolerates(p.Object.Spec.Tolerations, t) {
			return t
		}
	}
	return nil
}

// lacks names the first resource of which too little is free.
func (n *Node) lacks(p *Pod) string {
	switch s, short := fit.Short(&p.Request, &n.Used, &n.Allocatable); {
	case !short:
		return ""
	case s.Resource == corev1.ResourcePods:
		return reasonPods
	default:
		return "Insufficient " + string(s.Resource)
	}
}
