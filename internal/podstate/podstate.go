// Package podstate answers questions of fact about one pod: is it ready, available, active,
// ended, on its way out.
//
// It owns the reading of a pod's status, so that every workload counts pods alike. It refuses
// decisions (what to do about a pod is the planners' business) and explanations (package diagnose).
package podstate

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Condition returns the pod's condition of that type, or nil. The result is part of the pod and
// must not be changed.
func Condition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// True reports whether the pod's condition of that type is true.
func True(pod *corev1.Pod, kind corev1.PodConditionType) bool {
	c := Condition(pod, kind)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Ended reports whether the pod has come to its end: phase Succeeded or Failed.
func Ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Active reports whether the pod counts towards a replica count: neither ended nor being deleted.
func Active(pod *corev1.Pod) bool {
	return !Ended(pod) && pod.DeletionTimestamp == nil
}

// Terminating reports whether the pod is being deleted and its containers may still run: it has a
// deletionTimestamp and has not ended (status.terminatingReplicas, KEP-3973).
func Terminating(pod *corev1.Pod) bool {
	return !Ended(pod) && pod.DeletionTimestamp != nil
}

// Ready reports whether the pod's Ready condition is true.
func Ready(pod *corev1.Pod) bool { return True(pod, corev1.PodReady) }

// ReadySince returns the instant from which the pod has been ready without a break. It is false
// when the pod is not ready; the instant is zero when the node did not say.
func ReadySince(pod *corev1.Pod) (time.Time, bool) {
	c := Condition(pod, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return time.Time{}, false
	}
	return c.LastTransitionTime.Time, true
}

// AvailableAt returns the instant at which a ready pod has been ready for minReadySeconds: it is
// available from then on. It is false when the pod is not ready, or when minReadySeconds is set
// and the node did not say since when it is.
func AvailableAt(pod *corev1.Pod, minReadySeconds int32) (time.Time, bool) {
	since, ready := ReadySince(pod)
	if !ready || (minReadySeconds > 0 && since.IsZero()) {
		return time.Time{}, false
	}
	return since.Add(time.Duration(minReadySeconds) * time.Second), true
}

// Available reports whether the pod is ready and has been for minReadySeconds.
func Available(pod *corev1.Pod, minReadySeconds int32, now time.Time) bool {
	at, ok := AvailableAt(pod, minReadySeconds)
	return ok && (minReadySeconds <= 0 || !now.Before(at))
}

// Restarts returns the highest restart count among the pod's containers and, apart, among its
// sidecars (init containers that are restarted always).
func Restarts(pod *corev1.Pod) (containers, sidecars int32) {
	for i := range pod.Status.ContainerStatuses {
		containers = max(containers, pod.Status.ContainerStatuses[i].RestartCount)
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		for j := range pod.Status.InitContainerStatuses {
			if s := &pod.Status.InitContainerStatuses[j]; s.Name == c.Name {
				sidecars = max(sidecars, s.RestartCount)
			}
		}
	}
	return containers, sidecars
}

// Alike reports whether nothing a workload planner looks at differs between two states of a pod:
// metadata, node, phase and the state of conditions. A planner's watch uses it to pass over
// changes that could not change its plan.
func Alike(a, b *corev1.Pod) bool {
	if a.UID != b.UID || a.Spec.NodeName != b.Spec.NodeName || a.Status.Phase != b.Status.Phase ||
		(a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) ||
		len(a.Status.Conditions) != len(b.Status.Conditions) ||
		!sameMap(a.Labels, b.Labels) || !sameMap(a.Annotations, b.Annotations) ||
		len(a.OwnerReferences) != len(b.OwnerReferences) {
		return false
	}
	for i := range a.OwnerReferences {
		x, y := &a.OwnerReferences[i], &b.OwnerReferences[i]
		if x.UID != y.UID || (x.Controller != nil && *x.Controller) != (y.Controller != nil && *y.Controller) {
			return false
		}
	}
	for i := range a.Status.Conditions {
		x, y := &a.Status.Conditions[i], &b.Status.Conditions[i]
		if x.Type != y.Type || x.Status != y.Status || !x.LastTransitionTime.Equal(&y.LastTransitionTime) {
			return false
		}
	}
	return true
}

func sameMap(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || w != v {
			return false
		}
	}
	return true
}

// Refused reports whether the pod's node did not take it: it failed, for a reason, and nothing of it ever ran. A successor
// made at once would fare the same.
func Refused(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed && pod.Status.Reason != "" &&
		len(pod.Status.ContainerStatuses) == 0 && len(pod.Status.InitContainerStatuses) == 0
}

// LooksBad tells at a glance the pods that hardly get well by themselves.
func LooksBad(pod *corev1.Pod) bool {
	if c := Condition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse {
		return true
	}
	for i := range pod.Status.ContainerStatuses {
		if s := pod.Status.ContainerStatuses[i].State.Waiting; s != nil && s.Reason != "ContainerCreating" && s.Reason != "PodInitializing" {
			return true
		}
	}
	for i := range pod.Status.InitContainerStatuses {
		if s := pod.Status.InitContainerStatuses[i].State.Waiting; s != nil && s.Reason != "PodInitializing" {
			return true
		}
	}
	return false
}
