// Package podsync decides what a node does next for one pod.
//
// Decide is a pure function from what is known - the pod, what the runtime has for it, its
// probes, its volumes, what failed and what is under way - to the next steps. It owns the order
// of a pod's life: volumes, sandbox, init containers, sidecars, containers, restarts with
// backoff, termination, removal. It refuses I/O, clocks and memory: everything it must know is
// in its Input, and all that must outlive the agent is in the API and in the runtime's labels.
//
// Behaviour: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/ and KEP-753
// (sidecars), KEP-5307 (container restart rules).
package podsync

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Input is everything a decision depends on.
type Input struct {
	// Pod is the newest version known. Read only.
	Pod *corev1.Pod
	// Gone: the API object no longer exists (or was replaced by one with another UID).
	Gone  bool
	World World
	// Mounted: the pod's volumes are ready. Released: they were given back, for good.
	Mounted, Released bool
	// Probes holds results by container ID. A running container without an entry has none yet.
	Probes map[string]Probes
	// Failures holds the last failure of an operation, by Step.Key, until it succeeds.
	Failures map[string]Failure
	// Busy holds the operations under way, by Step.Key, with the deadline of those that have one.
	Busy map[string]time.Time
	// EndingSince is when this agent first saw that the pod must end; zero before.
	EndingSince time.Time
	// Draining: nodes may still lead new connections to the deleted pod, so that nothing of it is stopped yet.
	Draining bool
	// Published: the API server has accepted a status that says how the pod's containers ended.
	Published bool
	// Blocked: an earlier pod of the same name has not stopped on this node yet.
	Blocked bool
	// Stop, when set, ends the pod as failed (eviction, refusal).
	Stop *Stop
	// Now is the one instant of this decision.
	Now time.Time
}

// World is what the runtime has for one pod.
type World struct {
	// Sandboxes, the newest first.
	Sandboxes []Sandbox
	// Containers of all sandboxes, in no particular order.
	Containers []Container
}

// Sandbox is one pod sandbox as the runtime reports it.
type Sandbox struct {
	ID        string
	Attempt   uint32
	Ready     bool
	CreatedAt time.Time
	// IPs is empty for host network.
	IPs []string
}

// State is a container's state (CRI ContainerState).
type State int

// The states.
const (
	Created State = iota
	Running
	Exited
	Unknown
)

// Container is one attempt at one container of the pod.
type Container struct {
	ID      string
	Name    string
	Sandbox string
	// Attempt counts from 0; it is the restart count of the container status.
	Attempt uint32
	State   State
	// Crashes counts the restarts in a row that earned a longer backoff, this start included.
	Crashes    int
	Hash       string
	CreatedAt  time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int32
	Signal     int32
	Reason     string
	Message    string
	Image      string
	ImageID    string
}

// Probes holds the latest verdicts on one container.
type Probes struct {
	// Started: the startup probe has succeeded. Meaningless without one.
	Started bool
	// Ready: the readiness probe's verdict. Meaningless without one.
	Ready bool
	// Failed names the probe ("Liveness", "Startup") whose failure ends the container; empty when none.
	Failed string
}

// Failure is something that did not work and will be tried again.
type Failure struct {
	// Reason is upstream's word: ErrImagePull, CreateContainerError, ...
	Reason  string
	Message string
	At      time.Time
	// Times counts failures in a row, from 1.
	Times int
}

// Stop ends a pod as failed: reason and message go to its status.
type Stop struct {
	Reason  string
	Message string
}

// Decision is what to do next.
type Decision struct {
	// Steps are independent of each other: all may begin at once.
	Steps []Step
	// Again is when to decide again though nothing happens; zero means never.
	Again time.Time
	// Stopped: nothing of the pod runs and nothing more will be started.
	Stopped bool
	// Finished: there is nothing left to do for this pod, ever.
	Finished bool
}

// Step is one operation. The set is closed.
type Step interface {
	// Key names the operation; the same key is not begun again while it is under way.
	Key() string
}

// MountVolumes makes the pod's volumes ready.
type MountVolumes struct{}

// RunSandbox makes a sandbox.
type RunSandbox struct{ Attempt uint32 }

// StartContainer pulls the image if need be, creates and starts a container and runs its
// postStart hook.
type StartContainer struct {
	Name    string
	Sandbox string
	Attempt uint32
	Crashes int
}

