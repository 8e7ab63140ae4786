package status

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/node/podsync"
)

// Waiting reasons of containers that nothing is wrong with.
const (
	containerCreating = "ContainerCreating"
	podInitializing   = "PodInitializing"
)

// pullShown is for how long a failed pull is shown as such before it is shown as backing off.
const pullShown = 1500 * time.Millisecond

func (c *composer) containers(st *corev1.PodStatus) {
	pod := c.in.Pod
	st.InitContainerStatuses, st.ContainerStatuses = nil, nil
	for i := range pod.Spec.InitContainers {
		spec := &pod.Spec.InitContainers[i]
		sidecar := podsync.IsSidecar(spec)
		cs := c.container(spec, containerCreating, sidecar)
		if !sidecar {
			// An init container is ready when it has done its work.
			cs.Ready = cs.State.Terminated != nil && cs.State.Terminated.ExitCode == 0
		}
		st.InitContainerStatuses = append(st.InitContainerStatuses, cs)
	}
	idle := containerCreating
	if len(pod.Spec.InitContainers) > 0 {
		idle = podInitializing
	}
	for i := range pod.Spec.Containers {
		st.ContainerStatuses = append(st.ContainerStatuses, c.container(&pod.Spec.Containers[i], idle, true))
	}
	if len(pod.Spec.InitContainers) > 0 {
		c.idleInits(st)
	}
}

// idleInits shows the init containers whose turn has not come as upstream does: PodInitializing.
func (c *composer) idleInits(st *corev1.PodStatus) {
	first := true
	for i := range st.InitContainerStatuses {
		cs := &st.InitContainerStatuses[i]
		if cs.State.Waiting == nil || cs.State.Waiting.Reason != containerCreating {
			continue
		}
		if first && c.in.World.Newest() == nil {
			first = false
			continue
		}
		if !c.in.Starting(cs.Name) {
			cs.State.Waiting.Reason = podInitializing
		}
	}
}

// container composes one status; serves is whether readiness comes from running and probes.
func (c *composer) container(spec *corev1.Container, idle string, serves bool) corev1.ContainerStatus {
	attempts := c.in.World.Attempts(spec.Name)
	last := podsync.Latest(c.in.Pod, c.in.World, spec.Name)
	cs := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, VolumeMounts: c.mounts(spec)}
	old := c.previous(spec.Name)
	no := false
	cs.Started = &no
	if last == nil {
		cs.State.Waiting = c.waiting(spec, nil, idle)
		return cs
	}
	cs.RestartCount = int32(last.Attempt)
	cs.ImageID = last.ImageID
	if last.Image != "" {
		cs.Image = last.Image
	}
	if last.ID != "" {
		cs.ContainerID = c.host.Scheme + "://" + last.ID
	}
	cs.Resources = spec.Resources.DeepCopy()
	cs.AllocatedResources = spec.Resources.Requests.DeepCopy()
	cs.LastTerminationState = c.lastTermination(attempts, old)
	switch last.State {
	case podsync.Running:
		cs.State.Running = &corev1.ContainerStateRunning{StartedAt: instant(last.StartedAt)}
		started, ready := c.readiness(spec, last)
		cs.Started = &started
		cs.Ready = serves && ready
	case podsync.Exited:
		ended := c.terminated(last, old)
		if w := c.waiting(spec, last, ""); w != nil {
			cs.State.Waiting = w
			cs.LastTerminationState = corev1.ContainerState{Terminated: ended}
		} else {
			cs.State.Terminated = ended
		}
	default:
		cs.State.Waiting = c.waiting(spec, nil, idle)
	}
	return cs
}

func (c *composer) readiness(spec *corev1.Container, last *podsync.Container) (started, ready bool) {
	probes := c.in.Probes[last.ID]
	started = !c.in.Starting(spec.Name) && (spec.StartupProbe == nil || probes.Started)
	ready = started && (spec.ReadinessProbe == nil || probes.Ready) && probes.Failed == ""
	return started, ready
}

