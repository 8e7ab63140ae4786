package bounds

import "reflect"

// Plenty is the size from which an object may hold too many things: below it its bytes do not suffice.
const Plenty = Items * 2

// sized is what every API type's generated protobuf code offers.
type sized interface{ Size() int }

// Object returns what there is too much of in an object that is to be stored in the place of old, which is nil for a
// new one. What does not grow passes: an object that is too large must still be cut down and deleted.
func Object(next, old any) error {
	n, ok := next.(sized)
	if !ok {
		return nil
	}
	size := n.Size()
	if size < Plenty {
		return nil
	}
	if o, ok := old.(sized); ok && size <= o.Size() {
		return nil
	}
	if size > ObjectBytes {
		return &Excess{What: "the object is too large to be stored", Limit: ObjectBytes, Unit: "bytes", Do: "spread it over several objects"}
	}
	var c census
	c.count(reflect.ValueOf(next))
	if c.items <= Items && c.values <= Values {
		return nil
	}
	if old != nil {
		var before census
		before.count(reflect.ValueOf(old))
		if c.items <= before.items && c.values <= before.values {
			return nil
		}
	}
	if c.items > Items {
		return &Excess{What: "the lists of the object have too many elements", Limit: Items, Unit: "in all lists together",
			Do: "spread them over several objects"}
	}
	return &Excess{What: "the object has too many values", Limit: Values, Unit: "entries and elements", Do: "spread them over several objects"}
}

// census counts the elements of lists and the entries of maps.
type census struct{ items, values int }

func (c *census) count(v reflect.Value) {
	if c.items > Items || c.values > Values {
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			c.count(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); holds(f.Kind()) {
				c.count(f)
			}
		}
	case reflect.Slice:
		kind := v.Type().Elem().Kind()
		if kind == reflect.Uint8 {
			return
		}
		c.values += v.Len()
		if kind == reflect.Struct || kind == reflect.Pointer {
			c.items += v.Len()
		}
		if holds(kind) {
			for i := range v.Len() {
				c.count(v.Index(i))
			}
		}
	case reflect.Map:
		c.values += v.Len()
	}
}

func holds(k reflect.Kind) bool {
	return k == reflect.Struct || k == reflect.Slice || k == reflect.Map || k == reflect.Pointer || k == reflect.Interface
}

// Size returns the size of an object in its durable form, in bytes; 0 for what has none.
func Size(obj any) int {
	if s, ok := obj.(sized); ok {
		return s.Size()
	}
	return 0
}
