package sim

import (
	"fmt"
	"slices"

	"coracle/internal/client"
	"coracle/internal/loop"
)

// pass is a pass of the loop that is under way, with what is left of its present step.
type pass struct {
	task    loop.Task
	run     *loop.Pass
	step    loop.Step
	results []loop.Result
	// left are the actions of the step that were not carried out yet.
	left []int
}

// writesStatus says that the actions are over and the status is to be written.
func (p *pass) writesStatus() bool { return p.step.Status != nil }

func taskEvent(does string, t loop.Task) Event {
	return Event{Does: does, Who: t.Controller.Name, Kind: t.Controller.For.Plural, Key: t.Key}
}

// begin makes a decision.
func (w *World) begin(t loop.Task) {
	t, ok := w.core.Take(t)
	if !ok {
		return
	}
	p := &pass{task: t, run: loop.Begin(t, w.decide)}
	w.violate(w.checks.plan(w.control.view, t.Controller, t.Key, p.run.Plan(), w.now))
	w.passes = append(w.passes, p)
	w.advance(p)
}

func (w *World) decide(t loop.Task) loop.Decision {
	d := loop.Decide(t, w.control.view, w.now, w.core.Witness())
	if d.Panic != nil {
		w.violate(fmt.Errorf("panic: %w", d.Panic))
	}
	return d
}

// advance goes on to the next step, or the end.
func (w *World) advance(p *pass) {
	p.step = p.run.Next()
	p.results = make([]loop.Result, len(p.step.Actions))
	p.left = p.left[:0]
	for i := range p.step.Actions {
		p.left = append(p.left, i)
	}
	if p.step.Over() {
		w.finish(p)
	}
}

// apply carries out one action of a step, or writes the status.
func (w *World) apply(p *pass, nth int) {
	w.as(p.task.Controller.Name, func() {
		ctx := client.WithManager(w.ctx, p.task.Controller.Name)
		if p.writesStatus() {
			p.results = []loop.Result{loop.WriteStatus(ctx, w.cluster, p.step.Status)}
		} else {
			i := p.left[nth]
			p.left = slices.Delete(p.left, nth, nth+1)
			a := w.mutation.action(p.step.Actions[i])
			w.checks.applying(a)
			p.results[i] = loop.Apply(ctx, w.cluster, a)
		}
		if len(p.left) == 0 {
			p.run.Done(p.results, w.now)
			w.advance(p)
		}
	})
}

func (w *World) finish(p *pass) {
	out := p.run.Outcome()
	w.mutation.outcome(p.task, &out)
	w.core.Done(p.task, out, w.now)
	w.passes = slices.DeleteFunc(w.passes, func(o *pass) bool { return o == p })
}