// KillContainer runs the preStop hook, signals, and kills at the deadline.
type KillContainer struct {
	ID   string
	Name string
	// Deadline is when the container is killed for good.
	Deadline time.Time
	// PreStop: run the hook first. False when an earlier kill has begun already.
	PreStop bool
	// Message is the text of the Killing event; empty for none.
	Message string
}

// StopSandbox frees the sandbox's network.
type StopSandbox struct{ ID string }

// RemoveContainer removes a container that does not run.
type RemoveContainer struct{ ID string }

// RemoveSandbox removes a stopped sandbox and its containers.
type RemoveSandbox struct{ ID string }

// ReleaseVolumes unmounts the pod's volumes and removes what belongs to it alone.
type ReleaseVolumes struct{}

// DeleteObject deletes the API object, now that nothing of the pod is left running.
type DeleteObject struct{}

// Cancel gives up an operation under way.
type Cancel struct{ Op string }

// Key implements Step.
func (MountVolumes) Key() string { return "volumes" }

// Key implements Step.
func (RunSandbox) Key() string { return "sandbox" }

// Key implements Step.
func (s StartContainer) Key() string { return startKey(s.Name) }

// Key implements Step.
func (s KillContainer) Key() string { return "kill/" + s.ID }

// Key implements Step.
func (s StopSandbox) Key() string { return "stop/" + s.ID }

// Key implements Step.
func (s RemoveContainer) Key() string { return "remove/" + s.ID }

// Key implements Step.
func (s RemoveSandbox) Key() string { return "remove/" + s.ID }

// Key implements Step.
func (ReleaseVolumes) Key() string { return "release" }

// Key implements Step.
func (DeleteObject) Key() string { return "delete" }

// Key implements Step.
func (s Cancel) Key() string { return "cancel/" + s.Op }

func startKey(name string) string { return "start/" + name }

// StartFailure returns why the container could not be started last time, if it was so.
func (in *Input) StartFailure(name string) (Failure, bool) {
	f, failed := in.Failures[startKey(name)]
	return f, failed
}

// Starting says whether a start of the container is under way, its postStart hook included.
func (in *Input) Starting(name string) bool {
	_, ok := in.Busy[startKey(name)]
	return ok
}

// Decide returns the next steps for a pod. Nobody keeps which state a pod is in: it follows from Input, so that an agent that
// starts finds each pod where the last one left it.
//
//	waiting ──► mounting ──► opening ──► running     a sandbox that dies leads from running back to opening
//	   │            │           │           │
//	   │            │           │           ├─────────► draining   nodes may still lead connections to it
//	   │            │           │           ▼               │
//	   │            │           │        killing ◄──────────┘
//	   │            │           │           ▼
//	   │            │           └──────► closing                   its sandboxes are stopped
//	   │            │                       ▼
//	   └────────────┴──────────────────► releasing                 its volumes are given back
//	                                        │
//	               ┌────────────────────────┼──────────────────┐
//	               ▼                        ▼                  ▼
//	             ended ─── is deleted ─► deleting ─────────► clearing ──► finished
//	             its object stays        its object goes     there is none: what the runtime still has is removed
//
// What leads down from the upper row: the pod is deleted or gone, it is to be stopped (Stop, its deadline), or it has come to
// its end; what is being started then is given up. Nothing leads up again. An opening that is given up before there is a
// sandbox goes on at releasing.
func Decide(in Input) Decision {
	s := &decision{Input: in}
	if s.ending() {
		s.end()
	} else {
		s.run()
	}
	s.prune()
	return s.out
}

type decision struct {
	Input
	out Decision
}

// do adds a step unless it is under way, or failed and its backoff has not passed.
func (s *decision) do(step Step) {
	key := step.Key()
	if _, busy := s.Busy[key]; busy {
		return
	}
	if f, failed := s.Failures[key]; failed {
		if at := f.At.Add(RetryDelay(f)); at.After(s.Now) {
			s.again(at)
			return
		}
	}
	s.out.Steps = append(s.out.Steps, step)
}

// again asks for another look at t.
func (s *decision) again(t time.Time) {
	if s.out.Again.IsZero() || t.Before(s.out.Again) {
		s.out.Again = t
	}
}
