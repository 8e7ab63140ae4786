package simnode

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"coracle/internal/fit"
	"coracle/internal/podstate"
)

// Input is everything that the next step of a pod's life depends on.
type Input struct {
	Pod  *corev1.Pod
	Node *corev1.Node
	// Address is the pod's on this node; invalid when none is free. A pod that has one already,
	// or that uses its host's network, keeps that.
	Address netip.Addr
	// Since is when the pod's present stage began (it was bound, its containers started or ended,
	// it was deleted), finer than the API's whole seconds can tell; zero when not known.
	Since time.Time
	Now   time.Time
	// Refused is why the node does not take the pod; nil once it has.
	Refused *fit.Refusal
	// Unmounted is why a pod that has not begun cannot (Unmounted); "" when nothing keeps it.
	Unmounted string
	// Behavior is how the containers fare; nil means as the annotations of the pod and its node say.
	Behavior *Behavior
	// Rebooted says that the node has been without power since it last looked: no container runs any more.
	Rebooted bool
	// Evicted is why the node ends the pod to help itself, as under pressure; "" when it does not.
	Evicted string
	// UnreadyUntil is until when the readiness probes fail of containers that were ready.
	UnreadyUntil time.Time
}

// Step is what a simulated kubelet does for a pod now.
type Step struct {
	// Status is the next status, nil when it is as it should be.
	Status *corev1.PodStatus
	// Gone says that the pod has ended: its object is to be deleted with no grace left.
	Gone bool
	// Again is when to look again though nothing changes; zero means never.
	Again time.Time
	// Since is the next Input's.
	Since time.Time
	// Problems are annotations of the pod that cannot be used.
	Problems []Problem
	// Told is what the kubelet would write an event about.
	Told []Told
}

// Told is an event about the pod.
type Told struct{ Type, Reason, Message string }

// pullShown is for how long a failed pull is shown as such before it is shown as backing off.
const pullShown = 2 * time.Second

// Next returns the next step of a pod that is bound to a simulated node which is alive.
func Next(in Input) Step {
	pod := in.Pod
	if pod.DeletionTimestamp == nil && (podstate.Ended(pod) || in.restful()) {
		return Step{Since: in.Since}
	}
	b, problems := in.behavior()
	w := writer{in: in, Behavior: b, step: Step{Since: in.Since, Problems: problems}}
	switch {
	case pod.DeletionTimestamp != nil:
		w.end()
	case !b.Stays:
		w.live()
	}
	if w.step.Status == nil {
		w.step.Told = nil // it was told when it came about
	}
	return w.step
}

// writer composes one step.
type writer struct {
	in Input
	Behavior
	step Step
}

// end is the step of a pod that was deleted.
func (w *writer) end() {
	pod := w.in.Pod
	grace := time.Duration(0)
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		grace = time.Duration(*g) * time.Second
	}
	if grace > 0 && !podstate.Ended(pod) && !w.in.Rebooted && !startedAt(&pod.Status).IsZero() {
		asked := finely(pod.DeletionTimestamp.Add(-grace), w.in.Since)
		if at := asked.Add(min(w.StopAfter, grace)); w.in.Now.Before(at) {
			w.step.Again = at
			return
		}
	}
	if len(pod.Finalizers) > 0 && !podstate.Ended(pod) {
		// Somebody wants to see how it ended before it goes.
		w.write(outcome{stopped: true})
	}
	// With no grace left the API removes the pod by itself once its finalizers are gone.
	w.step.Gone = grace > 0 || len(pod.Finalizers) == 0
}

// live is the step of a pod that is to run.
func (w *writer) live() {
	pod, now := w.in.Pod, w.in.Now
	started := startedAt(&pod.Status)
	switch {
	case w.in.Refused != nil:
		w.refuse(w.in.Refused)
	case w.in.Evicted != "":
		w.evict(started)
	case started.IsZero() && w.in.Unmounted != "":
		w.write(outcome{waiting: &corev1.ContainerStateWaiting{Reason: creating}})
		w.tell("FailedMount", w.in.Unmounted)
	case started.IsZero() && !w.pulled() && w.waitsForStart():
	case started.IsZero() && w.PullError != "":
		w.failPull()
	case started.IsZero() && !pod.Spec.HostNetwork && pod.Status.PodIP == "" && !w.in.Address.IsValid():
		w.write(outcome{waiting: &corev1.ContainerStateWaiting{Reason: creating}})
		w.tell("FailedCreatePodSandBox", "Failed to create pod sandbox: no address is free in the range "+w.in.Node.Spec.PodCIDR+" of node "+w.in.Node.Name)
	case started.IsZero():
		w.run(now, outcome{})
	default:
		w.goOn(started)
	}
}

