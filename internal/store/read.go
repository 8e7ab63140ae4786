package store

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

// Get implements storage.Interface.
func (c *Collection) Get(_ context.Context, key string, opts storage.GetOptions, out kruntime.Object) error {
	key, err := storage.PrepareKey(c.prefix, key, false)
	if err != nil {
		return err
	}
	if err := c.s.notOlderThan(opts.ResourceVersion); err != nil {
		return err
	}
	v := c.version(key)
	if v == nil {
		if opts.IgnoreNotFound {
			return kruntime.SetZeroValue(out)
		}
		return storage.NewKeyNotFoundError(key, 0)
	}
	obj, err := c.object(key, v)
	if err != nil {
		return storage.NewInternalError(err)
	}
	return fill(out, obj)
}

// parseRevision reads a resourceVersion that a client gives; empty and "0" are 0, which is any.
func parseRevision(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	rev, err := strconv.ParseInt(text, 10, 64)
	if err == nil && rev >= 0 {
		return rev, nil
	}
	status := apierrors.NewBadRequest(fmt.Sprintf("invalid resource version %q: give the resourceVersion of an object or a list, or none", text))
	status.ErrStatus.Details = &metav1.StatusDetails{Causes: []metav1.StatusCause{
		{Type: metav1.CauseTypeFieldValueInvalid, Field: "resourceVersion", Message: "must be a whole number that is not negative"},
	}}
	return 0, status
}

// notOlderThan refuses a minimum revision that does not exist yet.
func (s *Store) notOlderThan(minimum string) error {
	if minimum == "" {
		return nil
	}
	rev, err := parseRevision(minimum)
	if err != nil {
		return err
	}
	if now := s.durable.Load(); rev > now {
		return storage.NewTooLargeResourceVersionError(uint64(rev), uint64(now), 0)
	}
	return nil
}

// GetList implements storage.Interface.
func (c *Collection) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj kruntime.Object) error {
	p, err := c.list(ctx, key, opts)
	if err != nil {
		return err
	}
	if taker, ok := listObj.(PageTaker); ok {
		taker.TakePage(&p)
	} else if err := p.Fill(listObj); err != nil {
		return err
	}
	if err := versioner.UpdateList(listObj, uint64(p.rev), p.next, p.remaining); err != nil {
		return err
	}
	opts.Predicate.SetShardInfoOnList(listObj)
	return nil
}

// decodeHits decodes what a restart left undecoded, on all processors.
func (c *Collection) decodeHits(hits []found) {
	todo := hits[:0:0]
	for _, h := range hits {
		if u := h.v.pending; u != nil && !u.done.Load() {
			todo = append(todo, h)
		}
	}
	if len(todo) < 64 {
		return
	}
	var group sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for part := range slices.Chunk(todo, (len(todo)+workers-1)/workers) {
		group.Go(func() {
			for _, h := range part {
				_, _ = c.object(h.it.key, h.v) // the error is kept for who asks
			}
		})
	}
	group.Wait()
}

// decodeAll decodes every retained version.
func (c *Collection) decodeAll() {
	var hits []found
	c.mu.RLock()
	for _, it := range c.items {
		for v := it.head; v != nil; v = v.prev {
			if !v.dead {
				hits = append(hits, found{it, v})
			}
		}
	}
	c.mu.RUnlock()
	c.decodeHits(hits)
}

// Stats implements storage.Interface.
func (c *Collection) Stats(context.Context) (storage.Stats, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var count, bytes int64
	for _, it := range c.items {
		if v := it.at(c.s.durable.Load()); v != nil {
			count++
			bytes += int64(v.size)
		}
	}
	stats := storage.Stats{ObjectCount: count}
	if count > 0 {
		stats.EstimatedAverageObjectSizeBytes = bytes / count
	}
	return stats, nil
}

// ReadinessCheck implements storage.Interface.
func (c *Collection) ReadinessCheck() error { return c.s.Ready() }

// GetCurrentResourceVersion implements storage.Interface.
func (c *Collection) GetCurrentResourceVersion(context.Context) (uint64, error) {
	return uint64(c.s.durable.Load()), nil
}

// EnableResourceSizeEstimation implements storage.Interface: sizes are known, not estimated.
func (c *Collection) EnableResourceSizeEstimation(storage.KeysFunc) error { return nil }

// CompactRevision implements storage.Interface.
func (c *Collection) CompactRevision() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.past.floor
}
