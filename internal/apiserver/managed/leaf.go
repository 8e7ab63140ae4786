package managed

import (
	"bytes"
	"encoding/json"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var (
	timeType      = reflect.TypeFor[metav1.Time]()
	microTimeType = reflect.TypeFor[metav1.MicroTime]()
	quantityType  = reflect.TypeFor[resource.Quantity]()
	intOrString   = reflect.TypeFor[intstr.IntOrString]()
	rawExtension  = reflect.TypeFor[runtime.RawExtension]()
	durationType  = reflect.TypeFor[metav1.Duration]()
	goTime        = reflect.TypeFor[time.Time]()
)

func isLeaf(t reflect.Type) bool {
	switch t {
	case timeType, microTimeType, quantityType, intOrString, rawExtension, durationType, goTime:
		return true
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return false
	case reflect.Slice:
		return t.Elem().Kind() == reflect.Uint8
	}
	return true
}

// leaf compares values that are owned whole.
func leaf(a, b reflect.Value, path uint64, d *diff) {
	before, after := state(a), state(b)
	if before != after || !equal(a, b) {
		d.emit(path, before, after, changed)
	}
}

// equal says whether two values have the same JSON.
func equal(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.String:
		return a.String() == b.String()
	case reflect.Bool:
		return a.Bool() == b.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return a.Int() == b.Int()
	case reflect.Slice:
		if a.Type().Elem().Kind() == reflect.Uint8 {
			return bytes.Equal(a.Bytes(), b.Bytes())
		}
	}
	if a.IsZero() && b.IsZero() {
		return true
	}
	switch a.Type() {
	case timeType:
		return at(a).Unix() == at(b).Unix()
	case microTimeType:
		return at(a).UnixMicro() == at(b).UnixMicro()
	}
	// Their Go forms may differ where their JSON does not: times are cut to seconds, quantities
	// remember how they were written.
	if reflect.DeepEqual(a.Interface(), b.Interface()) {
		return true
	}
	x, errX := json.Marshal(a.Interface())
	y, errY := json.Marshal(b.Interface())
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// at returns the time in a metav1.Time or MicroTime.
func at(v reflect.Value) time.Time {
	t, _ := v.Field(0).Interface().(time.Time)
	return t
}
