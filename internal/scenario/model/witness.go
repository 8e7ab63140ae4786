package model

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

type sighting struct {
	resource resource.Resource
	key      object.Key
}

// steady is the time on a clock that nothing sets.
func (w *World) steady() time.Duration { return w.Now.Sub(w.began) - w.set }

// witness notes a sign, if a change is one.
func (w *World) witness(res resource.Resource, before, after object.Object) {
	for _, s := range w.signs[res] {
		if s.Given(before, after) {
			w.seen[sighting{res, object.KeyOf(after)}] = w.steady()
		}
	}
}

// Last implements plan.Signs.
func (w *World) Last(res resource.Resource, key object.Key) (time.Duration, bool) {
	at, ok := w.seen[sighting{res, key}]
	return at, ok
}

// Parted implements plan.Partings.
func (w *World) Parted(res resource.Resource, key object.Key) (plan.Parting, bool) {
	p, ok := w.parted[sighting{res, key}]
	return p, ok && w.steady()-p.At < plan.Recall
}

// Witness is what the world's watcher has seen.
func (w *World) Witness() plan.Witness {
	return plan.Witness{Now: w.steady(), Awake: w.awake, Signs: w, Partings: w}
}

// Restart makes the watcher forget all that it saw, as a new server's has seen nothing yet.
func (w *World) Restart() {
	w.seen, w.parted, w.deleting = map[sighting]time.Duration{}, map[sighting]plan.Parting{}, map[types.UID]string{}
	w.awake = w.steady()
}

// Stop lets time pass in which the watcher is stopped, as by SIGSTOP: all clocks go on.
func (w *World) Stop(d time.Duration) {
	w.Now = w.Now.Add(d)
	w.awake = w.steady()
}

// Set moves the time of day alone, forward or back: the machine was suspended, or its clock was set.
func (w *World) Set(d time.Duration) {
	w.Now = w.Now.Add(d)
	w.set += d
	w.awake = w.steady()
}
