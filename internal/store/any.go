package store

import (
	"strings"

	"k8s.io/apiserver/pkg/storage"
)

// Any says whether any object lies below key, which names a part of the collection such as a
// namespace. It makes no list.
func (c *Collection) Any(key string) bool {
	key, err := storage.PrepareKey(c.prefix, key, true)
	if err != nil {
		return false
	}
	durable := c.s.durable.Load()
	found := false
	c.mu.RLock()
	defer c.mu.RUnlock()
	c.index.ascend(key, func(it *item) bool {
		if !strings.HasPrefix(it.key, key) {
			return false
		}
		found = it.at(durable) != nil
		return !found
	})
	return found
}
