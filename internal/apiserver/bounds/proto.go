package bounds

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
)

// ProtobufMagic begins a body in Kubernetes protobuf (runtime/serializer/protobuf).
var ProtobufMagic = []byte{'k', '8', 's', 0}

// The fields of the envelope around an object, runtime.Unknown, and of the type in it.
const (
	envelopeType, envelopeObject = 1, 2
	typeVersion, typeKind        = 1, 2
)

// Envelope takes apart a body in Kubernetes protobuf: which kind it says it is of, and the object's own bytes. What
// is not one is nothing.
func Envelope(body []byte) (apiVersion, kind string, object []byte) {
	rest, ok := bytes.CutPrefix(body, ProtobufMagic)
	if !ok {
		return "", "", nil
	}
	fields(rest, func(number protowire.Number, value []byte) bool {
		switch number {
		case envelopeType:
			fields(value, func(number protowire.Number, value []byte) bool {
				switch number {
				case typeVersion:
					apiVersion = string(value)
				case typeKind:
					kind = string(value)
				}
				return true
			})
		case envelopeObject:
			object = value
		}
		return true
	})
	return apiVersion, kind, object
}

// fields calls f with each length-delimited field of a message until it returns false; the message ends where it is
// not well formed, as it does for the decoder.
func fields(message []byte, f func(number protowire.Number, value []byte) bool) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return
		}
		message = message[n:]
		if kind == protowire.BytesType {
			size, n := binary.Uvarint(message)
			if n <= 0 || size > uint64(len(message)-n) {
				return
			}
			if !f(number, message[n:n+int(size)]) {
				return
			}
			message = message[n+int(size):]
			continue
		}
		n = protowire.ConsumeFieldValue(number, kind, message)
		if n < 0 {
			return
		}
		message = message[n:]
	}
}

// Protobuf weighs the bytes of an object of a Go type, which is a struct with protobuf tags.
func Protobuf(object []byte, of reflect.Type) Weight {
	var w Weight
	w.weigh(object, shapeOf(of), 1)
	return w
}

func (w *Weight) weigh(message []byte, s *shape, depth int) {
	w.Depth = max(w.Depth, depth)
	if depth > Depth {
		return
	}
	fields(message, func(number protowire.Number, value []byte) bool {
		f := s.fields[number]
		if f.repeated || f.of != nil {
			w.Values++
		}
		if f.repeated {
			w.Elements++
			if f.of != nil && !f.entry {
				w.Items++
			}
		}
		if f.of != nil {
			w.weigh(value, f.of(), depth+1)
		}
		return w.Values <= Values && w.Items <= Items
	})
}

// shape says of a message which of its fields are messages or lists.
type shape struct {
	fields map[protowire.Number]shapeField
}

type shapeField struct {
	repeated, entry bool
	of              func() *shape
}

var shapes sync.Map // reflect.Type -> *shape

func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := &shape{fields: map[protowire.Number]shapeField{}}
	for i := range t.NumField() {
		f := t.Field(i)
		parts := strings.Split(f.Tag.Get("protobuf"), ",")
		if len(parts) < 3 {
			continue
		}
		number, err := strconv.ParseInt(parts[1], 10, 32)
		if err != nil {
			continue
		}
		s.fields[protowire.Number(number)] = fieldOf(f.Type)
	}
	kept, _ := shapes.LoadOrStore(t, s)
	return kept.(*shape)
}

// fieldOf describes a field by its Go type.
func fieldOf(t reflect.Type) shapeField {
	f := shapeField{}
	switch t.Kind() {
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return f
		}
		f.repeated = true
		t = t.Elem()
	case reflect.Map:
		// An entry is a message with the key in field 1 and the value in field 2.
		value := fieldOf(t.Elem())
		entry := &shape{fields: map[protowire.Number]shapeField{2: value}}
		return shapeField{repeated: true, entry: true, of: func() *shape { return entry }}
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Struct {
		f.of = func() *shape { return shapeOf(t) }
	}
	return f
}
