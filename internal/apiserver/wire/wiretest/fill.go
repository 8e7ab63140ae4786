// Package wiretest fills API objects at random, with what is hard to write: for tests of how objects are encoded.
//
// It owns the values that are tried and refuses to make objects that the API would accept: most are invalid.
package wiretest

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var (
	words = []string{
		"", "a", "web-0", "é", "<b>&amp;", "\u2028\u2029", "\n\t\r", `"quoted\"`, "\xff\xfe", "a\xc3", "日本語",
		"seven..", "eight...", "nine.....", strings.Repeat("long ", 20), strings.Repeat("x", 31) + "<", strings.Repeat("y", 64) + "é",
	}
	amounts = []string{"0", "1", "-1", "100m", "1Gi", "1.5Gi", "12e6", "0.5", "1n", "9223372036854775807", "1E", "3333333333333333333333", "128974848", "1025Ki"}
	sets    = []string{
		`{"f:a":{}}`, `{"f:a":{".":{},"k:{\"b\":\"c\"}":{}}}`, `{"":0}`, `{}`, `{ "f:a": {} }`, `{"f:<b>":{}}`, `{"f:é":{}}`,
		`{"v:\"x y\"":{}}`, `{"f:metadata":{"f:labels":{"f:app":{}}},"f:spec":{"f:replicas":{}}}`,
	}
	raws = []string{`{"a":1}`, `{"a": "<é>"}`, `[1, 2]`, `null`, `"s"`}
)

// depth bounds how far types that contain themselves are followed.
const depth = 12

// Fill fills what obj points to, but for apiVersion and kind, which objects in memory do not have.
func Fill(r *rand.Rand, obj any) {
	fill(r, reflect.ValueOf(obj).Elem(), depth)
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func fill(r *rand.Rand, v reflect.Value, left int) {
	if known(r, v) || left == 0 {
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(pick(r, []int64{0, 1, -1, 80, int64(r.Uint64())}))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(pick(r, []uint64{0, 1, r.Uint64()}))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(pick(r, []float64{0, 1, -0.5, 1e21, 1e-7}))
	case reflect.String:
		v.SetString(pick(r, words))
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(r, v.Field(i), left-1)
			}
		}
	case reflect.Pointer:
		if r.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(r, v.Elem(), left-1)
		}
	case reflect.Slice:
		fillSlice(r, v, left)
	case reflect.Map:
		fillMap(r, v, left)
	}
}

func fillSlice(r *rand.Rand, v reflect.Value, left int) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		if r.IntN(3) > 0 {
			v.SetBytes([]byte(pick(r, words)))
		}
		return
	}
	n := r.IntN(5) - 2 // nil for less than none
	if n < 0 {
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	for i := range n {
		fill(r, v.Index(i), left-1)
	}
}

func fillMap(r *rand.Rand, v reflect.Value, left int) {
	n := pick(r, []int{-1, -1, 0, 1, 3, 20})
	if n < 0 {
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for range n {
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(r, key, left-1)
		fill(r, value, left-1)
		v.SetMapIndex(key, value)
	}
}

// known fills the types that have a form of their own.
func known(r *rand.Rand, v reflect.Value) bool {
	if !v.CanAddr() {
		return false
	}
	when := time.Unix(r.Int64N(4e9), 0)
	some := r.IntN(3) > 0
	switch p := v.Addr().Interface().(type) {
	case *metav1.TypeMeta:
	case *metav1.Time:
		if some {
			*p = metav1.Time{Time: when}
		}
	case *metav1.MicroTime:
		if some {
			*p = metav1.MicroTime{Time: when.Add(time.Duration(r.IntN(1e6)) * time.Microsecond)}
		}
	case *metav1.Duration:
		p.Duration = time.Duration(r.Int64N(1e15))
	case *resource.Quantity:
		if some {
			*p = resource.MustParse(pick(r, amounts))
		}
	case *intstr.IntOrString:
		*p = pick(r, []intstr.IntOrString{intstr.FromInt32(0), intstr.FromInt32(-5), intstr.FromString("25%"), intstr.FromString("<é\n")})
	case *metav1.FieldsV1:
		if some {
			p.Raw = []byte(pick(r, sets))
		}
	case *runtime.RawExtension:
		if some {
			p.Raw = []byte(pick(r, raws))
		}
	default:
		return false
	}
	return true
}
