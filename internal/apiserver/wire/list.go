package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Items are the objects of a list, in order. They are shared and only read.
type Items interface {
	Len() int
	At(i int) runtime.Object
}

// List is a list as it is sent.
type List struct {
	Stamp *Stamp
	Meta  metav1.ListMeta
	Items Items
}

// piece is about how many bytes are written at a time.
const piece = 32 << 10

// maxKept bounds the buffers that are kept for the next list.
const maxKept = 8 * piece

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 2*piece); return &b }}

// Borrow lends an empty buffer; Return gives it back as it has become.
func Borrow() *[]byte {
	b := buffers.Get().(*[]byte)
	*b = (*b)[:0]
	return b
}

// Return takes a buffer back. Nothing may refer to it any more.
func Return(b *[]byte) {
	if cap(*b) <= maxKept {
		buffers.Put(b)
	}
}

// WriteJSON writes the list as upstream's serializer does: the brace by itself, by which the writer of answers knows
// that the rest comes in pieces, and the items without apiVersion and kind.
func (l *List) WriteJSON(w io.Writer) (err error) {
	b := Borrow()
	defer Return(b)
	out := append(*b, '{')
	defer func() { *b = out }()
	if _, err := w.Write(out); err != nil {
		return err
	}
	out = append(out[:0], l.Stamp.json[1:]...)
	out = append(out, `,"metadata":`...)
	if out, err = AppendJSON(out, &l.Meta); err != nil {
		return err
	}
	out = append(out, `,"items":[`...)
	for i := range l.Items.Len() {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = AppendJSON(out, l.Items.At(i)); err != nil {
			return fmt.Errorf("item %d of a list: %w", i, err)
		}
		if len(out) >= piece {
			if _, err := w.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
	}
	_, err = w.Write(append(out, "]}\n"...))
	return err
}

// sizer is what every API type's generated protobuf code offers.
type sizer interface {
	Size() int
	MarshalToSizedBuffer(data []byte) (int, error)
}

// Tags of the fields of every list.
const (
	tagListMeta = 1<<3 | 2
	tagItem     = 2<<3 | 2
)

// WriteProtobuf writes the list in its envelope, whose first bytes are written by themselves as upstream has it. The
// length of a message comes before it, so that each item is measured first.
func (l *List) WriteProtobuf(w io.Writer) (err error) {
	n := l.Items.Len()
	sizes := make([]uint32, n)
	total := framed(l.Meta.Size())
	for i := range n {
		m, ok := l.Items.At(i).(sizer)
		if !ok {
			return fmt.Errorf("%T has no protobuf form", l.Items.At(i))
		}
		size := m.Size()
		sizes[i] = uint32(size) //nolint:gosec // an object has a few megabytes at most
		total += framed(size)
	}
	b := Borrow()
	defer Return(b)
	out := *b
	defer func() { *b = out }()
	head, tail := l.Stamp.protobuf.Envelope()
	const magic = 4
	if _, err := w.Write(head[:magic]); err != nil {
		return err
	}
	out = binary.AppendUvarint(append(out, head[magic:]...), uint64(total))
	if out, err = appendFramed(out, tagListMeta, &l.Meta, l.Meta.Size()); err != nil {
		return err
	}
	for i := range n {
		if out, err = appendFramed(out, tagItem, l.Items.At(i).(sizer), int(sizes[i])); err != nil {
			return fmt.Errorf("item %d of a list: %w", i, err)
		}
		if len(out) >= piece {
			if _, err := w.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
	}
	_, err = w.Write(append(out, tail...))
	return err
}

// framed is how many bytes a message takes within another: its tag, its length, and itself.
func framed(size int) int {
	var room [binary.MaxVarintLen64]byte
	return 1 + binary.PutUvarint(room[:], uint64(size)) + size
}

var errSize = errors.New("its protobuf form is not of the size it says")

func appendFramed(dst []byte, tag byte, m sizer, size int) ([]byte, error) {
	dst = binary.AppendUvarint(append(dst, tag), uint64(size))
	start := len(dst)
	dst = slices.Grow(dst, size)[:start+size]
	n, err := m.MarshalToSizedBuffer(dst[start:])
	if err == nil && n != size {
		err = errSize
	}
	return dst, err
}
