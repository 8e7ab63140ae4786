package virtual

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/loop"
	"coracle/internal/plan"
)

// decide makes one decision and carries it out to its end.
func (c *Cluster) decide(t loop.Task) {
	c.decisions++
	_, exists := c.picture.Get(t.Controller.For, t.Key.Namespace, t.Key.Name)
	p, err := loop.Decide(t, c.picture, c.now, c.core.Witness())
	if err != nil {
		c.core.Done(t, panicked(err), c.now)
		return
	}
	run := loop.Begin(t, p)
	for batch := run.Next(); batch != nil; batch = run.Next() {
		results := make([]loop.Result, len(batch))
		for i, a := range batch {
			c.as(t.Controller.Name, a.Reason(), func(ctx context.Context) { results[i] = loop.Apply(ctx, c.api, a) })
			c.refused(t.Controller.Name, a.Target(), loop.Forgive(a, results[i].Err))
		}
		run.Report(batch, results, c.now)
	}
	var told []plan.Event
	if f := run.Failure(); f != nil {
		t.Last = f
		if p, err = loop.Decide(t, c.picture, c.now, c.core.Witness()); err != nil {
			c.core.Done(t, panicked(err), c.now)
			return
		}
		run.Instead(p)
		told = p.Events
	}
	if s := run.Status(); s != nil {
		c.as(t.Controller.Name, "", func(ctx context.Context) {
			o, err := c.api.Update(ctx, s, "status")
			if apierrors.IsConflict(err) {
				o = loop.Live(ctx, c.api, plan.RefOf(s))
			}
			run.ReportStatus(loop.Result{Object: o, Err: err}, c.now)
		})
	}
	c.core.Done(t, run.Outcome(p, told, !exists), c.now)
}

func panicked(err error) loop.Outcome {
	return err.(*loop.PlannerPanic).Outcome() //nolint:errorlint,forcetypeassert // Decide returns no other
}

// refused tells of an answer that a user would want to hear of.
func (c *Cluster) refused(by string, ref plan.Ref, err error) {
	if err == nil || apierrors.IsConflict(err) || c.cfg.Refused == nil {
		return
	}
	c.cfg.Refused(Refusal{c.now, by, ref, err})
}
