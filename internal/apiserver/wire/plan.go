package wire

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unsafe"
)

// form is how values of one type are written. A form that is under way refers to others before they are made, as
// types do that contain themselves.
type form struct {
	append func(dst []byte, p unsafe.Pointer) ([]byte, error)
}

// field is one field of a struct as it is written.
type field struct {
	name   string // quoted, with its colon
	offset uintptr
	form   *form
	// omitted says whether a value is left out; nil for those that never are.
	omitted func(p unsafe.Pointer) bool
	// word says that omitted asks no more than whether the first word is zero: a pointer.
	word bool
	// text and list say the same of the length of a string or a slice.
	text, list bool
}

// forms has the finished forms, by reflect.Type.
var forms sync.Map

// formOf returns the form of a type.
func formOf(t reflect.Type) *form {
	if f, ok := forms.Load(t); ok {
		return f.(*form)
	}
	b := builder{}
	f := b.of(t)
	for t, made := range b {
		forms.LoadOrStore(t, made)
	}
	return f
}

// builder makes the forms of a type and of all it contains.
type builder map[reflect.Type]*form

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

func (b builder) of(t reflect.Type) *form {
	if f, ok := b[t]; ok {
		return f
	}
	if f, ok := forms.Load(t); ok {
		return f.(*form)
	}
	f := &form{}
	b[t] = f
	f.append = b.appender(t)
	return f
}

func (b builder) appender(t reflect.Type) func([]byte, unsafe.Pointer) ([]byte, error) {
	if known, ok := marshalers[t]; ok {
		return known
	}
	if t.Kind() != reflect.Pointer {
		p := reflect.PointerTo(t)
		if p.Implements(jsonMarshaler) || p.Implements(textMarshaler) {
			return usual(t)
		}
	}
	switch t.Kind() {
	case reflect.Bool:
		return appendBool
	case reflect.String:
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) { return appendString(dst, *(*string)(p)), nil }
	case reflect.Int, reflect.Int64:
		return appendInt[int64]
	case reflect.Int32:
		return appendInt[int32]
	case reflect.Int16:
		return appendInt[int16]
	case reflect.Int8:
		return appendInt[int8]
	case reflect.Pointer:
		return b.pointer(t)
	case reflect.Slice:
		return b.slice(t)
	case reflect.Map:
		return mapping(t)
	case reflect.Struct:
		return b.structure(t)
	}
	return usual(t)
}

// usual is encoding/json's way, for what no plan covers.
func usual(t reflect.Type) func([]byte, unsafe.Pointer) ([]byte, error) {
	return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
		data, err := json.Marshal(reflect.NewAt(t, p).Interface())
		return append(dst, data...), err
	}
}

func appendBool(dst []byte, p unsafe.Pointer) ([]byte, error) {
	return strconv.AppendBool(dst, *(*bool)(p)), nil
}

func appendInt[T int8 | int16 | int32 | int64](dst []byte, p unsafe.Pointer) ([]byte, error) {
	return strconv.AppendInt(dst, int64(*(*T)(p)), 10), nil
}

func (b builder) pointer(t reflect.Type) func([]byte, unsafe.Pointer) ([]byte, error) {
	elem := b.of(t.Elem())
	return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
		to := *(*unsafe.Pointer)(p)
		if to == nil {
			return append(dst, "null"...), nil
		}
		return elem.append(dst, to)
	}
}

// sliceHeader is the head of every slice.
type sliceHeader struct {
	data unsafe.Pointer
	len  int
	cap  int
}

func (b builder) slice(t reflect.Type) func([]byte, unsafe.Pointer) ([]byte, error) {
	if t.Elem().Kind() == reflect.Uint8 {
		p := reflect.PointerTo(t.Elem())
		if p.Implements(jsonMarshaler) || p.Implements(textMarshaler) {
			return usual(t)
		}
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) { return appendBytes(dst, *(*[]byte)(p)), nil }
	}
	elem, size := b.of(t.Elem()), t.Elem().Size()
	return func(dst []byte, p unsafe.Pointer) (_ []byte, err error) {
		s := (*sliceHeader)(p)
		if s.data == nil {
			return append(dst, "null"...), nil
		}
		dst = append(dst, '[')
		for i := range s.len {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = elem.append(dst, unsafe.Add(s.data, uintptr(i)*size)); err != nil {
				return dst, err
			}
		}
		return append(dst, ']'), nil
	}
}

