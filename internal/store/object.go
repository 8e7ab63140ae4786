package store

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// version is one state of one key. All but prev is fixed once it is linked; prev is guarded by
// the collection's lock and cut when the past is dropped.
type version struct {
	rev     int64
	obj     runtime.Object // nil when dead, or not decoded yet
	pending *undecoded
	dead    bool
	undone  bool // guarded by the collection's lock: the log failed
	size    int
	sum     uint64
	labels  signature // nothing while pending is not nil
	expires int64     // Unix seconds, 0 is never
	prev    *version
}

// undecoded is the state of a version read from disk until somebody looks at it: a restart does
// not decode what nobody asks for.
type undecoded struct {
	once sync.Once
	done atomic.Bool
	raw  []byte
	obj  runtime.Object
	sum  uint64
	err  error

	labels signature
}

// item is a key with its retained versions, newest first.
type item struct {
	key  string
	head *version
}

// at returns the state of the key at rev, nil when there was none.
func (it *item) at(rev int64) *version {
	v := it.head
	for v != nil && v.rev > rev {
		v = v.prev
	}
	if v == nil || v.dead {
		return nil
	}
	return v
}

// latest returns the newest state, durable or not; nil when there is none.
func (it *item) latest() *version {
	if it == nil || it.head == nil || it.head.dead {
		return nil
	}
	return it.head
}

var sumSeed = maphash.MakeSeed()

func checksum(data []byte) uint64 { return maphash.Bytes(sumSeed, data) }

// object returns the decoded object of a live version.
func (c *Collection) object(key string, v *version) (runtime.Object, error) {
	u := v.pending
	if u == nil {
		return v.obj, nil
	}
	u.once.Do(func() {
		u.sum = checksum(u.raw)
		u.obj, u.err = c.decode(u.raw, v.rev)
		u.raw = nil
		u.labels = signatureOf(u.obj)
		u.done.Store(true)
		if u.err != nil {
			u.err = fmt.Errorf("stored object %s at revision %d: %w", key, v.rev, u.err)
		}
	})
	return u.obj, u.err
}

// value returns the object of a live version that was decoded before.
func (v *version) value() runtime.Object {
	if u := v.pending; u != nil {
		return u.obj
	}
	return v.obj
}

func (v *version) checksum() uint64 {
	if v.pending != nil {
		return v.pending.sum
	}
	return v.sum
}

// decode returns the in-memory form of data, exactly as a restart would read it.
func (c *Collection) decode(data []byte, rev int64) (runtime.Object, error) {
	obj, _, err := c.res.Codec.Decode(data, nil, c.res.New())
	if err != nil {
		return nil, err
	}
	if _, ok := obj.(runtime.Unstructured); !ok {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	if rev != 0 {
		err = setRevision(obj, rev)
	}
	return obj, err
}

func (c *Collection) encode(obj runtime.Object) ([]byte, error) {
	var buf bytes.Buffer
	if err := c.res.Codec.Encode(obj, &buf); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func setRevision(obj runtime.Object, rev int64) error {
	m, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	m.SetResourceVersion(strconv.FormatInt(rev, 10))
	return nil
}

// fill makes out a shallow copy of the shared obj.
func fill(out, obj runtime.Object) error {
	if u, ok := obj.(runtime.Unstructured); ok {
		// Encoders write the kind into the content, which a shallow copy would share.
		dst, ok := out.(runtime.Unstructured)
		if !ok {
			return fmt.Errorf("cannot read an unstructured object into %T", out)
		}
		dst.SetUnstructuredContent(u.DeepCopyObject().(runtime.Unstructured).UnstructuredContent())
		return nil
	}
	dst, src := reflect.ValueOf(out), reflect.ValueOf(obj)
	if dst.Type() != src.Type() {
		return fmt.Errorf("cannot read %T into %T", obj, out)
	}
	dst.Elem().Set(src.Elem())
	return nil
}

// shallow returns a copy of obj whose top-level fields are the caller's own.
func shallow(obj runtime.Object) runtime.Object {
	if u, ok := obj.(runtime.Unstructured); ok {
		return u.DeepCopyObject()
	}
	src := reflect.ValueOf(obj).Elem()
	dst := reflect.New(src.Type())
	dst.Elem().Set(src)
	return dst.Interface().(runtime.Object)
}

// removedAt returns the copy of obj that a deletion at rev reports.
func removedAt(obj runtime.Object, rev int64) (runtime.Object, error) {
	out := shallow(obj)
	return out, setRevision(out, rev)
}
