package node

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/node/cri"
	"coracle/internal/node/podsync"
	"coracle/internal/node/probe"
)

// probed is the probing of one running container.
type probed struct {
	cancel  context.CancelFunc
	verdict podsync.Probes
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
	p := &probed{cancel: cancel, verdict: w.toldBefore(c.ID)}
	w.probes[c.ID] = p
	target := w.target(spec, c)
	pod := w.pod
	// An agent that restarts finds many containers long running: it spreads their probes.
	spread := now.Sub(c.StartedAt) > 10*time.Second
	begin := func(kind string, q *corev1.Probe, set func(ok bool) bool) {
		if q == nil {
			return
		}
		w.a.wg.Go(func() {
			if spread && !pause(ctx, probe.Jitter(q)) {
				return
			}
			probe.Follow(ctx, q, target, func(r probe.Report) bool { return w.report(pod, spec, kind, r, set) })
		})
	}
	rest := func() {
		begin("Liveness", spec.LivenessProbe, func(ok bool) bool {
			if !ok {
				p.verdict.Failed = podsync.Liveness
			}
			return false
		})
		begin("Readiness", spec.ReadinessProbe, func(ok bool) bool {
			p.verdict.Ready = ok
			return false
		})
	}
	if spec.StartupProbe == nil || p.verdict.Started {
		rest()
		return
	}
	begin("Startup", spec.StartupProbe, func(ok bool) bool {
		if ok {
			p.verdict.Started = true
			rest()
		} else {
			p.verdict.Failed = podsync.Startup
		}
		return true
	})
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

// report takes one answer in: a verdict wakes the worker only when it changes something.
func (w *worker) report(pod *corev1.Pod, spec *corev1.Container, kind string, r probe.Report, set func(ok bool) bool) (stop bool) {
	switch {
	case r.Unknown && r.Message == "":
		return false
	case r.Unknown:
		w.a.events.pod(pod, spec.Name, corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe errored: %s", kind, r.Message))
		return false
	case !r.OK:
		w.a.events.pod(pod, spec.Name, corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe failed: %s", kind, r.Message))
	}
	if !r.Decided {
		return false
	}
	w.mu.Lock()
	before := w.verdicts()
	stop = set(r.OK)
	changed := before != w.verdicts()
	w.mu.Unlock()
	if changed {
		w.tell(func() {})
	}
	return stop
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
		out, code, err := w.exec(ctx, id, command, timeout)
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
