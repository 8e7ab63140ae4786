package statefulset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/podstate"
	"coracle/internal/workload/claim"
)

// ready: running and ready, terminating or not.
func ready(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && podstate.Ready(pod)
}

// availableAt returns when a ready pod counts as available; false for one that is not ready.
func availableAt(pod *corev1.Pod, minReady int32) (time.Time, bool) {
	if pod.Status.Phase != corev1.PodRunning {
		return time.Time{}, false
	}
	return podstate.AvailableAt(pod, minReady)
}

func available(pod *corev1.Pod, minReady int32, now time.Time) bool {
	return pod.Status.Phase == corev1.PodRunning && podstate.Available(pod, minReady, now)
}

// setRef is the owner reference by which a set controls its pods and holds its claims.
func setRef(set *appsv1.StatefulSet) metav1.OwnerReference { return claim.Reference(set) }

func terminating(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil }

// neverReady says whether it is certain that a pod has not been ready at any time. The API keeps no
// history, so certainty comes from one of these: it never ran (phase Pending, which a pod does not
// return to); no container of it ever started; or its Ready condition is False since the very
// second in which the node took the pod up. Doubt counts as having been ready.
func neverReady(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodPending || pod.Status.Phase == "" {
		return true
	}
	c := podstate.Condition(pod, corev1.PodReady)
	if c == nil || c.Status == corev1.ConditionTrue {
		return false
	}
	start := pod.Status.StartTime
	sinceStart := start != nil && !c.LastTransitionTime.IsZero() && !c.LastTransitionTime.After(start.Time)
	for i := range pod.Status.ContainerStatuses {
		s := &pod.Status.ContainerStatuses[i]
		started := s.State.Waiting == nil || s.LastTerminationState.Terminated != nil || s.RestartCount > 0
		if !started {
			continue
		}
		// Without a probe a container that runs is ready, so one that has ended may have been
		// so for less than the second that timestamps tell apart.
		endedOnce := s.State.Running == nil || s.RestartCount > 0
		if !sinceStart || endedOnce && !probed(pod, s.Name) {
			return false
		}
	}
	return sinceStart || len(pod.Status.ContainerStatuses) > 0
}

// neverServed says whether a pod has certainly not been of use: it was never ready, or it has crashed
// in each of its runs within moments, so that it was ready in flickers at most.
func neverServed(pod *corev1.Pod) bool { return neverReady(pod) || flickers(pod) }

// moments is how long the runs of a flickering pod may have lasted in all.
const moments = 10 * time.Second

// flickers proves from the backoff that a container has never run for long: what the pod's life until
// its last run leaves over, once the pauses between its restarts are taken off, bounds the sum of all
// its runs. The pauses are at least those that pod-lifecycle documents: none, then 10 s doubling to
// 300 s.
func flickers(pod *corev1.Pod) bool {
	if pod.Status.StartTime == nil || podstate.Ready(pod) {
		return false
	}
	for i := range pod.Status.ContainerStatuses {
		s := &pod.Status.ContainerStatuses[i]
		run, before := s.LastTerminationState.Terminated, s.RestartCount
		if s.State.Running != nil {
			before-- // the last run that ended was the one before this
		}
		if s.State.Terminated != nil {
			run = s.State.Terminated
		}
		if run == nil || before < 2 || run.FinishedAt.Sub(run.StartedAt.Time) > moments {
			continue
		}
		earlier := run.StartedAt.Sub(pod.Status.StartTime.Time)
		for n := range before - 1 {
			earlier -= min(10*time.Second<<min(n, 5), 300*time.Second)
		}
		if earlier >= 0 && earlier <= moments {
			return true
		}
	}
	return false
}

func probed(pod *corev1.Pod, container string) bool {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == container {
			return pod.Spec.Containers[i].ReadinessProbe != nil || pod.Spec.Containers[i].StartupProbe != nil
		}
	}
	return false
}
