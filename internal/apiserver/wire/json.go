package wire

import (
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"coracle/internal/apiserver/durable"
)

// AppendJSON appends the JSON of what obj points to, in one line without a newline: what encoding/json.Marshal
// returns. It only reads.
func AppendJSON(dst []byte, obj any) ([]byte, error) {
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return dst, fmt.Errorf("the JSON of %T: it is not a pointer to anything", obj)
	}
	return formOf(v.Type().Elem()).append(dst, v.UnsafePointer())
}

// Stamp is the apiVersion and kind with which objects of one type are sent. In memory they have neither.
type Stamp struct {
	json     []byte
	protobuf *durable.Codec
}

// NewStamp returns the stamp of a kind.
func NewStamp(gvk schema.GroupVersionKind) *Stamp {
	json := appendString([]byte(`{"kind":`), gvk.Kind)
	json = appendString(append(json, `,"apiVersion":`...), gvk.GroupVersion().String())
	return &Stamp{json, durable.NewCodec(gvk, nil)}
}

// AppendJSON appends an object with its stamp and a newline, as the API server's serializer ends it. The object's
// own apiVersion and kind must be empty.
func (s *Stamp) AppendJSON(dst []byte, obj runtime.Object) (_ []byte, err error) {
	dst = append(dst, s.json...)
	seam := len(dst)
	if dst, err = AppendJSON(dst, obj); err != nil {
		return dst, err
	}
	if dst[seam+1] == '}' {
		return append(dst[:seam], '}', '\n'), nil
	}
	dst[seam] = ',' // in the place of the brace
	return append(dst, '\n'), nil
}

// AppendProtobuf appends an object in its envelope.
func (s *Stamp) AppendProtobuf(dst []byte, obj runtime.Object) ([]byte, error) {
	return s.protobuf.Append(dst, obj)
}
