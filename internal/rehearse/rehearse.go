// Package rehearse tries changes on a copy of a cluster, in virtual time, and tells what would happen.
//
// It owns the changes, the assumptions about pods that nobody has seen yet, the end of a rehearsal, and the report with
// its timeline. It is given the cluster's objects and the objects to apply as the API would store them, and reaches no
// cluster itself. It refuses decisions: those are production's, run by package virtual, whose next event is always the earliest.
package rehearse

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/quota"
	"coracle/internal/resource"
	"coracle/internal/virtual"
	"coracle/internal/why"
)

// Input is what a rehearsal depends on: the same input gives the same report.
type Input struct {
	// Start is the first instant; it is cut to whole seconds.
	Start   time.Time
	Objects []object.Object
	Changes []Change
	// Namespace is the one whose objects are named without it.
	Namespace string
	// ReadyAfter and StopAfter, when set, override what is assumed of pods.
	ReadyAfter, StopAfter *time.Duration
	// Within is the longest time to look ahead.
	Within time.Duration
	// Verbose records every write.
	Verbose bool
	// Notes are told with the report.
	Notes []string
}

// run is a rehearsal under way.
type run struct {
	in      Input
	world   *world
	assumed *assumptions
	record  *recorder
	drains  []*drain
}

// Rehearse runs the changes to their end. An error says that the question cannot be answered.
func Rehearse(in Input) (*Report, error) {
	r, err := play(in)
	if err != nil {
		return nil, err
	}
	return r.report(), nil
}

// play runs the changes to their end.
func play(in Input) (*run, error) {
	in.Start = in.Start.Truncate(time.Second)
	r := &run{in: in, assumed: observe(in)}
	if err := r.check(); err != nil {
		return nil, err
	}
	failed := map[string]bool{}
	for _, ch := range in.Changes {
		if ch.Verb == Fail {
			failed[ch.Ref.Name] = true
		}
	}
	r.record = newRecorder(r)
	r.world = copied(in.Start, in.Objects, failed, r.assumed.behavior, virtual.Hooks{Wrote: r.record.wrote, Refused: r.record.refused})
	// What goes on in the cluster by itself comes first: it is not the changes' doing.
	if err := r.world.settle(); err != nil {
		return nil, err
	}
	r.record.begin()
	for _, ch := range in.Changes {
		if err := r.start(ch); err != nil {
			return nil, err
		}
	}
	return r, r.toTheEnd()
}

// check finds objects that are not there.
func (r *run) check() error {
	if len(r.in.Changes) == 0 {
		return errors.New("nothing to rehearse")
	}
	there := map[object.Ref]object.Object{}
	for _, o := range r.in.Objects {
		there[object.Ref{Resource: resource.Of(o), Key: object.KeyOf(o)}] = o
	}
	has := func(ref object.Ref) (object.Object, bool) { o, ok := there[ref]; return o, ok }
	for _, ch := range r.in.Changes {
		if err := ch.check(has); err != nil {
			return err
		}
		if ch.Verb == Apply {
			there[object.Ref{Resource: ch.Ref.Resource, Key: ch.Ref.Key}] = ch.Object
		}
	}
	return nil
}

// start does one change. What a quota refuses of it is told in the report.
func (r *run) start(ch Change) error {
	r.record.asked[place{ch.Ref.Resource, ch.Ref.Key}] = ch
	if ch.Verb == Fail {
		r.record.say(resource.Nodes.Kind, "", "node/"+ch.Ref.Name, "loses its power", true)
		return nil
	}
	err := r.world.do(func(ctx context.Context, api client.Interface) error { return ch.do(ctx, api, r.world.Now()) })
	if err != nil {
		if _, quotas := quota.RefusalIn(err); !quotas {
			return fmt.Errorf("%s %s: %w", ch.Verb, shortName(ch.Ref), err)
		}
		r.record.refused(virtual.Refusal{At: r.world.Now(), By: virtual.User, Ref: ch.Ref, Err: err})
		r.record.failed = append(r.record.failed, err.Error())
	}
	if ch.Verb == Drain {
		d := &drain{node: ch.Ref.Name, run: r}
		for _, pod := range d.barePods() {
			r.record.notes = append(r.record.notes, fmt.Sprintf("pod %s on %s has no controller: kubectl drain takes it only with --force, and nobody makes it again", pod, d.node))
		}
		r.drains = append(r.drains, d)
		d.try()
		d.look()
	}
	return nil
}

// toTheEnd runs until nothing is due any more, or for as long as is looked ahead.
func (r *run) toTheEnd() error {
	end := r.in.Start.Add(r.in.Within)
	for {
		if err := r.world.settle(); err != nil {
			return err
		}
		for _, d := range r.drains {
			d.look()
		}
		r.record.instant()
		next, ok := r.world.next()
		if !ok || next.After(end) {
			return nil
		}
		r.world.Advance(next)
	}
}

// said translates what the loop remembers.
func (r *run) said(res resource.Resource, key object.Key) []why.Word {
	var words []why.Word
	for _, x := range r.world.Said(res, key) {
		words = append(words, why.Word{Controller: x.Controller, Why: x.Why, Failure: x.Failure})
	}
	return words
}

// tally counts nodes and pods at the start.
func (in Input) tally() (nodes, pods int) {
	for _, o := range in.Objects {
		switch o.(type) {
		case *corev1.Node:
			nodes++
		case *corev1.Pod:
			pods++
		}
	}
	return nodes, pods
}
