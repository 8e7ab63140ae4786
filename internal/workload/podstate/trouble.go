package podstate

import (
	"cmp"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/plan"
)

// Trouble is why a pod is not available yet.
type Trouble struct {
	// Reason is a CamelCase word: the kubelet's or the scheduler's where they gave one.
	Reason string
	// Message is a sentence without a final stop.
	Message string
	// Since is when it began; zero when not known.
	Since time.Time
	// Hint is what the user can do, if anything.
	Hint string
	// Grave says that it will hardly pass without the user: a bad image, a crash loop, a
	// missing config. A pod that merely starts is not in grave trouble.
	Grave bool
}

// Wait turns the trouble into a link of an explanation that points at the pod.
func (t Trouble) Wait(pod *corev1.Pod) plan.Wait {
	return plan.Wait{Reason: t.Reason, Message: fmt.Sprintf("pod %q: %s", pod.Name, t.Message),
		On: plan.RefOf(pod), Since: t.Since, Hint: t.Hint}
}

// TroubleOf says why the pod is not available at now; it is false when it is. It looks for the deepest
// cause first: being deleted, not scheduled, a container that cannot start, then readiness.
func TroubleOf(pod *corev1.Pod, minReadySeconds int32, now time.Time) (Trouble, bool) {
	if Available(pod, minReadySeconds, now) && pod.DeletionTimestamp == nil {
		return Trouble{}, false
	}
	for _, ask := range []func(*corev1.Pod) (Trouble, bool){deleting, ended, unscheduled, notStarting, notReady} {
		if t, ok := ask(pod); ok {
			if t.Since.IsZero() {
				t.Since = pod.CreationTimestamp.Time
			}
			return t, true
		}
	}
	at, _ := AvailableAt(pod, minReadySeconds)
	since, _ := ReadySince(pod)
	return Trouble{Reason: "MinReadySeconds", Since: since,
		Message: fmt.Sprintf("ready, and counts as available at %s (minReadySeconds: %d)",
			at.UTC().Format(time.RFC3339), minReadySeconds)}, true
}

func deleting(pod *corev1.Pod) (Trouble, bool) {
	if pod.DeletionTimestamp == nil {
		return Trouble{}, false
	}
	t := Trouble{Reason: "Terminating", Message: "being deleted", Since: pod.DeletionTimestamp.Time}
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		t.Since = t.Since.Add(-time.Duration(*g) * time.Second)
		t.Message = fmt.Sprintf("being deleted, with %d seconds of grace", *g)
	}
	if len(pod.Finalizers) > 0 {
		t.Hint = fmt.Sprintf("the pod goes when its finalizers %q are removed", pod.Finalizers)
	}
	return t, true
}

func ended(pod *corev1.Pod) (Trouble, bool) {
	if !Ended(pod) {
		return Trouble{}, false
	}
	t := Trouble{Reason: cmp.Or(pod.Status.Reason, string(pod.Status.Phase)),
		Message: "ended in phase " + string(pod.Status.Phase)}
	if pod.Status.Message != "" {
		t.Message += ": " + pod.Status.Message
	}
	return t, true
}

func unscheduled(pod *corev1.Pod) (Trouble, bool) {
	if pod.Spec.NodeName != "" {
		return Trouble{}, false
	}
	c := Condition(pod, corev1.PodScheduled)
	if c == nil || c.Status == corev1.ConditionTrue {
		return Trouble{Reason: "Unscheduled", Message: "not yet looked at by the scheduler"}, true
	}
	t := Trouble{Reason: cmp.Or(c.Reason, corev1.PodReasonUnschedulable), Since: c.LastTransitionTime.Time,
		Message: cmp.Or(c.Message, "no node fits"), Grave: c.Reason == corev1.PodReasonUnschedulable}
	switch t.Reason {
	case corev1.PodReasonSchedulingGated:
		t.Hint = "remove the pod's scheduling gates to let it be scheduled"
	case corev1.PodReasonUnschedulable:
		t.Hint = "make room on a node, add one, or change what the pod asks for (resources, selectors, tolerations, volumes)"
	}
	return t, true
}

// notStarting looks for a container that waits for something or has failed, init containers first.
func notStarting(pod *corev1.Pod) (Trouble, bool) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			if t, ok := containerTrouble(&list[i]); ok {
				return t, true
			}
		}
	}
	return Trouble{}, false
}

func containerTrouble(s *corev1.ContainerStatus) (Trouble, bool) {
	switch {
	case s.State.Waiting != nil:
		w := s.State.Waiting
		if w.Reason == "" || w.Reason == "ContainerCreating" || w.Reason == "PodInitializing" {
			return Trouble{}, false
		}
		t := Trouble{Reason: w.Reason, Message: fmt.Sprintf("container %q is waiting: %s", s.Name, w.Reason)}
		if w.Message != "" {
			t.Message += ": " + w.Message
		}
		if last := s.LastTerminationState.Terminated; last != nil {
			t.Message += "; it last ended with " + ending(last)
			t.Since = last.FinishedAt.Time
		}
		t.Hint, t.Grave = hintFor(w.Reason, s)
		return t, true
	case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
		end := s.State.Terminated
		return Trouble{Reason: cmp.Or(end.Reason, "Error"), Since: end.FinishedAt.Time,
			Message: fmt.Sprintf("container %q ended with %s", s.Name, ending(end)),
			Hint:    "look at its log: kubectl logs --previous"}, true
	}
	return Trouble{}, false
}

func ending(t *corev1.ContainerStateTerminated) string {
	text := fmt.Sprintf("exit code %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" {
		text += " (" + t.Reason + ")"
	}
	if t.Message != "" {
		text += ": " + t.Message
	}
	return text
}

func hintFor(reason string, s *corev1.ContainerStatus) (hint string, grave bool) {
	switch reason {
	case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError", "RegistryUnavailable":
		return fmt.Sprintf("check that image %q exists and can be pulled, or import it", s.Image), true
	case "CrashLoopBackOff":
		if last := s.LastTerminationState.Terminated; last != nil && last.Reason == "OOMKilled" {
			return "the container ran out of memory: raise its memory limit", true
		}
		return "look at its log: kubectl logs --previous", true
	case "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError":
		return "check the container's command, environment, ConfigMaps and Secrets", true
	}
	return "", false
}

func notReady(pod *corev1.Pod) (Trouble, bool) {
	if Ready(pod) {
		return Trouble{}, false
	}
	if pod.Status.Phase == corev1.PodUnknown {
		return Trouble{Reason: "Unknown", Message: "its node does not say how it is", Grave: true,
			Hint: fmt.Sprintf("check node %q", pod.Spec.NodeName)}, true
	}
	if pod.Status.Phase != corev1.PodRunning {
		return Trouble{Reason: "Starting", Message: fmt.Sprintf("starting on node %q", pod.Spec.NodeName)}, true
	}
	t := Trouble{Reason: "NotReady", Message: "running, and not ready"}
	if c := Condition(pod, corev1.PodReady); c != nil {
		t.Reason, t.Since = cmp.Or(c.Reason, t.Reason), c.LastTransitionTime.Time
		if c.Message != "" {
			t.Message += ": " + c.Message
		}
	}
	t.Hint = "check its readiness probe and its log"
	return t, true
}