// waitsForStart shows a pod whose time to start has not come.
func (w *writer) waitsForStart() bool {
	bound := w.in.Pod.CreationTimestamp.Time
	if c := podstate.Condition(w.in.Pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionTrue && !c.LastTransitionTime.IsZero() {
		bound = c.LastTransitionTime.Time
	}
	at := finely(bound, w.in.Since).Add(w.StartAfter)
	if w.StartAfter == 0 || !w.in.Now.Before(at) {
		return false
	}
	w.write(outcome{waiting: &corev1.ContainerStateWaiting{Reason: creating}})
	w.again(at)
	return true
}

const pullMessage = "simulated, as annotation " + ImagePullError + " asks"

// failPull shows that the images cannot be had: at first as an error, then as backing off.
func (w *writer) failPull() {
	// When it first failed is not written down for good: the conditions may be older.
	failed, first := w.in.Now, !w.pulled()
	if !first {
		failed = w.in.Since
	}
	if at := failed.Add(pullShown); w.in.Now.Before(at) && !w.waits("ImagePullBackOff") {
		w.write(outcome{waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: w.PullError}})
		w.again(at)
		if first {
			w.step.Since = failed
			w.tell("Failed", "Error: ErrImagePull: "+w.PullError)
		}
		return
	}
	w.write(outcome{waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: w.pullBackOff()}})
	w.tell("BackOff", "Back-off pulling image: "+w.PullError)
}

// pulled says whether a pull was tried, in vain.
func (w *writer) pulled() bool { return w.waits("ErrImagePull") || w.waits("ImagePullBackOff") }

// waits says whether a container waits for a reason.
func (w *writer) waits(reason string) bool {
	st := &w.in.Pod.Status
	for _, list := range [][]corev1.ContainerStatus{st.ContainerStatuses, st.InitContainerStatuses} {
		if slices.ContainsFunc(list, func(s corev1.ContainerStatus) bool { return s.State.Waiting != nil && s.State.Waiting.Reason == reason }) {
			return true
		}
	}
	return false
}

// goOn is the step of a pod whose containers have started before.
func (w *writer) goOn(started time.Time) {
	if ended := endedAt(&w.in.Pod.Status); !ended.IsZero() {
		w.restartAfter(ended)
		return
	}
	if w.in.Rebooted {
		w.exit(started, 255, "Unknown", 0) // nobody knows how they ended, nor how often they had to be started before
		return
	}
	fine := finely(started, w.in.Since)
	if w.Ends {
		if at := fine.Add(w.EndAfter); w.in.Now.Before(at) {
			w.again(at)
		} else {
			reason := "Completed"
			if w.ExitCode != 0 {
				reason = "Error"
			}
			w.exit(started, w.ExitCode, reason, w.delay(w.in.Now.Sub(started)))
			return
		}
	}
	w.run(started, outcome{})
}

// run shows containers that run since a moment; what else there is to show is in o.
func (w *writer) run(since time.Time, o outcome) {
	o.runningSince = since
	begun := finely(since, w.in.Since)
	if since.Equal(w.in.Now) {
		begun = since
		w.step.Since = since
		if w.Ends {
			w.again(begun.Add(w.EndAfter))
		}
	}
	at := begun.Add(w.ReadyAfter)
	o.ready = !w.NeverReady && (!w.in.Now.Before(at) || running(&w.in.Pod.Status) && !since.Equal(w.in.Now))
	if w.in.Now.Before(w.in.UnreadyUntil) {
		o.ready, at = false, w.in.UnreadyUntil
	}
	if !o.ready && !w.NeverReady {
		w.again(at)
	}
	w.write(o)
}

