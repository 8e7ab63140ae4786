package store

import "k8s.io/apimachinery/pkg/runtime"

// Some says whether match holds for any object whose indexed field (Resource.Index) has the value. It
// looks at those objects alone, and makes no list: it is for decisions that every request waits
// for. match is called with the collection locked and must not call it.
func (c *Collection) Some(field, value string, match func(runtime.Object) bool) bool {
	c.ensureField(field)
	valueOf := c.res.Index[field]
	durable := c.s.durable.Load()
	c.mu.RLock()
	defer c.mu.RUnlock()
	for it := range c.fields[field][value] {
		v := it.at(durable)
		if v == nil {
			continue
		}
		// The index holds past values too.
		if obj, err := c.object(it.key, v); err == nil && valueOf(obj) == value && match(obj) {
			return true
		}
	}
	return false
}
