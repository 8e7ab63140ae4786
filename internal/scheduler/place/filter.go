package place

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/fit"
	"coracle/internal/workload/placement"
)

// Reason is why a node refuses a pod. Its words are upstream's scheduler's, which tools and people know; who wants to know
// whether it is one of those below compares it, and looks into none.
type Reason string

// The reasons that do not depend on a taint or a resource: see Untolerated and Insufficient for those that do.
const (
	Cordoned     Reason = "node(s) were unschedulable"
	NodeAffinity Reason = "node(s) didn't match Pod's node affinity/selector"
	OtherOS      Reason = "node(s) didn't have the Pod's operating system"
	NoFreePorts  Reason = "node(s) didn't have free ports for the requested pod ports"
	TooManyPods  Reason = "Too many pods"
)

// Untolerated is the reason of a node that has a taint which the pod does not tolerate.
func Untolerated(t *corev1.Taint) Reason {
	return Reason(fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value))
}

// Insufficient is the reason of a node that has too little of a resource free.
func Insufficient(name corev1.ResourceName) Reason {
	if name == corev1.ResourcePods {
		return TooManyPods
	}
	return Reason("Insufficient " + string(name))
}

// unschedulable is the taint that a cordoned node has in all but name.
var unschedulable = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}

// static says why a node cannot take pods of a class, whatever other pods and volumes there are
// but those that use the node; the cheapest question first. It is "" when the node can.
func static(p *Pod, n *Node) (Reason, Cause) {
	if n.Object.Spec.Unschedulable && !placement.Tolerates(p.Object.Spec.Tolerations, &unschedulable) {
		return Cordoned, CauseNode
	}
	if t := untolerated(p, n); t != nil {
		return Untolerated(t), CauseNode
	}
	// The selector was validated by the API; what cannot be parsed matches nothing.
	if match, err := p.affinity.Match(n.Object); err != nil || !match {
		return NodeAffinity, CauseNode
	}
	if os := p.Object.Spec.OS; os != nil && os.Name != systemOf(n.Object) {
		return OtherOS, CauseNode
	}
	for _, want := range p.ports {
		if n.ports.Taken(want) {
			return NoFreePorts, CauseResources
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
func (n *Node) lacks(p *Pod) Reason {
	if s, short := fit.Short(&p.Request, &n.Used, &n.Allocatable); short {
		return Insufficient(s.Resource)
	}
	return ""
}
