package simnode

import (
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/fit"
	"coracle/internal/podstate"
)

// Admitted says whether a pod is past its node's judgement: it was begun, it has ended, or it is to end.
func Admitted(pod *corev1.Pod) bool {
	return pod.Status.StartTime != nil || pod.DeletionTimestamp != nil || podstate.Ended(pod)
}

// Holds says whether a pod holds a part of its node, for others to be judged by.
func Holds(pod *corev1.Pod) bool { return pod.Status.StartTime != nil && !podstate.Ended(pod) }

// Judge says why a simulated node does not take one more pod besides those that hold a part of it; nil when it does.
func Judge(held *fit.Holdings, node *corev1.Node, pod *corev1.Pod) *fit.Refusal {
	os := node.Labels[corev1.LabelOSStable]
	if os == "" {
		os = string(corev1.Linux)
	}
	if len(node.Status.Allocatable) < len(defaultCapacity) { // it may not have said yet what its maker left open
		whole := *node
		whole.Status.Capacity, whole.Status.Allocatable = node.Status.Capacity.DeepCopy(), node.Status.Allocatable.DeepCopy()
		fill(&whole.Status.Capacity, defaultCapacity)
		fill(&whole.Status.Allocatable, whole.Status.Capacity)
		node = &whole
	}
	return held.Judge(node, os, pod)
}

// refuse ends a pod before it begins.
func (w *writer) refuse(r *fit.Refusal) {
	w.write(outcome{phase: corev1.PodFailed, refusal: r})
	w.tell(r.Reason, r.Message)
}
