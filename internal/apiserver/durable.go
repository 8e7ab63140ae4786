package apiserver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// storageCodec is the durable form of one kind: Kubernetes protobuf of the version served, byte
// for byte what etcd of an upstream cluster holds (k8s.io/apimachinery's protobuf serializer
// reads and writes the same). It converts nothing, because the version served is the version in
// memory, and copies nothing twice, because every write passes here in both directions.
type storageCodec struct {
	gvk      schema.GroupVersionKind
	head     []byte // everything of the envelope before the length of the object
	defaults func(runtime.Object)
}

// message is what every API type's generated protobuf code offers.
type message interface {
	Size() int
	MarshalToSizedBuffer(data []byte) (int, error)
	Unmarshal(data []byte) error
}

// magic begins every stored object (runtime/serializer/protobuf).
var magic = []byte{'k', '8', 's', 0}

// Tags of the envelope, runtime.Unknown: a protobuf message with the type first, then the object.
const (
	tagType     = 1<<3 | 2
	tagObject   = 2<<3 | 2
	tagEncoding = 3<<3 | 2
	tagContent  = 4<<3 | 2
)

func newStorageCodec(gvk schema.GroupVersionKind, defaults func(runtime.Object)) *storageCodec {
	var typeMeta []byte
	typeMeta = appendBytes(typeMeta, tagType, []byte(gvk.GroupVersion().String()))
	typeMeta = appendBytes(typeMeta, tagObject, []byte(gvk.Kind))
	head := bytes.Clone(magic)
	head = appendBytes(head, tagType, typeMeta)
	return &storageCodec{gvk: gvk, head: append(head, tagObject), defaults: defaults}
}

func appendBytes(b []byte, tag byte, value []byte) []byte {
	b = append(b, tag)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// tail ends every envelope: no content encoding, no content type. They are written because
// upstream writes them.
var tail = []byte{tagEncoding, 0, tagContent, 0}

// Identifier implements runtime.Encoder.
func (c *storageCodec) Identifier() runtime.Identifier {
	return runtime.Identifier("storage/" + c.gvk.String())
}

// Encode implements runtime.Encoder. The object is only read.
func (c *storageCodec) Encode(obj runtime.Object, w io.Writer) error {
	m, ok := obj.(message)
	if !ok {
		return fmt.Errorf("%T has no protobuf form", obj)
	}
	size := m.Size()
	total := len(c.head) + binary.MaxVarintLen64 + size + len(tail)
	var out []byte
	buf, buffered := w.(*bytes.Buffer)
	if buffered {
		buf.Grow(total)
		out = buf.AvailableBuffer()
	} else {
		out = make([]byte, 0, total)
	}
	out = append(out, c.head...)
	out = binary.AppendUvarint(out, uint64(size))
	start := len(out)
	out = out[:start+size]
	if n, err := m.MarshalToSizedBuffer(out[start:]); err != nil || n != size {
		return errors.Join(fmt.Errorf("encode %s: wrote %d of %d bytes", c.gvk.Kind, n, size), err)
	}
	out = append(out, tail...)
	_, err := w.Write(out)
	return err
}

// Decode implements runtime.Decoder. Defaults are filled in on reading, as upstream does: an
// object written by an older release gets those that are new.
func (c *storageCodec) Decode(data []byte, _ *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	m, ok := into.(message)
	if !ok {
		return nil, nil, fmt.Errorf("%T has no protobuf form", into)
	}
	if !bytes.HasPrefix(data, c.head) {
		return nil, nil, fmt.Errorf("stored object is not a %s: it begins with %q", c.gvk, data[:min(len(data), len(c.head))])
	}
	rest := data[len(c.head):]
	size, n := binary.Uvarint(rest)
	if n <= 0 || uint64(len(rest)-n) < size {
		return nil, nil, fmt.Errorf("stored %s is cut short", c.gvk.Kind)
	}
	if err := m.Unmarshal(rest[n : n+int(size)]); err != nil {
		return nil, nil, fmt.Errorf("stored %s: %w", c.gvk.Kind, err)
	}
	into.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	if m, ok := into.(metav1.Object); ok {
		entries := m.GetManagedFields()
		for i := range entries {
			entries[i].FieldsV1 = fieldSets.share(entries[i].FieldsV1)
		}
	}
	if c.defaults != nil {
		c.defaults(into)
	}
	return into, &c.gvk, nil
}

// fieldSets is what the managed fields of stored objects share.
var fieldSets = sharer{sets: map[uint64]*metav1.FieldsV1{}}

// sharer keeps one copy of equal field sets: all pods of a template, and all their statuses, have
// the same, and they would be a third of a pod's memory. Stored objects are immutable.
type sharer struct {
	mu   sync.RWMutex
	sets map[uint64]*metav1.FieldsV1
}

// maxShared bounds the sets remembered; past it the memory starts anew.
const maxShared = 4096

var shareSeed = maphash.MakeSeed()

func (s *sharer) share(set *metav1.FieldsV1) *metav1.FieldsV1 {
	if set == nil || len(set.Raw) == 0 {
		return set
	}
	sum := maphash.Bytes(shareSeed, set.Raw)
	s.mu.RLock()
	known := s.sets[sum]
	s.mu.RUnlock()
	if known != nil && bytes.Equal(known.Raw, set.Raw) {
		return known
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sets) >= maxShared {
		clear(s.sets)
	}
	s.sets[sum] = set
	return set
}
