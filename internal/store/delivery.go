package store

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// delivery is a change on its way to watchers. What several watchers need is made once: the
// removed object with its last revision, and the wrappers that cache encodings.
type delivery struct {
	*change
	mu      sync.Mutex
	removed runtime.Object
	wrapped [2]*cached // current, removed
}

// current returns the object after the change.
func (d *delivery) current(shared bool) (runtime.Object, error) {
	obj, err := d.c.object(d.it.key, d.cur)
	if err != nil || shared {
		return obj, err
	}
	return d.wrap(0, obj), nil
}

// gone returns the object before the change, with the revision of the change: what a DELETED event carries.
func (d *delivery) gone(shared bool) (runtime.Object, error) {
	before, err := d.c.object(d.it.key, d.prev)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	if d.removed == nil {
		d.removed, err = removedAt(before, d.cur.rev)
	}
	obj := d.removed
	d.mu.Unlock()
	if err != nil || shared {
		return obj, err
	}
	return d.wrap(1, obj), nil
}

func (d *delivery) wrap(i int, obj runtime.Object) runtime.Object {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wrapped[i] == nil {
		d.wrapped[i] = newCached(obj)
	}
	return d.wrapped[i]
}

// object is a typed API object.
type object interface {
	runtime.Object
	v1.Object
}

// cached wraps a shared object for the API server's encoders: they get a shallow copy to set the
// kind on, and each encoding is made once for all watchers.
type cached struct {
	v1.Object // metadata of the shared object; setters panic by the rule that nobody calls them
	obj       object
	solo      bool // has one watcher: nothing to cache for

	mu        sync.Mutex
	encodings map[runtime.Identifier]*encoding
}

type encoding struct {
	once sync.Once
	data []byte
	err  error
}

var _ runtime.CacheableObject = (*cached)(nil)

func newCached(obj runtime.Object) *cached {
	o := obj.(object) // checked by compose and decode: meta.Accessor took it
	return &cached{Object: o, obj: o}
}

// CacheEncode implements runtime.CacheableObject.
func (o *cached) CacheEncode(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	if o.solo {
		return encode(o.GetObject(), w)
	}
	o.mu.Lock()
	e := o.encodings[id]
	if e == nil {
		if o.encodings == nil {
			o.encodings = map[runtime.Identifier]*encoding{}
		}
		e = &encoding{}
		o.encodings[id] = e
	}
	o.mu.Unlock()
	e.once.Do(func() {
		var buf bytes.Buffer
		e.err = encode(o.GetObject(), &buf)
		e.data = buf.Bytes()
	})
	if e.err != nil {
		return e.err
	}
	_, err := w.Write(e.data)
	return err
}

// GetObject implements runtime.CacheableObject.
func (o *cached) GetObject() runtime.Object { return shallow(o.obj) }

// GetObjectKind implements runtime.Object.
func (o *cached) GetObjectKind() schema.ObjectKind { return fixedKind{o.obj.GetObjectKind()} }

// DeepCopyObject implements runtime.Object.
func (o *cached) DeepCopyObject() runtime.Object { return newCached(o.obj.DeepCopyObject()) }

// fixedKind keeps callers from writing a kind into a shared object.
type fixedKind struct{ schema.ObjectKind }

func (k fixedKind) SetGroupVersionKind(gvk schema.GroupVersionKind) {
	if gvk != k.GroupVersionKind() {
		panic(fmt.Sprintf("store: set kind %v on a shared object", gvk))
	}
}
