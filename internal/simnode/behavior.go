package simnode

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/podstate"
)

// Behavior is how the containers of a pod fare on its node. With the zero value they start at once, are ready at once,
// run on, and end at once when they are told to.
type Behavior struct {
	// StartAfter counts from when the pod was bound, ReadyAfter from each start, StopAfter from the pod's deletion; its
	// grace period cuts that short.
	StartAfter, ReadyAfter, StopAfter time.Duration
	// NeverReady keeps running containers from becoming ready.
	NeverReady bool
	// PullError is why the images cannot be pulled; "" when they can. PullBackOff is what is told of it once the first
	// failure is past; "" leaves that to the kubelet's words.
	PullError, PullBackOff string
	// Ends says that containers end by themselves, EndAfter after each start, with ExitCode.
	Ends     bool
	EndAfter time.Duration
	ExitCode int32
	// Stays keeps the pod as it is until it is deleted.
	Stays bool
}

// leastRun is how long containers run at the least: to end they must have run.
const leastRun = 100 * time.Millisecond

// pullBackOff is what is told of images that could not be pulled before.
func (b *Behavior) pullBackOff() string {
	if b.PullBackOff != "" {
		return b.PullBackOff
	}
	return "Back-off pulling image: ErrImagePull: " + b.PullError
}

// behavior is how the pod fares, and what is wrong with the annotations that say so.
func (in *Input) behavior() (Behavior, []Problem) {
	b, problems := Behavior{}, []Problem(nil)
	if in.Behavior != nil {
		b = *in.Behavior
	} else {
		b, problems = Annotated(b, in.Pod, in.Node)
	}
	b.EndAfter = max(b.EndAfter, leastRun)
	return b, problems
}

// restful says, at little cost, that a pod is up and that nothing will come by itself. It is the answer for nearly every
// pod nearly always.
func (in *Input) restful() bool {
	pod := in.Pod
	switch b := in.Behavior; {
	case pod.Status.Phase != corev1.PodRunning || len(pod.Spec.ReadinessGates) > 0:
		return false
	case in.Rebooted || in.Evicted != "" || in.Now.Before(in.UnreadyUntil):
		return false
	case b == nil && (shaped(pod.Annotations) || shaped(in.Node.Annotations)), b != nil && (b.Ends || b.NeverReady):
		return false
	}
	c := podstate.Condition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue && c.ObservedGeneration == pod.Generation && running(&pod.Status)
}

// running says that all containers run and are ready.
func running(st *corev1.PodStatus) bool {
	for i := range st.ContainerStatuses {
		if st.ContainerStatuses[i].State.Running == nil || !st.ContainerStatuses[i].Ready {
			return false
		}
	}
	return len(st.ContainerStatuses) > 0
}

// Runs says whether a status shows a container that runs.
func Runs(st *corev1.PodStatus) bool {
	for i := range st.ContainerStatuses {
		if st.ContainerStatuses[i].State.Running != nil {
			return true
		}
	}
	return false
}
