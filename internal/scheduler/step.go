package scheduler

import (
	"context"
	"slices"
	"sync"
	"time"

	"coracle/internal/client"
	"coracle/internal/plan"
	"coracle/internal/view"
)

// Stepper is a scheduler without goroutine or clock, for simulations: the caller says when it
// decides next and when each of its effects (a binding, a condition, a preemption) happens. It is
// not safe for concurrent use.
type Stepper struct {
	s       *Scheduler
	effects []Effect
}

// Effect is something that the scheduler set going and that has not happened yet.
type Effect struct {
	serial int
	do     func(context.Context)
}

// Serial numbers effects in the order in which they were set going.
func (e Effect) Serial() int { return e.serial }

// NewStepper returns a scheduler over a view that is whole. now tells the virtual time.
func NewStepper(c client.Interface, v *view.View, tell func(plan.Event), now func() time.Time) *Stepper {
	p := &Stepper{s: New(c, v, tell)}
	p.s.now = now
	serial := 0
	p.s.spawn = func(_ context.Context, _ *sync.WaitGroup, do func(context.Context)) {
		serial++
		p.effects = append(p.effects, Effect{serial, do})
	}
	p.s.takeAll()
	return p
}

// Due says that Step has something to do.
func (p *Stepper) Due() bool {
	return p.s.pending() || len(p.effects) < binders && p.s.queue.Due(p.s.now())
}

// Step takes in what has happened and decides for at most one pod.
func (p *Stepper) Step(ctx context.Context) {
	p.s.drain(p.s.now())
	if len(p.effects) >= binders {
		return
	}
	if it := p.s.queue.Pop(p.s.now()); it != nil {
		p.s.place(ctx, it, nil)
	}
}

// Effects returns what is under way, oldest first.
func (p *Stepper) Effects() []Effect { return p.effects }

// Run lets an effect happen.
func (p *Stepper) Run(ctx context.Context, e Effect) {
	p.effects = slices.DeleteFunc(p.effects, func(o Effect) bool { return o.serial == e.serial })
	e.do(client.WithManager(ctx, "kube-scheduler"))
}

// Next is when a pod that rests may be tried; zero when none rests.
func (p *Stepper) Next() time.Time { return p.s.queue.Next() }
