// Package fit says whether a node takes one more pod: by what the node and the pod say of each other, and by what the
// node has left.
//
// It owns the arithmetic of resources and host ports, which the scheduler shares, and the judgement that a node passes on
// a pod that is bound to it before anything of the pod runs, with its reasons in the kubelet's words. It remembers nothing
// but what its caller counts in Holdings. It refuses the scheduler's other questions (which node is best, other pods'
// affinities, spreading, volumes), effects and clocks.
//
// Behaviour: the kubelet's admission of pods, https://kubernetes.io/docs/concepts/scheduling-eviction/
// (reasons NodeAffinity, NodePorts, OutOfcpu ...) and https://kubernetes.io/docs/concepts/workloads/pods/#pod-os.
package fit

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/workload/placement"
)

// Reasons for which a node refuses a pod, as the pod's status.reason. For a resource the reason is OutOf and its name.
const (
	NodeName       = "NodeName"
	NodeAffinity   = "NodeAffinity"
	NodePorts      = "NodePorts"
	Untolerated    = "TaintToleration"
	OutOf          = "OutOf"
	OSNotSupported = "PodOSNotSupported"
	OSLabel        = "PodOSSelectorNodeLabelDoesNotMatch"
	// Preempting is the reason of a pod that made room for a critical one.
	Preempting = "Preempting"
)

// rejected begins the message of every refused pod's status.
const rejected = "Pod was rejected: "

// Preempted is the message of a pod that makes room for a critical one.
const Preempted = "Preempted in order to admit critical pod"

// Refusal is why a node does not take a pod.
type Refusal struct {
	Reason string
	// Message is a sentence for the event; Status is the same for the pod's status.
	Message string
}

// Status is the message of a refused pod's status.
func (r *Refusal) Status() string { return rejected + r.Message }

// Judge says why a node that runs pods of an operating system (as GOOS names it) does not take one more pod; nil when it
// does. The questions come in the kubelet's order, and the first that is answered with no gives the reason.
func (h *Holdings) Judge(node *corev1.Node, os string, pod *corev1.Pod) *Refusal {
	if r := foreign(os, pod); r != nil {
		return r
	}
	want, allocatable := RequestOf(pod), AmountsOf(node.Status.Allocatable)
	if s, short := Short(&want, &h.used, &allocatable); short {
		return &Refusal{OutOf + string(s.Resource), fmt.Sprintf(
			"Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", s.Resource, s.Want, s.Used, s.Allowable)}
	}
	return h.barred(node, pod)
}

// foreign refuses pods that say they are for another operating system, by their field or their label.
func foreign(os string, pod *corev1.Pod) *Refusal {
	if label, labelled := pod.Labels[corev1.LabelOSStable]; labelled && label != os {
		return &Refusal{OSLabel, "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}
	}
	if pod.Spec.OS != nil && string(pod.Spec.OS.Name) != os {
		return &Refusal{OSNotSupported, "Failed to admit pod as the OS field doesn't match node OS"}
	}
	return nil
}

// barred refuses for what has nothing to do with amounts.
func (h *Holdings) barred(node *corev1.Node, pod *corev1.Pod) *Refusal {
	// A selector that cannot be parsed matches nothing.
	switch placement.Compile(&pod.Spec).Ask(node).Cause {
	case placement.Selector:
		return failed(NodeAffinity, "node(s) didn't match Pod's node affinity/selector")
	case placement.NodeName:
		return failed(NodeName, "node(s) didn't match the requested node name")
	}
	for _, p := range PortsOf(pod) {
		if h.ports.Taken(p) {
			return failed(NodePorts, fmt.Sprintf("node(s) didn't have free ports for the requested pod ports: %d/%s", p.Number, p.Protocol))
		}
	}
	// Only NoExecute: a pod that names its node has passed by the scheduler on purpose, as have daemons.
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectNoExecute && !placement.Tolerates(pod.Spec.Tolerations, t) {
			return failed(Untolerated, "node(s) had taints that the pod didn't tolerate: "+placement.TaintText(t))
		}
	}
	return nil
}

func failed(predicate, why string) *Refusal {
	return &Refusal{predicate, "Predicate " + predicate + " failed: " + why}
}
