package store

import (
	"context"
	"sync/atomic"

	"k8s.io/apiserver/pkg/storage"
)

// average is about how many bytes an object of a collection has in its stored form.
type average struct {
	// size is in bytes; items and revision are how many objects there were, and when, as it was computed.
	size, items, revision atomic.Int64
}

// Weight tells how many objects lie below key, at most limit of them (0 is all), and about how many bytes they have in
// their stored form. It looks at no object unless a good part of the collection has changed since it last did.
func (c *Collection) Weight(key string, limit int64) (objects, bytes int64) {
	key, err := storage.PrepareKey(c.prefix, key, true)
	if err != nil {
		return 0, 0
	}
	c.mu.RLock()
	objects = int64(c.index.count(key, prefixEnd(key)))
	items := int64(len(c.items))
	c.mu.RUnlock()
	if limit > 0 {
		objects = min(objects, limit)
	}
	if objects == 0 {
		return 0, 0
	}
	return objects, objects * c.averageSize(items)
}

func (c *Collection) averageSize(items int64) int64 {
	now := c.s.durable.Load()
	before := c.average.items.Load()
	changed := max(now-c.average.revision.Load(), items-before, before-items)
	if size := c.average.size.Load(); size > 0 && changed <= max(64, items/2) {
		return size
	}
	stats, err := c.Stats(context.Background())
	if err != nil || stats.ObjectCount == 0 {
		return 0
	}
	c.average.size.Store(stats.EstimatedAverageObjectSizeBytes)
	c.average.items.Store(items)
	c.average.revision.Store(now)
	return stats.EstimatedAverageObjectSizeBytes
}
