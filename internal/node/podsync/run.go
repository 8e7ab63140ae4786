package podsync

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func activeDeadline(pod *corev1.Pod) time.Time {
	if pod.Spec.ActiveDeadlineSeconds == nil || pod.Status.StartTime == nil {
		return time.Time{}
	}
	return pod.Status.StartTime.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second)
}

// run brings a living pod closer to having all its containers running.
func (s *decision) run() {
	if at := activeDeadline(s.Pod); !at.IsZero() {
		s.again(at)
	}
	if s.Blocked {
		return
	}
	if !s.Mounted {
		s.do(MountVolumes{})
		return
	}
	box := s.World.Newest()
	if box == nil || !box.Ready {
		s.newSandbox(box)
		return
	}
	initialized := s.mainBegun(box)
	for i := range s.Pod.Spec.InitContainers {
		spec := &s.Pod.Spec.InitContainers[i]
		sidecar := IsSidecar(spec)
		if initialized && !sidecar {
			continue
		}
		passed := s.keep(box, spec, initRole(sidecar))
		if !passed && !initialized {
			return
		}
	}
	for i := range s.Pod.Spec.Containers {
		spec := &s.Pod.Spec.Containers[i]
		s.keep(box, spec, mainRole)
		// What starts after a postStart hook may count on the hook having run.
		if hasPostStart(spec) && s.willStart(spec.Name) {
			return
		}
	}
}

type role int

const (
	mainRole role = iota
	onceRole      // an init container that must succeed
	sideRole      // a sidecar
)

func initRole(sidecar bool) role {
	if sidecar {
		return sideRole
	}
	return onceRole
}

// newSandbox replaces a sandbox that is missing or dead, after what still runs in it.
func (s *decision) newSandbox(dead *Sandbox) {
	alive := s.cancel(startKey("")) // into the dead one
	for i := range s.World.Containers {
		if c := &s.World.Containers[i]; c.State == Running || c.State == Unknown {
			alive = true
			s.do(KillContainer{ID: c.ID, Name: c.Name, Deadline: s.Now, Message: ""})
		}
	}
	if alive {
		return
	}
	attempt := uint32(0)
	if dead != nil {
		attempt = dead.Attempt + 1
	}
	s.do(RunSandbox{Attempt: attempt})
}

// mainBegun says whether initialization is over in this sandbox: a main container was made in it.
func (s *decision) mainBegun(box *Sandbox) bool {
	for i := range s.Pod.Spec.Containers {
		if s.inSandbox(box, s.Pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

// inSandbox returns the newest attempt at a container in a sandbox, or nil.
func (s *decision) inSandbox(box *Sandbox, name string) *Container {
	for _, c := range s.World.Attempts(name) {
		if c.Sandbox == box.ID {
			return c
		}
	}
	return nil
}

// keep moves one container on and says whether those after it may begin: an init container has
// succeeded, a sidecar has started.
func (s *decision) keep(box *Sandbox, spec *corev1.Container, role role) (passed bool) {
	if s.Starting(spec.Name) {
		return false
	}
	c := s.inSandbox(box, spec.Name)
	if c == nil {
		return s.startFirst(box, spec, role)
	}
	switch c.State {
	case Created:
		// The agent died between making and starting it: make it anew.
		s.do(RemoveContainer{ID: c.ID})
	case Unknown:
		s.do(KillContainer{ID: c.ID, Name: c.Name, Deadline: s.Now.Add(s.grace()), Message: "Container is in unknown state"})
	case Running:
		return s.watch(spec, c, role)
	case Exited:
		if role == onceRole && c.ExitCode == 0 {
			return true
		}
		if c.Hash != Hash(spec) || Restarts(s.Pod, c) {
			s.restart(box, spec, c)
		}
	}
	return false
}

// startFirst starts a container that the present sandbox has not had yet, unless it ended for
// good in an earlier one.
func (s *decision) startFirst(box *Sandbox, spec *corev1.Container, role role) (passed bool) {
	before := Latest(s.Pod, s.World, spec.Name)
	switch {
	case before == nil:
		s.start(box, spec, StartContainer{})
	case before.State == Created:
		s.do(RemoveContainer{ID: before.ID})
	case before.State != Exited:
		s.kill(before, 0, "") // it outlived its sandbox
	case role == onceRole:
		// A new sandbox is initialized anew; only failures earn a backoff.
		if before.ExitCode == 0 {
			s.start(box, spec, StartContainer{Attempt: before.Attempt + 1})
			return false
		}
		s.restart(box, spec, before)
	case Restarts(s.Pod, before):
		s.restart(box, spec, before)
	}
	return false
}

// watch decides about a running container.
func (s *decision) watch(spec *corev1.Container, c *Container, role role) (passed bool) {
	probes := s.Probes[c.ID]
	switch {
	case c.Hash != Hash(spec):
		s.kill(c, s.grace(), fmt.Sprintf("Container %s definition changed, will be restarted", spec.Name))
		return false
	case probes.Failed != "":
		message := fmt.Sprintf("Container %s failed %s probe", spec.Name, lower(probes.Failed))
		if restarts(s.Pod, spec, role == sideRole, 137) {
			message += ", will be restarted"
		}
		s.kill(c, s.probeGrace(spec, probes.Failed), message)
		return false
	}
	return role == sideRole && (spec.StartupProbe == nil || probes.Started)
}

// restart starts a container again once its backoff has passed. A changed definition waits for nothing.
func (s *decision) restart(box *Sandbox, spec *corev1.Container, before *Container) {
	step := StartContainer{Attempt: before.Attempt + 1}
	if before.Hash == Hash(spec) || before.Hash == "" {
		delay, crashes := CrashDelay(*before)
		if at := before.FinishedAt.Add(delay); at.After(s.Now) {
			s.again(at)
			return
		}
		step.Crashes = crashes
	}
	s.start(box, spec, step)
}

func (s *decision) start(box *Sandbox, spec *corev1.Container, step StartContainer) {
	step.Name, step.Sandbox = spec.Name, box.ID
	s.do(step)
}

func (s *decision) kill(c *Container, grace time.Duration, message string) {
	s.do(KillContainer{ID: c.ID, Name: c.Name, Deadline: s.Now.Add(grace), PreStop: true, Message: message})
}

// willStart says whether a start of the container is under way or just decided.
func (s *decision) willStart(name string) bool {
	if s.Starting(name) {
		return true
	}
	for _, step := range s.out.Steps {
		if step.Key() == startKey(name) {
			return true
		}
	}
	return false
}

func hasPostStart(spec *corev1.Container) bool {
	return spec.Lifecycle != nil && spec.Lifecycle.PostStart != nil
}

// grace is the pod's own grace period.
func (s *decision) grace() time.Duration {
	if g := s.Pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return time.Duration(*g) * time.Second
	}
	return corev1.DefaultTerminationGracePeriodSeconds * time.Second
}

func (s *decision) probeGrace(spec *corev1.Container, probe string) time.Duration {
	p := spec.LivenessProbe
	if probe == Startup {
		p = spec.StartupProbe
	}
	if p != nil && p.TerminationGracePeriodSeconds != nil {
		return time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
	}
	return s.grace()
}

// The probes whose failure ends a container, as Probes.Failed and the Unhealthy event name them.
const (
	Liveness = "Liveness"
	Startup  = "Startup"
)

func lower(probe string) string {
	if probe == Startup {
		return "startup"
	}
	return "liveness"
}