// exit shows containers that have just ended, and what becomes of them: where they start again, after a delay.
func (w *writer) exit(started time.Time, code int32, reason string, delay time.Duration) {
	o := outcome{exit: &corev1.ContainerStateTerminated{
		ExitCode: code, Reason: reason, StartedAt: second(started), FinishedAt: second(w.in.Now),
	}}
	policy := w.in.Pod.Spec.RestartPolicy
	switch {
	case policy == corev1.RestartPolicyNever || policy == corev1.RestartPolicyOnFailure && code == 0:
		o.phase = corev1.PodSucceeded
		if code != 0 {
			o.phase = corev1.PodFailed
		}
		w.write(o)
	case delay == 0:
		o.restarts = true
		w.run(w.in.Now, o)
	default:
		w.step.Since = w.in.Now
		o.waiting = w.backOff(delay)
		w.write(o)
		w.again(w.in.Now.Add(delay))
	}
}

// evict ends a pod for the good of its node.
func (w *writer) evict(started time.Time) {
	o := outcome{phase: corev1.PodFailed, evicted: w.in.Evicted}
	if started.IsZero() {
		o.waiting = &corev1.ContainerStateWaiting{Reason: creating}
	} else {
		o.exit = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "Error", StartedAt: second(started), FinishedAt: second(w.in.Now)}
	}
	w.write(o)
	w.tell("Evicted", w.in.Evicted)
}

// restartAfter starts containers again whose back-off is over.
func (w *writer) restartAfter(ended time.Time) {
	var ran time.Duration
	if c := &w.in.Pod.Status.ContainerStatuses[0]; c.LastTerminationState.Terminated != nil {
		ran = ended.Sub(c.LastTerminationState.Terminated.StartedAt.Time)
	}
	if at := finely(ended, w.in.Since).Add(w.delay(ran)); w.in.Now.Before(at) {
		w.again(at)
		return
	}
	w.run(w.in.Now, outcome{restarts: true})
}

// The crash-loop back-off, as documented in pod-lifecycle: the first restart is immediate, then
// 10 s doubling to 300 s, forgotten after ten minutes of running.
const (
	firstBackoff   = 10 * time.Second
	longestBackoff = 300 * time.Second
	forgetBackoff  = 10 * time.Minute
)

// delay is how long containers that ran for some time wait until they start again.
func (w *writer) delay(ran time.Duration) time.Duration {
	if ran > forgetBackoff {
		return 0
	}
	restarts := int32(0)
	for i := range w.in.Pod.Status.ContainerStatuses {
		restarts = max(restarts, w.in.Pod.Status.ContainerStatuses[i].RestartCount)
	}
	if restarts == 0 {
		return 0
	}
	return min(firstBackoff<<min(restarts-1, 10), longestBackoff)
}

func (w *writer) backOff(delay time.Duration) *corev1.ContainerStateWaiting {
	pod := w.in.Pod
	message := fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
		delay, pod.Spec.Containers[0].Name, pod.Name, pod.Namespace, pod.UID)
	w.tell("BackOff", "Back-off restarting failed container "+pod.Spec.Containers[0].Name+" in pod "+pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")")
	return &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: message}
}

func (w *writer) tell(reason, message string) {
	w.step.Told = append(w.step.Told, Told{corev1.EventTypeWarning, reason, message})
}

func (w *writer) again(at time.Time) {
	if w.step.Again.IsZero() || at.Before(w.step.Again) {
		w.step.Again = at
	}
}

// write sets the next status, unless it says what the present one says.
func (w *writer) write(o outcome) {
	next := compose(w.in, o)
	if !equality.Semantic.DeepEqual(&w.in.Pod.Status, next) {
		w.step.Status = next
	}
}

// startedAt is since when containers run or, while they wait for a restart, when they last
// started; zero when they never did.
func startedAt(st *corev1.PodStatus) time.Time {
	for i := range st.ContainerStatuses {
		switch s := &st.ContainerStatuses[i]; {
		case s.State.Running != nil:
			return s.State.Running.StartedAt.Time
		case s.LastTerminationState.Terminated != nil:
			return s.LastTerminationState.Terminated.StartedAt.Time
		}
	}
	return time.Time{}
}

// endedAt is when containers that wait for a restart ended; zero when they run.
func endedAt(st *corev1.PodStatus) time.Time {
	for i := range st.ContainerStatuses {
		if s := &st.ContainerStatuses[i]; s.State.Waiting != nil && s.LastTerminationState.Terminated != nil {
			return s.LastTerminationState.Terminated.FinishedAt.Time
		}
	}
	return time.Time{}
}
