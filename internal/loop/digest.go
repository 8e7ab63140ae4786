package loop

import (
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Digest is told what bears on what comes next, for whoever asks whether two states are the same.
type Digest struct {
	// Put takes one fact; facts come in no order.
	Put func(parts ...any)
	// Lacks says how many of the changes that the snapshot of a kind lacks are no newer than a revision: revisions
	// themselves differ between states that are the same but for the order in which they came about.
	Lacks func(resource.Resource, uint64) int
	// Sum stands for what an object is, but for its revision.
	Sum func(object.Object) uint64
	// Newest says whether an object is still at a revision, as conditional writes ask.
	Newest func(ref object.Ref, resourceVersion string) bool
}

// Digest tells what the core will do next: its items with their timers, and what it has witnessed.
func (c *Core) Digest(d Digest) {
	for key, it := range c.items {
		d.Put("item", key.ctl, key.key, it.state, it.dirty, it.wanted.UnixNano(), it.at.UnixNano(), it.failures, it.stales, it.failure != nil, d.lacking(it.expects))
	}
	w := c.witness
	w.mu.RLock()
	defer w.mu.RUnlock()
	for s, p := range w.parted {
		d.Put("parted", s.resource.Plural, s.key, p.UID, p.At, w.deleting[p.UID])
	}
	for uid, by := range w.deleting {
		d.Put("deleting", uid, by)
	}
}

// lacking is what the snapshot lacks of some writes.
func (d Digest) lacking(writes []Write) (n int) {
	for _, w := range writes {
		n = 31*n + d.Lacks(w.Resource, w.Revision)
	}
	return n
}

// Digest tells how far the pass is and what it is still to do.
func (p *Pass) Digest(d Digest) {
	of := p.task.Controller.Name
	d.Put("pass", of, p.task.Key, p.stage, p.batch, p.next, p.failed != nil, p.quiet, p.retry, p.stale, p.again, d.lacking(newest(p.writes)))
	for i, a := range p.decision.Plan.Actions {
		if i >= p.next {
			d.action(of, p.task.Key, i, a)
		}
	}
	if s := p.decision.Plan.Status; s != nil {
		d.Put("status", of, p.task.Key, d.Sum(s), d.Newest(object.RefOf(s), s.GetResourceVersion()))
	}
	d.Put("again", of, p.task.Key, p.decision.Plan.Again.UnixNano())
}

func (d Digest) action(of string, key object.Key, i int, a plan.Action) {
	ref := a.Target()
	switch a := a.(type) {
	case plan.Create:
		d.Put("create", of, key, i, d.Sum(a.Object))
	case plan.Update:
		d.Put("update", of, key, i, a.Subresource, d.Sum(a.Object), d.Newest(ref, a.Object.GetResourceVersion()))
	case plan.Delete:
		d.Put("delete", of, key, i, ref.Resource.Plural, ref.Key, ref.UID, a.ResourceVersion == "" || d.Newest(ref, a.ResourceVersion))
	case plan.Evict:
		d.Put("evict", of, key, i, ref.Key, ref.UID)
	}
}
