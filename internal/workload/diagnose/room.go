package diagnose

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/workload/placement"
)

// cures are what a user can do about the causes that the scheduler counts, in its words.
var cures = []struct{ cause, cure string }{
	{"Insufficient ", "lower the pod's requests, free resources, or add a node"},
	{"Too many pods", "free places for pods on the nodes, or add a node"},
	{"were unschedulable", "kubectl uncordon the node"},
	{"had untolerated taint", "add a toleration to the pod, or remove the taint"},
	{"didn't match Pod's node affinity/selector", "label a node as the pod's nodeSelector or affinity asks, or change these"},
	{"didn't have the Pod's operating system", "add a node of the operating system in the pod's spec.os, or change that"},
	{"free ports", "free the host port on a node, or add a node"},
	{"PersistentVolume's node affinity", "make room on the node that has the volume"},
	{"anti-affinity rules", "add a node, or relax the pod's anti-affinity"},
	{"pod affinity rules", "start the pods that it asks to be near, or relax its affinity"},
	{"topology spread constraints", "add nodes in the topology domains that lack pods, or relax the constraint"},
	{"scheduling gates", "remove the pod's scheduling gates, or see what is to remove them"},
}

// roomHint says what the user can do for a pod that fits on no node. A pod that is meant for one
// node, as daemons are, fails to match the others by intention.
func roomHint(pod *corev1.Pod, message string) string {
	var hints []string
	for _, c := range cures {
		if c.cause == "had untolerated taint" && strings.Contains(message, c.cause+" {node.kubernetes.io/") {
			hints = append(hints, "mend the node that is tainted by its condition")
			continue
		}
		if strings.HasPrefix(c.cause, "didn't match Pod") && placement.Pinned(&pod.Spec) != "" {
			continue
		}
		if strings.Contains(message, c.cause) {
			hints = append(hints, c.cure)
		}
	}
	return strings.Join(hints, "; or ")
}
