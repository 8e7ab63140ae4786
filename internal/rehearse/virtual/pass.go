package virtual

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/loop"
	"coracle/internal/object"
)

// decide makes one decision and carries it out to its end.
func (c *Cluster) decide(t loop.Task) {
	c.decisions++
	run := loop.Begin(t, func(t loop.Task) loop.Decision { return loop.Decide(t, c.picture, c.now, c.core.Witness()) })
	for step := run.Next(); !step.Over(); step = run.Next() {
		run.Done(c.carryOut(t, step), c.now)
	}
	c.core.Done(t, run.Outcome(), c.now)
}

// carryOut carries one step of a pass out.
func (c *Cluster) carryOut(t loop.Task, step loop.Step) []loop.Result {
	var results []loop.Result
	for _, a := range step.Actions {
		var r loop.Result
		c.as(t.Controller.Name, a.Reason(), func(ctx context.Context) { r = loop.Apply(ctx, c.api, a) })
		c.refused(t.Controller.Name, a.Target(), loop.Forgive(a, r.Err))
		results = append(results, r)
	}
	if step.Status != nil {
		c.as(t.Controller.Name, "", func(ctx context.Context) {
			results = append(results, loop.WriteStatus(ctx, c.api, step.Status))
		})
	}
	return results
}

// refused tells of an answer that a user would want to hear of.
func (c *Cluster) refused(by string, ref object.Ref, err error) {
	if err == nil || apierrors.IsConflict(err) || c.cfg.Refused == nil {
		return
	}
	c.cfg.Refused(Refusal{c.now, by, ref, err})
}