// waiting says why a container that does not run is going to, or nil when it is not going to (or
// may at once: then how it ended is the better news).
func (c *composer) waiting(spec *corev1.Container, ended *podsync.Container, idle string) *corev1.ContainerStateWaiting {
	if c.in.Starting(spec.Name) && ended != nil {
		return nil
	}
	if f, failed := c.in.StartFailure(spec.Name); failed && f.Reason != "" && !c.ending {
		if f.Reason == podsync.ErrImagePull && c.in.Now.Sub(f.At) >= pullShown {
			return &corev1.ContainerStateWaiting{
				Reason:  podsync.ImagePullBackOff,
				Message: fmt.Sprintf("Back-off pulling image %q: %s: %s", spec.Image, f.Reason, f.Message),
			}
		}
		return &corev1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	}
	if ended == nil {
		return &corev1.ContainerStateWaiting{Reason: idle}
	}
	if c.ending || !podsync.Restarts(c.in.Pod, ended) {
		return nil
	}
	if delay, _ := podsync.CrashDelay(*ended); ended.FinishedAt.Add(delay).After(c.in.Now) {
		pod := c.in.Pod
		return &corev1.ContainerStateWaiting{
			Reason: podsync.CrashLoopBackOff,
			Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
				delay, spec.Name, pod.Name, pod.Namespace, pod.UID),
		}
	}
	return nil
}

// Again returns when a status will read differently though nothing happens; zero when never.
func Again(in *podsync.Input) time.Time {
	var at time.Time
	for _, f := range in.Failures {
		if turn := f.At.Add(pullShown); f.Reason == podsync.ErrImagePull && turn.After(in.Now) && (at.IsZero() || turn.Before(at)) {
			at = turn
		}
	}
	return at
}

func (c *composer) lastTermination(attempts []*podsync.Container, old *corev1.ContainerStatus) corev1.ContainerState {
	if len(attempts) > 1 && attempts[1].State == podsync.Exited {
		return corev1.ContainerState{Terminated: c.terminated(attempts[1], old)}
	}
	if old == nil {
		return corev1.ContainerState{}
	}
	// The runtime has no earlier attempt: the status may remember it.
	if len(attempts) > 0 && old.State.Terminated != nil && podsync.BareID(old.State.Terminated.ContainerID) != attempts[0].ID {
		return old.State
	}
	return old.LastTerminationState
}

// terminated composes how a container ended. A termination message that was told before is kept:
// the file it came from does not outlive the pod's directory.
func (c *composer) terminated(last *podsync.Container, old *corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: last.ExitCode, Signal: last.Signal, Reason: last.Reason, Message: last.Message,
		StartedAt: instant(last.StartedAt), FinishedAt: instant(last.FinishedAt),
	}
	if last.ID != "" {
		t.ContainerID = c.host.Scheme + "://" + last.ID
	}
	if t.Reason == "" {
		t.Reason = "Completed"
		if t.ExitCode != 0 {
			t.Reason = "Error"
		}
	}
	if old != nil && t.Message == "" {
		for _, told := range []*corev1.ContainerStateTerminated{old.State.Terminated, old.LastTerminationState.Terminated} {
			if told != nil && told.ContainerID == t.ContainerID {
				t.Message = told.Message
			}
		}
	}
	return t
}

func (c *composer) previous(name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{c.old.ContainerStatuses, c.old.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// mounts lists a container's volume mounts as statuses do (KEP-3857).
func (c *composer) mounts(spec *corev1.Container) []corev1.VolumeMountStatus {
	var out []corev1.VolumeMountStatus
	for _, m := range spec.VolumeMounts {
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			how := corev1.RecursiveReadOnlyDisabled
			switch asked := m.RecursiveReadOnly; {
			case asked == nil:
			case *asked == corev1.RecursiveReadOnlyEnabled, *asked == corev1.RecursiveReadOnlyIfPossible && c.host.RecursiveReadOnly:
				how = corev1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &how
		}
		out = append(out, s)
	}
	return out
}

// instant drops what the API's second resolution would lose, so that comparing tells real changes.
func instant(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.NewTime(t).Rfc3339Copy()
}
