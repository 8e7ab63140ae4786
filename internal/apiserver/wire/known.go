package wire

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"time"
	"unsafe"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// marshalers write the types of the API that have a MarshalJSON, without it: it allocates what it returns, and
// encoding/json reads that once more.
var marshalers = map[reflect.Type]func([]byte, unsafe.Pointer) ([]byte, error){
	reflect.TypeFor[metav1.Time]():        appendTime,
	reflect.TypeFor[metav1.MicroTime]():   appendMicroTime,
	reflect.TypeFor[resource.Quantity]():  appendQuantity,
	reflect.TypeFor[intstr.IntOrString](): appendIntOrString,
	reflect.TypeFor[metav1.FieldsV1]():    appendFields,
}

func appendTime(dst []byte, p unsafe.Pointer) ([]byte, error) {
	return appendInstant(dst, (*metav1.Time)(p).Time, time.RFC3339), nil
}

func appendMicroTime(dst []byte, p unsafe.Pointer) ([]byte, error) {
	return appendInstant(dst, (*metav1.MicroTime)(p).Time, metav1.RFC3339Micro), nil
}

func appendInstant(dst []byte, t time.Time, layout string) []byte {
	if t.IsZero() {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	dst = t.UTC().AppendFormat(dst, layout)
	return append(dst, '"')
}

// quantityRoom is enough for all but strange quantities.
const quantityRoom = 32

func appendQuantity(dst []byte, p unsafe.Pointer) ([]byte, error) {
	return appendCanonical(dst, *(*resource.Quantity)(p))
}

// appendCanonical takes a copy, because nothing is written to what is shared.
func appendCanonical(dst []byte, q resource.Quantity) ([]byte, error) {
	dst = append(slices.Grow(dst, quantityRoom), '"')
	number, suffix := q.CanonicalizeBytes(dst[len(dst):]) // there already, or elsewhere if it is long
	dst = append(dst, number...)
	dst = append(dst, suffix...)
	return append(dst, '"'), nil
}

func appendIntOrString(dst []byte, p unsafe.Pointer) ([]byte, error) {
	v := (*intstr.IntOrString)(p)
	switch v.Type {
	case intstr.Int:
		return strconv.AppendInt(dst, int64(v.IntVal), 10), nil
	case intstr.String:
		return appendString(dst, v.StrVal), nil
	}
	data, err := json.Marshal(v)
	return append(dst, data...), err
}

// appendFields appends a field set. Those that we and client-go make are final.
func appendFields(dst []byte, p unsafe.Pointer) ([]byte, error) {
	f := (*metav1.FieldsV1)(p)
	if Final(f.Raw) {
		return append(dst, f.Raw...), nil
	}
	data, err := json.Marshal(f)
	return append(dst, data...), err
}

// smallMap is how many keys are sorted without an allocation.
const smallMap = 16

// mapping covers the maps that the API has: from strings to strings, bytes and quantities.
func mapping(t reflect.Type) func([]byte, unsafe.Pointer) ([]byte, error) {
	switch t {
	case reflect.TypeFor[map[string]string]():
		return mapOf(func(dst []byte, s string) ([]byte, error) { return appendString(dst, s), nil })
	case reflect.TypeFor[map[string][]byte]():
		return mapOf(func(dst []byte, b []byte) ([]byte, error) { return appendBytes(dst, b), nil })
	case reflect.TypeFor[corev1.ResourceList]():
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
			return appendMap(dst, *(*corev1.ResourceList)(p), appendCanonical)
		}
	}
	return usual(t)
}

func mapOf[V any](value func([]byte, V) ([]byte, error)) func([]byte, unsafe.Pointer) ([]byte, error) {
	return func(dst []byte, p unsafe.Pointer) ([]byte, error) { return appendMap(dst, *(*map[string]V)(p), value) }
}

// appendMap appends the entries in the order of their keys.
func appendMap[K ~string, V any](dst []byte, m map[K]V, value func([]byte, V) ([]byte, error)) (_ []byte, err error) {
	if m == nil {
		return append(dst, "null"...), nil
	}
	var room [smallMap]K
	keys := room[:0]
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	dst = append(dst, '{')
	for i, k := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, string(k))
		dst = append(dst, ':')
		if dst, err = value(dst, m[k]); err != nil {
			return dst, err
		}
	}
	return append(dst, '}'), nil
}
