package podsync

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Hash identifies what makes a container restart when it changes. Only the image of a running
// pod's container can be edited.
func Hash(c *corev1.Container) string {
	sum := sha256.Sum256([]byte(c.Name + "\x00" + c.Image))
	return hex.EncodeToString(sum[:8])
}

// IsSidecar says whether an init container is kept running (KEP-753).
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// Newest returns the newest sandbox, or nil.
func (w World) Newest() *Sandbox {
	if len(w.Sandboxes) == 0 {
		return nil
	}
	return &w.Sandboxes[0]
}

// Attempts returns the containers of a name, the newest first.
func (w World) Attempts(name string) []*Container {
	var out []*Container
	for i := range w.Containers {
		c := &w.Containers[i]
		if c.Name != name {
			continue
		}
		at := len(out)
		for at > 0 && newer(c, out[at-1]) {
			at--
		}
		out = append(out, nil)
		copy(out[at+1:], out[at:])
		out[at] = c
	}
	return out
}

func newer(a, b *Container) bool {
	if a.Attempt != b.Attempt {
		return a.Attempt > b.Attempt
	}
	return a.CreatedAt.After(b.CreatedAt)
}

// Latest returns the newest attempt at a container: the runtime's or, where the runtime has none,
// what the pod's status remembers of it; nil when it never ran.
func Latest(pod *corev1.Pod, w World, name string) *Container {
	if all := w.Attempts(name); len(all) > 0 {
		return all[0]
	}
	return remembered(pod, name)
}

// remembered turns a container status into the exited container it speaks of. One that was
// running when the runtime forgot it is taken for killed.
func remembered(pod *corev1.Pod, name string) *Container {
	st := statusOf(pod, name)
	if st == nil {
		return nil
	}
	c := &Container{
		Name: name, Attempt: uint32(st.RestartCount), State: Exited, ID: BareID(st.ContainerID),
		Image: st.Image, ImageID: st.ImageID,
	}
	term := st.State.Terminated
	switch {
	case term != nil:
	case st.State.Running != nil:
		c.StartedAt = st.State.Running.StartedAt.Time
		c.CreatedAt = c.StartedAt
		c.ExitCode, c.Reason, c.Message = 137, "ContainerStatusUnknown", "The container could not be located when the pod was terminated"
		return c
	case st.LastTerminationState.Terminated != nil:
		term = st.LastTerminationState.Terminated
	default:
		return nil
	}
	c.ExitCode, c.Signal, c.Reason, c.Message = term.ExitCode, term.Signal, term.Reason, term.Message
	c.StartedAt, c.FinishedAt, c.CreatedAt = term.StartedAt.Time, term.FinishedAt.Time, term.StartedAt.Time
	if term.ContainerID != "" {
		c.ID = BareID(term.ContainerID)
	}
	return c
}

func statusOf(pod *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// BareID strips the runtime's scheme from a container ID of the API.
func BareID(id string) string {
	if _, bare, ok := strings.Cut(id, "://"); ok {
		return bare
	}
	return id
}

// Restarts says whether a container of the pod that ended as c did is started again while the
// pod lives.
func Restarts(pod *corev1.Pod, c *Container) bool {
	for i := range pod.Spec.InitContainers {
		if spec := &pod.Spec.InitContainers[i]; spec.Name == c.Name {
			if IsSidecar(spec) {
				return true
			}
			return initRestarts(pod, spec, c.ExitCode)
		}
	}
	for i := range pod.Spec.Containers {
		if spec := &pod.Spec.Containers[i]; spec.Name == c.Name {
			return restarts(pod, spec, false, c.ExitCode)
		}
	}
	return false
}

// Outcome says whether the pod has come to its end by itself - every container ended for good,
// or an init container failed for good - and then whether it succeeded.
func Outcome(pod *corev1.Pod, w World) (done, succeeded bool) {
	for i := range pod.Spec.InitContainers {
		spec := &pod.Spec.InitContainers[i]
		if IsSidecar(spec) {
			continue
		}
		c := Latest(pod, w, spec.Name)
		if c != nil && c.State == Exited && c.ExitCode != 0 && !initRestarts(pod, spec, c.ExitCode) {
			return true, false
		}
	}
	succeeded = true
	for i := range pod.Spec.Containers {
		spec := &pod.Spec.Containers[i]
		c := Latest(pod, w, spec.Name)
		if c == nil || c.State != Exited || restarts(pod, spec, false, c.ExitCode) {
			return false, false
		}
		succeeded = succeeded && c.ExitCode == 0
	}
	return len(pod.Spec.Containers) > 0, succeeded
}

// Terminal says whether a phase is final.
func Terminal(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

// Verdict returns why the pod must end as failed though its containers run: what the caller
// said, or its own deadline (spec.activeDeadlineSeconds). Nil when there is no such reason.
func Verdict(in *Input) *Stop {
	if in.Stop != nil {
		return in.Stop
	}
	if at := activeDeadline(in.Pod); !at.IsZero() && !in.Now.Before(at) {
		return &Stop{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
	}
	return nil
}
