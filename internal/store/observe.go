package store

import "k8s.io/apimachinery/pkg/runtime"

// Observe calls tell for every object that there is, with a nil before, and from then on for every change, in order, once
// it is durable and before anybody can read it or its writer is answered: what tell keeps is never older than what is
// read. after is nil when the object is gone. Both are shared and must not be changed.
//
// tell runs in the goroutine that commits: it must be quick, and must not call the store. Observe is for before the
// first write, and for one observer a collection; it fails on an object that cannot be read.
func (c *Collection) Observe(tell func(before, after runtime.Object)) error {
	c.decodeAll()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, it := range c.items {
		v := it.at(c.s.durable.Load())
		if v == nil {
			continue
		}
		obj, err := c.object(it.key, v)
		if err != nil {
			return err
		}
		tell(nil, obj)
	}
	c.observer.Store(&tell)
	return nil
}

// observe tells the observers of a durable batch.
func (b *batch) observe() {
	for _, ch := range b.changes {
		tell := ch.c.observer.Load()
		if tell == nil {
			continue
		}
		var before, after runtime.Object
		if ch.prev != nil {
			before, _ = ch.c.object(ch.it.key, ch.prev)
		}
		if !ch.cur.dead {
			after, _ = ch.c.object(ch.it.key, ch.cur)
		}
		(*tell)(before, after)
	}
}
