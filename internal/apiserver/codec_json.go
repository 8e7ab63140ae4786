package apiserver

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	k8sjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
)

// JSON that is already in its final form need not be read again. encoding/json reads and copies byte by byte what a
// MarshalJSON method returns: the field sets of managed fields, which are half of a pod, and then the whole object once
// more inside its watch event. Here both are put in their place as they are; the output is the same to the byte, and
// whatever is not surely so takes the usual way.

// isPlainJSON says whether an encoder writes compact JSON.
func isPlainJSON(e runtime.Encoder) bool {
	if _, ok := e.(*k8sjson.Serializer); !ok {
		return false
	}
	id := string(e.Identifier())
	return strings.Contains(id, `"name":"json"`) && strings.Contains(id, `"pretty":"false"`) && strings.Contains(id, `"yaml":"false"`)
}

// encodeFunc is the usual way to encode.
type encodeFunc func(obj runtime.Object, w io.Writer) error

// encodeJSON encodes with what is final left alone.
func encodeJSON(obj runtime.Object, w io.Writer, encode encodeFunc) error {
	switch o := obj.(type) {
	case *metav1.WatchEvent:
		if raw, ok := finalObject(o); ok {
			return writeEvent(o.Type, raw, w)
		}
	case metav1.Object:
		if entries, ok := finalFields(o.GetManagedFields()); ok {
			return encodeAround(obj, entries, w, encode)
		}
	}
	return encode(shallowCopy(obj), w)
}

// finalObject returns the object of an event that our encoder has just written: one line, ended by a newline.
func finalObject(e *metav1.WatchEvent) ([]byte, bool) {
	raw := e.Object.Raw
	n := len(raw)
	if e.Object.Object != nil || n < 3 || raw[0] != '{' || raw[n-1] != '\n' || raw[n-2] != '}' || bytes.IndexByte(raw, '\n') != n-1 {
		return nil, false
	}
	return raw[:n-1], true
}

func writeEvent(kind string, raw []byte, w io.Writer) error {
	name, err := json.Marshal(kind)
	if err != nil {
		return err
	}
	if b, ok := w.(*bytes.Buffer); ok {
		b.Grow(len(name) + len(raw) + 24)
	}
	for _, part := range [][]byte{[]byte(`{"type":`), name, []byte(`,"object":`), raw, []byte("}\n")} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// finalFields returns the field sets of entries, if all are there and in their final form.
func finalFields(entries []metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, bool) {
	for i := range entries {
		if f := entries[i].FieldsV1; f == nil || !final(f.Raw) {
			return nil, false
		}
	}
	return entries, len(entries) > 0
}

// final says whether encoding/json would copy a JSON object as it is: it has nothing to leave out or to escape.
func final(raw []byte) bool {
	if len(raw) < 2 || raw[0] != '{' {
		return false
	}
	for _, c := range raw {
		if c <= ' ' || c == '<' || c == '>' || c == '&' || c >= 0x80 {
			return false
		}
	}
	return true
}

// What stands for a field set while the rest is encoded. No string can read like this in JSON, and nothing of an
// object that comes before its managed fields is other than strings and numbers, so that the nth one found is the nth
// entry's.
var (
	standIn  = &metav1.FieldsV1{Raw: []byte(`{"":0}`)}
	place    = []byte(`"fieldsV1":{"":0}`)
	fieldsV1 = []byte(`"fieldsV1":`)
)

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// encodeAround encodes an object and puts its field sets in as they are.
func encodeAround(obj runtime.Object, entries []metav1.ManagedFieldsEntry, w io.Writer, encode encodeFunc) error {
	bare := shallowCopy(obj)
	m, ok := bare.(metav1.Object)
	if !ok {
		return encode(bare, w)
	}
	hollow := slices.Clone(entries)
	for i := range hollow {
		hollow[i].FieldsV1 = standIn
	}
	m.SetManagedFields(hollow)
	buf := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buf)
	buf.Reset()
	if err := encode(bare, buf); err != nil {
		return err
	}
	rest := buf.Bytes()
	if bytes.Count(rest, place) < len(entries) {
		return encode(shallowCopy(obj), w) // converted to something that has no managed fields
	}
	for i := range entries {
		at := bytes.Index(rest, place)
		for _, part := range [][]byte{rest[:at], fieldsV1, entries[i].FieldsV1.Raw} {
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
		rest = rest[at+len(place):]
	}
	_, err := w.Write(rest)
	return err
}
