package store

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

// Collection holds the objects of one resource. It implements storage.Interface; keys are the
// caller's and start with the resource's prefix.
type Collection struct {
	s      *Store
	res    Resource
	prefix string // of every key, with a slash at its end

	mu     sync.RWMutex // after watchMu, before that of the containers (Within) and Store.mu
	items  map[string]*item
	index  keyIndex
	fields map[string]fieldIndex // built on first use, kept current after
	past   history

	average average

	observer atomic.Pointer[func(before, after runtime.Object)]

	watchMu   sync.Mutex
	watches   router
	itemCount atomic.Int64 // how many items there were at the last delivery
}

var _ storage.Interface = (*Collection)(nil)

func newCollection(s *Store, res Resource) *Collection {
	return &Collection{s: s, res: res, prefix: res.Prefix + "/", items: map[string]*item{}, watches: newRouter(res.Index)}
}

// Object returns the stored object at key, shared: it must not be changed.
func (c *Collection) Object(key string) (runtime.Object, error) {
	key, err := storage.PrepareKey(c.prefix, key, false)
	if err != nil {
		return nil, err
	}
	v := c.version(key)
	if v == nil {
		return nil, storage.NewKeyNotFoundError(key, 0)
	}
	return c.object(key, v)
}

// Objects is GetList for in-process readers: it returns the stored objects themselves, which
// must not be changed, in key order, and the revision of the list.
func (c *Collection) Objects(ctx context.Context, key string, opts storage.ListOptions) ([]runtime.Object, int64, error) {
	p, err := c.list(ctx, key, opts)
	objects := make([]runtime.Object, p.Len())
	for i := range objects {
		objects[i] = p.At(i)
	}
	return objects, p.rev, err
}

// version returns the durable state of key.
func (c *Collection) version(key string) *version {
	c.mu.RLock()
	defer c.mu.RUnlock()
	it := c.items[key]
	if it == nil {
		return nil
	}
	return it.at(c.s.durable.Load())
}

// newest returns the state of key that a write builds on: the newest, durable or not.
func (c *Collection) newest(key string) *version {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.items[key].latest()
}

// fieldIndex finds items by a field's value. It holds an item under every value that one of its
// retained versions has, so that it serves past revisions too; readers check what they find.
type fieldIndex map[string]map[*item]int

func (x fieldIndex) add(value string, it *item) {
	m := x[value]
	if m == nil {
		m = map[*item]int{}
		x[value] = m
	}
	m[it]++
}

func (x fieldIndex) drop(value string, it *item) {
	m := x[value]
	if m[it]--; m[it] <= 0 {
		delete(m, it)
	}
	if len(m) == 0 {
		delete(x, value)
	}
}

// indexVersion and unindexVersion keep the field indexes in step with the retained versions.
// Both need c.mu held for writing.
func (c *Collection) indexVersion(it *item, v *version) {
	for field, x := range c.fields {
		if obj, err := c.object(it.key, v); err == nil && !v.dead {
			x.add(c.res.Index[field](obj), it)
		}
	}
}

func (c *Collection) unindexVersion(it *item, v *version) {
	for field, x := range c.fields {
		if obj, err := c.object(it.key, v); err == nil && !v.dead {
			x.drop(c.res.Index[field](obj), it)
		}
	}
}

// ensureField builds the index of a field when it is first asked for.
func (c *Collection) ensureField(field string) {
	c.mu.RLock()
	_, ok := c.fields[field]
	c.mu.RUnlock()
	if ok {
		return
	}
	c.decodeAll()
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.fields[field]; ok {
		return
	}
	x := fieldIndex{}
	for _, it := range c.items {
		for v := it.head; v != nil; v = v.prev {
			if obj, err := c.object(it.key, v); err == nil && !v.dead {
				x.add(c.res.Index[field](obj), it)
			}
		}
	}
	if c.fields == nil {
		c.fields = map[string]fieldIndex{}
	}
	c.fields[field] = x
}

// bucket is the part of a key by which records wait for their collection.
func bucket(key string) string {
	rest := strings.TrimPrefix(key, "/")
	first := strings.IndexByte(rest, '/')
	if first < 0 {
		return key
	}
	second := strings.IndexByte(rest[first+1:], '/')
	if second < 0 {
		return key[:len(key)-len(rest)+first]
	}
	return key[:len(key)-len(rest)+first+1+second]
}