func (b builder) structure(t reflect.Type) func([]byte, unsafe.Pointer) ([]byte, error) {
	fields, ok := b.fieldsOf(t, 0)
	if !ok {
		return usual(t)
	}
	return func(dst []byte, p unsafe.Pointer) (_ []byte, err error) {
		dst = append(dst, '{')
		begin := len(dst)
		for i := range fields {
			f := &fields[i]
			at := unsafe.Add(p, f.offset)
			if f.leftOut(at) {
				continue
			}
			if len(dst) > begin {
				dst = append(dst, ',')
			}
			dst = append(dst, f.name...)
			if dst, err = f.form.append(dst, at); err != nil {
				return dst, err
			}
		}
		return append(dst, '}'), nil
	}
}

// leftOut says whether the field's value is not written. Most fields of most objects are not, so that the common
// questions are asked without a call.
func (f *field) leftOut(p unsafe.Pointer) bool {
	switch {
	case f.word:
		return *(*unsafe.Pointer)(p) == nil
	case f.text:
		return *(*string)(p) == ""
	case f.list:
		return (*sliceHeader)(p).len == 0
	}
	return f.omitted != nil && f.omitted(p)
}

// fieldsOf returns the fields of a struct, those of structs embedded in it in their place. It returns false for
// what the rules of names and embedding would have to be gone through for.
func (b builder) fieldsOf(t reflect.Type, offset uintptr) ([]field, bool) {
	var out []field
	for i := range t.NumField() {
		sf := t.Field(i)
		name, options, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if name == "-" && options == "" {
			continue
		}
		if sf.Anonymous && name == "" {
			if sf.Type.Kind() != reflect.Struct {
				return nil, false
			}
			inner, ok := b.fieldsOf(sf.Type, offset+sf.Offset)
			if !ok {
				return nil, false
			}
			out = append(out, inner...)
			continue
		}
		if !sf.IsExported() {
			continue
		}
		f, ok := b.field(sf, name, options)
		if !ok {
			return nil, false
		}
		f.offset += offset
		out = append(out, f)
	}
	seen := map[string]bool{}
	for _, f := range out {
		if seen[f.name] {
			return nil, false
		}
		seen[f.name] = true
	}
	return out, true
}

func (b builder) field(sf reflect.StructField, name, options string) (field, bool) {
	if name == "" {
		name = sf.Name
	}
	for _, c := range name {
		if !strings.ContainsRune("$-_", c) && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return field{}, false
		}
	}
	f := field{name: strconv.Quote(name) + ":", offset: sf.Offset, form: b.of(sf.Type)}
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "omitempty":
			f.omitEmpty(sf.Type)
		case "omitzero":
			f.omitZero(sf.Type)
		case "string":
			return f, false
		}
	}
	return f, true
}

// omitEmpty leaves out what is false, 0, nil, or has no elements.
func (f *field) omitEmpty(t reflect.Type) {
	switch t.Kind() {
	case reflect.Pointer:
		f.word = true
	case reflect.String:
		f.text = true
	case reflect.Slice:
		f.list = true
	case reflect.Bool, reflect.Int8:
		f.or(func(p unsafe.Pointer) bool { return *(*int8)(p) == 0 })
	case reflect.Int32:
		f.or(func(p unsafe.Pointer) bool { return *(*int32)(p) == 0 })
	case reflect.Int, reflect.Int64:
		f.or(func(p unsafe.Pointer) bool { return *(*int64)(p) == 0 })
	case reflect.Map, reflect.Array:
		if t == reflect.TypeFor[map[string]string]() {
			f.or(func(p unsafe.Pointer) bool { return len(*(*map[string]string)(p)) == 0 })
			return
		}
		f.or(func(p unsafe.Pointer) bool { return reflect.NewAt(t, p).Elem().Len() == 0 })
	case reflect.Struct:
	default:
		f.or(func(p unsafe.Pointer) bool { return reflect.NewAt(t, p).Elem().IsZero() })
	}
}

// omitZero leaves out what says that it is zero, or else is.
func (f *field) omitZero(t reflect.Type) {
	type zeroer interface{ IsZero() bool }
	if reflect.PointerTo(t).Implements(reflect.TypeFor[zeroer]()) && t.Kind() != reflect.Pointer {
		f.or(func(p unsafe.Pointer) bool { return reflect.NewAt(t, p).Interface().(zeroer).IsZero() })
		return
	}
	if t.Implements(reflect.TypeFor[zeroer]()) {
		f.or(func(p unsafe.Pointer) bool {
			v := reflect.NewAt(t, p).Elem()
			return v.IsNil() || v.Interface().(zeroer).IsZero()
		})
		return
	}
	f.or(func(p unsafe.Pointer) bool { return reflect.NewAt(t, p).Elem().IsZero() })
}

// or adds a reason to be left out.
func (f *field) or(reason func(unsafe.Pointer) bool) {
	if before := f.omitted; before != nil {
		f.omitted = func(p unsafe.Pointer) bool { return before(p) || reason(p) }
		return
	}
	f.omitted = reason
}
