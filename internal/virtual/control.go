package virtual

import (
	"context"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scheduler"
	"coracle/internal/view"
)

// Pass is a pass of the loop that is under way, with what is left of its present step.
type Pass struct {
	Task    loop.Task
	run     *loop.Pass
	step    loop.Step
	results []loop.Result
	// left are the actions of the step that were not carried out yet.
	left []int
	// acted says that something was carried out.
	acted bool
}

// Midway says that some of it is done, and not all.
func (p *Pass) Midway() bool { return p.acted }

// Left is in how many ways the pass can go on: which of its actions is carried out next.
func (p *Pass) Left() int { return max(1, len(p.left)) }

// workers is how many passes of one controller may be under way.
const workers = 16

func (c *Cluster) restartControl(revision uint64) {
	core := loop.NewCore(c.cfg.Controllers, workers)
	core.OnPanic(func(name string, cause any) { c.panicked("panic: a watch of %s: %v", name, cause) })
	v := view.New()
	for _, ctl := range c.cfg.Controllers {
		v.AddIndexes(ctl.Indexes...)
		v.AddSummaries(ctl.Summaries...)
		v.AddDigests(ctl.Digests...)
	}
	c.core = core
	c.control = c.follow("loop", v, core.Resources(), revision, func(ch view.Change) { core.Changed(v, ch, c.now) })
	core.Pass(c.now.Sub(c.cfg.Start))
	core.Woke()
	core.Start(v)
}

// forever is past the end of any rehearsal.
const forever = 10 * 365 * 24 * time.Hour

// Vouch has the controllers take it that they have watched for very long, and that they hear of the living machines for
// as long as the cluster lasts and of the dying up to now: without heartbeats, which cost.
func (c *Cluster) Vouch(living, dying []string) {
	c.core.Awake(-forever)
	for _, name := range living {
		c.core.Saw(resource.Nodes, object.Key{Name: name}, forever)
	}
	for _, name := range dying {
		c.core.Saw(resource.Nodes, object.Key{Name: name}, c.now.Sub(c.cfg.Start))
	}
}

// Pending are the decisions that could be made now.
func (c *Cluster) Pending() []loop.Task { return c.core.Pending() }

// Begin makes one of them.
func (c *Cluster) Begin(t loop.Task) {
	if t, ok := c.core.Take(t); ok {
		c.start(t)
	}
}

// Decide makes the decision whose turn it is and carries it out to its end; false when none is due.
func (c *Cluster) Decide() bool {
	t, ok := c.core.Next()
	if ok {
		for p := c.start(t); !p.step.Over(); {
			c.Apply(p, 0)
		}
	}
	return ok
}

func (c *Cluster) start(t loop.Task) *Pass {
	c.effort++
	p := &Pass{Task: t, run: loop.Begin(t, c.decide)}
	if c.cfg.Decided != nil {
		c.cfg.Decided(t, p.run.Plan())
	}
	c.passes = append(c.passes, p)
	c.advance(p)
	return p
}

func (c *Cluster) decide(t loop.Task) (d loop.Decision) {
	c.control.view.Read(func(r object.Reader) { d = loop.Decide(t, r, c.now, c.core.Witness()) })
	if d.Panic != nil {
		c.panicked("panic: %w", d.Panic)
	}
	return d
}

// Passes are those that are under way.
func (c *Cluster) Passes() []*Pass { return c.passes }

// advance goes on to the next step, or the end.
func (c *Cluster) advance(p *Pass) {
	p.step = p.run.Next()
	p.results = make([]loop.Result, len(p.step.Actions))
	p.left = p.left[:0]
	for i := range p.step.Actions {
		p.left = append(p.left, i)
	}
	if p.step.Over() {
		c.finish(p)
	}
}

// Apply carries out one of the actions that are left of a pass, or writes its status.
func (c *Cluster) Apply(p *Pass, nth int) {
	by := p.Task.Controller.Name
	p.acted = true
	if p.step.Status != nil {
		if c.cfg.Stating != nil {
			c.cfg.Stating(by, p.step.Status)
		}
		c.as(by, "", func(ctx context.Context) {
			p.results = []loop.Result{loop.WriteStatus(ctx, c.api, p.step.Status)}
		})
	} else {
		i := p.left[nth]
		p.left = slices.Delete(p.left, nth, nth+1)
		p.results[i] = c.carryOut(by, p.step.Actions[i])
	}
	if len(p.left) == 0 {
		p.run.Done(p.results, c.now)
		c.advance(p)
	}
}

func (c *Cluster) carryOut(by string, a plan.Action) (r loop.Result) {
	if c.cfg.Action != nil {
		a = c.cfg.Action(a)
	}
	if c.cfg.Applying != nil {
		c.cfg.Applying(by, a)
	}
	c.as(by, a.Reason(), func(ctx context.Context) { r = loop.Apply(ctx, c.api, a) })
	if err := loop.Forgive(a, r.Err); err != nil && !apierrors.IsConflict(err) && c.cfg.Refused != nil {
		c.cfg.Refused(Refusal{c.now, by, a.Target(), err})
	}
	return r
}

func (c *Cluster) finish(p *Pass) {
	out := p.run.Outcome()
	if c.cfg.Outcome != nil {
		c.cfg.Outcome(p.Task, &out)
	}
	c.core.Done(p.Task, out, c.now)
	c.passes = slices.DeleteFunc(c.passes, func(o *Pass) bool { return o == p })
}

// Said returns what the controllers said last about an object.
func (c *Cluster) Said(res resource.Resource, key object.Key) []loop.Explanation {
	return c.core.Why(res, key)
}

// Placing says that the scheduler has something to do.
func (c *Cluster) Placing() bool { return c.stepper.Due() }

// Place has the scheduler take in what has happened and decide for at most one pod.
func (c *Cluster) Place() { c.stepper.Step(context.Background()) }

// Effects are what the scheduler has set going, oldest first.
func (c *Cluster) Effects() []scheduler.Effect { return c.stepper.Effects() }

// Carry lets an effect happen.
func (c *Cluster) Carry(e scheduler.Effect) {
	c.as(Scheduler, "", func(ctx context.Context) { c.stepper.Run(ctx, e) })
}
