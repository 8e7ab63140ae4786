package sim

import (
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/client"
	"coracle/internal/loop"
	"coracle/internal/plan"
)

// pass is a pass of the loop that is under way: Loop.pass, cut into steps.
type pass struct {
	task    loop.Task
	plan    plan.Plan
	run     *loop.Pass
	exists  bool
	batch   []plan.Action
	results []loop.Result
	// left are the actions of the batch that were not carried out yet.
	left []int
	told []plan.Event
	// status says that the actions are over and the status is to be written.
	status   bool
	replayed bool
}

func taskEvent(does string, t loop.Task) Event {
	return Event{Does: does, Who: t.Controller.Name, Kind: t.Controller.For.Plural, Key: t.Key}
}

// begin makes a decision.
func (w *World) begin(t loop.Task) {
	t, ok := w.core.Take(t)
	if !ok {
		return
	}
	p := &pass{task: t}
	if !w.decide(p) {
		return
	}
	w.violate(w.checks.plan(w.control.view, t.Controller, t.Key, p.plan, w.now))
	p.run = loop.Begin(t, p.plan)
	w.passes = append(w.passes, p)
	w.advance(p)
}

func (w *World) decide(p *pass) bool {
	_, p.exists = w.control.view.Get(p.task.Controller.For, p.task.Key.Namespace, p.task.Key.Name)
	var err error
	if p.plan, err = loop.Decide(p.task, w.control.view, w.now, w.core.Witness()); err != nil {
		w.violate(fmt.Errorf("panic: %w", err))
		w.core.Done(p.task, loop.Outcome{Retry: true}, w.now)
		return false
	}
	return true
}

// advance goes on to the next batch, the status, or the end.
func (w *World) advance(p *pass) {
	if p.batch = p.run.Next(); p.batch != nil {
		p.results = make([]loop.Result, len(p.batch))
		p.left = p.left[:0]
		for i := range p.batch {
			p.left = append(p.left, i)
		}
		return
	}
	if f := p.run.Failure(); f != nil && !p.replayed {
		p.replayed = true
		p.task.Last = f
		if !w.decide(p) {
			w.drop(p)
			return
		}
		p.run.Instead(p.plan)
		p.told = p.plan.Events
	}
	if p.run.Status() != nil {
		p.status = true
		return
	}
	w.finish(p)
}

// apply carries out one action of a batch, or writes the status.
func (w *World) apply(p *pass, nth int) {
	w.as(p.task.Controller.Name, func() {
		ctx := client.WithManager(w.ctx, p.task.Controller.Name)
		if p.status {
			s := p.run.Status()
			o, err := w.cluster.Update(ctx, s, "status")
			if apierrors.IsConflict(err) {
				o = loop.Live(ctx, w.cluster, plan.RefOf(s))
			}
			p.run.ReportStatus(loop.Result{Object: o, Err: err}, w.now)
			w.finish(p)
			return
		}
		i := p.left[nth]
		p.left = slices.Delete(p.left, nth, nth+1)
		a := w.mutation.action(p.batch[i])
		w.checks.applying(a)
		p.results[i] = loop.Apply(ctx, w.cluster, a)
		if len(p.left) == 0 {
			p.run.Report(p.batch, p.results, w.now)
			w.advance(p)
		}
	})
}

func (w *World) finish(p *pass) {
	out := p.run.Outcome(p.plan, p.told, !p.exists)
	w.mutation.outcome(p.task, &out)
	w.core.Done(p.task, out, w.now)
	w.drop(p)
}

func (w *World) drop(p *pass) {
	w.passes = slices.DeleteFunc(w.passes, func(o *pass) bool { return o == p })
}
