// Package durable is the durable form of the kinds: Kubernetes protobuf, byte for byte what etcd of an
// upstream cluster holds.
//
// It owns encoding, decoding, and what decoded objects share: the pods of one template hold one spec in
// memory, not a copy each. It refuses conversion, because the version served is the version in memory, and
// knows nothing of keys and revisions, which are the store's.
package durable

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Codec reads and writes objects of one kind as k8s.io/apimachinery's protobuf serializer does. It
// copies nothing twice, because every write passes here in both directions. Decoded objects share
// parts with one another: they must not be changed.
type Codec struct {
	gvk      schema.GroupVersionKind
	head     []byte // everything of the envelope before the length of the object
	defaults func(runtime.Object)
	specs    specs
}

// message is what every API type's generated protobuf code offers.
type message interface {
	runtime.Object
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

// NewCodec returns the codec of a kind. defaults, which may be nil, fill in an object that was read.
func NewCodec(gvk schema.GroupVersionKind, defaults func(runtime.Object)) *Codec {
	var typeMeta []byte
	typeMeta = appendBytes(typeMeta, tagType, []byte(gvk.GroupVersion().String()))
	typeMeta = appendBytes(typeMeta, tagObject, []byte(gvk.Kind))
	head := bytes.Clone(magic)
	head = appendBytes(head, tagType, typeMeta)
	return &Codec{gvk: gvk, head: append(head, tagObject), defaults: defaults}
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
func (c *Codec) Identifier() runtime.Identifier {
	return runtime.Identifier("storage/" + c.gvk.String())
}

// Encode implements runtime.Encoder. The object is only read.
func (c *Codec) Encode(obj runtime.Object, w io.Writer) error {
	m, ok := obj.(message)
	if !ok {
		return fmt.Errorf("%T has no protobuf form", obj)
	}
	size := m.Size()
	var out []byte
	if buf, buffered := w.(*bytes.Buffer); buffered {
		buf.Grow(c.room(size))
		out = buf.AvailableBuffer()
	}
	out, err := c.append(out, m, size)
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}

// Append appends the durable form of an object, which is only read.
func (c *Codec) Append(dst []byte, obj runtime.Object) ([]byte, error) {
	m, ok := obj.(message)
	if !ok {
		return dst, fmt.Errorf("%T has no protobuf form", obj)
	}
	return c.append(dst, m, m.Size())
}

// room is enough for an object of a size in its envelope.
func (c *Codec) room(size int) int {
	return len(c.head) + binary.MaxVarintLen64 + size + len(tail)
}

func (c *Codec) append(dst []byte, m message, size int) ([]byte, error) {
	dst = slices.Grow(dst, c.room(size))
	dst = append(dst, c.head...)
	dst = binary.AppendUvarint(dst, uint64(size))
	start := len(dst)
	dst = dst[:start+size]
	if n, err := m.MarshalToSizedBuffer(dst[start:]); err != nil || n != size {
		return dst, errors.Join(fmt.Errorf("encode %s: wrote %d of %d bytes", c.gvk.Kind, n, size), err)
	}
	return append(dst, tail...), nil
}

// Envelope returns what stands before the length of every object, and what after the object. Neither may be
// changed.
func (c *Codec) Envelope() (head, after []byte) { return c.head, tail }

// Decode implements runtime.Decoder. Defaults are filled in on reading, as upstream does: an
// object written by an older release gets those that are new.
func (c *Codec) Decode(data []byte, _ *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
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
	if err := c.fill(m, rest[n:n+int(size)]); err != nil {
		return nil, nil, fmt.Errorf("stored %s: %w", c.gvk.Kind, err)
	}
	into.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	if m, ok := into.(metav1.Object); ok {
		shareMeta(m)
	}
	return into, &c.gvk, nil
}

// fill decodes the object's own bytes and fills in defaults.
func (c *Codec) fill(m message, data []byte) error {
	if pod, ok := m.(*corev1.Pod); ok {
		return c.fillPod(pod, data)
	}
	err := m.Unmarshal(data)
	if err == nil && c.defaults != nil {
		c.defaults(m)
	}
	return err
}
