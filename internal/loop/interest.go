package loop

import (
	"slices"
	"time"

	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
)

type interest struct {
	primaries []*queue
	watches   []interestedWatch
}

type interestedWatch struct {
	queue *queue
	keys  func(object.Reader, object.Object, object.Object) []object.Key
}

func (c *Core) interest(res resource.Resource) *interest {
	in := c.interests[res]
	if in == nil {
		in = &interest{}
		c.interests[res] = in
	}
	return in
}

// Resources lists the kinds the controllers need in the snapshot.
func (c *Core) Resources() []resource.Resource {
	var out []resource.Resource
	add := func(r resource.Resource) {
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	for _, q := range c.ctls {
		add(q.For)
		for _, w := range q.Watches {
			add(w.Resource)
		}
		for _, ix := range q.Indexes {
			add(ix.Resource)
		}
		for _, s := range q.Signs {
			add(s.Resource)
		}
	}
	return out
}

// Changed makes due what a change to the snapshot concerns, and frees what waited for it.
func (c *Core) Changed(r object.Reader, ch view.Change, now time.Time) {
	if ch.Revision > c.seen[ch.Resource] {
		c.seen[ch.Resource] = ch.Revision
		c.unblock(ch.Resource)
	}
	if !c.started || ch.Before == nil && ch.After == nil {
		if len(c.witness.successions[ch.Resource]) > 0 {
			c.witness.hears(ch.Resource, ch.Revision)
		}
		return
	}
	c.witness.changed(ch)
	in := c.interests[ch.Resource]
	if in == nil {
		return
	}
	obj := ch.After
	if obj == nil {
		obj = ch.Before
	}
	for _, q := range in.primaries {
		if q.Cares == nil || q.Cares(ch.Before, ch.After) {
			c.concern(c.item(q, object.KeyOf(obj)), now)
		} else if it := c.items[itemKey{q.index, object.KeyOf(obj)}]; it != nil && otherObject(ch) {
			c.concern(it, now) // what was said of the object that is gone must not be said of its successor
		}
	}
	for _, w := range in.watches {
		for _, k := range c.watchKeys(w, r, ch) {
			c.concern(c.item(w.queue, k), now)
		}
	}
}

// otherObject says that the object of a change is gone, though another one may have its name already.
func otherObject(ch view.Change) bool {
	return ch.Before != nil && (ch.After == nil || ch.After.GetUID() != ch.Before.GetUID())
}

func (c *Core) watchKeys(w interestedWatch, r object.Reader, ch view.Change) (keys []object.Key) {
	defer func() {
		if cause := recover(); cause != nil {
			c.onPanic(w.queue.Name, cause)
		}
	}()
	return w.keys(r, ch.Before, ch.After)
}
