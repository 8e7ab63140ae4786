package node

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/cri"
	"coracle/internal/node/podsync"
	"coracle/internal/node/probe"
	"coracle/internal/pause"
)

// probed is the probing of one running container.
type probed struct {
	cancel context.CancelFunc
	// calm ends the probes that ask whether the container is to be restarted; stopping says that it was called, because
	// the container is being stopped. Its readiness is asked for as long as it runs, and nothing is told of the answers.
	calm     context.CancelFunc
	stopping bool
	verdict  podsync.Probes
}

// calmProbes says that a container is being stopped: how it fares is no reason any more to restart it. Call it with w.mu held.
func (w *worker) calmProbes(id string) {
	if p := w.probes[id]; p != nil && !p.stopping {
		p.stopping = true
		p.calm()
	}
}

// followProbes probes the containers that run and have probes, and only those. Call it with w.mu held.
func (w *worker) followProbes(ctx context.Context, now time.Time) {
	running := map[string]bool{}
	for i := range w.world.Containers {
		c := &w.world.Containers[i]
		if c.State != podsync.Running {
			continue
		}
		spec := specOf(w.pod, c.Name)
		if spec == nil || !hasProbes(spec) {
			continue
		}
		running[c.ID] = true
		if w.probes[c.ID] == nil && !w.startBusy(c.Name) {
			w.probe(ctx, spec, c, now)
		}
	}
	for id, p := range w.probes {
		if !running[id] {
			p.cancel()
			delete(w.probes, id)
		}
	}
}

// startBusy: a container whose postStart hook runs is not probed yet.
func (w *worker) startBusy(name string) bool {
	return w.busy[podsync.StartContainer{Name: name}.Key()] != nil
}

func hasProbes(c *corev1.Container) bool {
	return c.StartupProbe != nil || c.LivenessProbe != nil || c.ReadinessProbe != nil
}

func specOf(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

func (w *worker) stopProbes() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, p := range w.probes {
		p.cancel()
		delete(w.probes, id)
	}
}

// probe begins probing a container: startup first, the others once it has succeeded.
func (w *worker) probe(ctx context.Context, spec *corev1.Container, c *podsync.Container, now time.Time) {
	ctx, cancel := context.WithCancel(ctx)
	restarting, calm := context.WithCancel(ctx)
	p := &probed{cancel: cancel, calm: calm, verdict: w.toldBefore(c.ID)}
	w.probes[c.ID] = p
	target := w.target(spec, c)
	asked := asked{p, w.pod, spec.Name, c.ID}
	// An agent that restarts finds many containers long running: it spreads their probes.
	spread := now.Sub(c.StartedAt) > 10*time.Second
	begin := func(ctx context.Context, kind string, q *corev1.Probe, set func(ok bool) bool) {
		if q == nil {
			return
		}
		w.a.wg.Go(func() {
			if spread && !pause.For(ctx, probe.Jitter(q)) {
				return
			}
			probe.Follow(ctx, q, target, func(r probe.Report) bool { return w.report(ctx, asked, kind, r, set) })
		})
	}
	others := func() {
		begin(restarting, podsync.Liveness, spec.LivenessProbe, func(ok bool) bool {
			if !ok {
				p.verdict.Failed = podsync.Liveness
			}
			return !ok // it is stopped now
		})
		begin(ctx, readiness, spec.ReadinessProbe, func(ok bool) bool {
			p.verdict.Ready = ok
			return false
		})
	}
	if spec.StartupProbe == nil || p.verdict.Started {
		others()
		return
	}
	begin(restarting, podsync.Startup, spec.StartupProbe, func(ok bool) bool {
		if ok {
			p.verdict.Started = true
			others()
		} else {
			p.verdict.Failed = podsync.Startup
		}
		return true
	})
}

// readiness names the probe whose failure ends nothing.
const readiness = "Readiness"

// asked is the container that a probe's answer is about.
type asked struct {
	*probed
	pod      *corev1.Pod
	name, id string
}

// toldBefore takes verdicts on a container over from the status that an earlier agent published.
func (w *worker) toldBefore(id string) podsync.Probes {
	for _, list := range [][]corev1.ContainerStatus{w.pod.Status.ContainerStatuses, w.pod.Status.InitContainerStatuses} {
		for _, cs := range list {
			if podsync.BareID(cs.ContainerID) == id {
				return podsync.Probes{Started: cs.Started != nil && *cs.Started, Ready: cs.Ready}
			}
		}
	}
	return podsync.Probes{}
}

// report takes one answer in: a verdict wakes the worker only when it changes something. That a container which no longer
// runs did not answer well says nothing, and so do the answers of one that is being stopped.
func (w *worker) report(ctx context.Context, of asked, kind string, r probe.Report, set func(ok bool) bool) (stop bool) {
	if r.Unknown && r.Message == "" || !r.OK && !w.lives(ctx, of.id, r.Killed) {
		return false
	}
	w.mu.Lock()
	if of.stopping && kind != readiness || ctx.Err() != nil {
		w.mu.Unlock()
		return true
	}
	if !r.OK && !of.stopping {
		how := "failed"
		if r.Unknown {
			how = "errored"
		}
		w.a.events.Unhealthy(of.pod, of.name, kind+"Probe", fmt.Sprintf("%s probe %s: %s", kind, how, r.Message))
	}
	before := w.verdicts()
	if r.Decided {
		stop = set(r.OK)
	}
	changed := before != w.verdicts()
	w.mu.Unlock()
	if changed {
		w.nudge()
	}
	return stop
}

// lateExit is for how long a container may seem to run whose processes were killed with it.
const lateExit = 200 * time.Millisecond

// lives asks the runtime whether a container runs; killed says that the answer to its probe was ended by force. A runtime
// that does not say counts as yes.
func (w *worker) lives(ctx context.Context, id string, killed bool) bool {
	for last := !killed; ; last = true {
		res, err := w.a.cri.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		switch {
		case cri.IsNotFound(err):
			return false
		case err == nil && res.Status != nil && res.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING:
			return false
		case last || err != nil:
			return true
		case !pause.For(ctx, lateExit):
			return false
		}
	}
}

// verdicts condenses all verdicts, to see whether one has changed.
func (w *worker) verdicts() (sum struct{ started, ready, failed int }) {
	for _, p := range w.probes {
		if p.verdict.Started {
			sum.started++
		}
		if p.verdict.Ready {
			sum.ready++
		}
		if p.verdict.Failed != "" {
			sum.failed++
		}
	}
	return sum
}

func (w *worker) target(spec *corev1.Container, c *podsync.Container) probe.Target {
	t := probe.Target{ContainerID: c.ID, Ports: spec.Ports}
	if facts := w.facts(); len(facts.PodIPs) > 0 {
		t.PodIP = facts.PodIPs[0]
	}
	id := c.ID
	t.Exec = func(ctx context.Context, command []string, timeout time.Duration) (string, int32, error) {
		out, code, err := w.a.cri.Exec(ctx, id, command, timeout)
		switch {
		case err != nil && cri.IsTimeout(err):
			return "command timed out", 1, nil
		case err != nil && cri.IsUnavailable(err):
			return "", 0, probe.ErrAway
		}
		return out, code, err
	}
	return t
}
