package place

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

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
		if n.portTaken(want) {
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

// portTaken says whether a host port clashes: same protocol and number, and either address is
// the wildcard or both are equal.
func (n *Node) portTaken(want port) bool {
	if want.ip != "0.0.0.0" {
		return n.ports[want] > 0 || n.ports[port{"0.0.0.0", want.protocol, want.number}] > 0
	}
	for have := range n.ports {
		if have.protocol == want.protocol && have.number == want.number {
			return true
		}
	}
	return false
}

// lacks names the first resource of which too little is free.
func (n *Node) lacks(p *Pod) string {
	if n.Used.Pods+1 > n.Allocatable.Pods {
		return reasonPods
	}
	short := func(name corev1.ResourceName, want, used, have int64) bool { return want > 0 && used+want > have }
	switch req := p.Request; {
	case short(corev1.ResourceCPU, req.CPU, n.Used.CPU, n.Allocatable.CPU):
		return "Insufficient cpu"
	case short(corev1.ResourceMemory, req.Memory, n.Used.Memory, n.Allocatable.Memory):
		return "Insufficient memory"
	case short(corev1.ResourceEphemeralStorage, req.Ephemeral, n.Used.Ephemeral, n.Allocatable.Ephemeral):
		return "Insufficient ephemeral-storage"
	}
	lacking := corev1.ResourceName("")
	for name, want := range p.Request.Other {
		// The first by name, so that equal worlds give equal words.
		if short(name, want, n.Used.Other[name], n.Allocatable.Other[name]) && (lacking == "" || name < lacking) {
			lacking = name
		}
	}
	if lacking != "" {
		return "Insufficient " + string(lacking)
	}
	return ""
}
