package managed

import (
	"fmt"
	"hash/maphash"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/schema"
)

// A walker compares two values of one Go type along the merge schema and folds which paths were
// added, changed or removed into a hash. Two pairs of objects with the same hash differ in the
// same paths, in the same way; what the values are does not matter. That is all that the field
// manager's answer depends on, besides the managed fields there were.
type walker func(a, b reflect.Value, path uint64, d *diff)

// diff is what a comparison found.
type diff struct {
	// sum is commutative, because maps are walked in no order.
	sum uint64
	// odd says that the shape cannot be relied upon: a list has two items with one key.
	odd bool
	// literals are the keys that were left out of sum: see literal.go.
	literals []literal
}

// How two values relate.
const (
	same = iota
	changed
)

// emit records that the values at path differ; states tell absent, empty and filled apart.
func (d *diff) emit(path uint64, before, after uint8, how uint8) {
	d.sum += mix(path, uint64(before)|uint64(after)<<8|uint64(how)<<16|1<<24)
}

// mix is a 64-bit finaliser (MurmurHash3's) over two words.
func mix(a, b uint64) uint64 {
	h := a ^ (b * 0x9e3779b97f4a7c15)
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

var seed = maphash.MakeSeed()

func hashString(s string) uint64 { return maphash.String(seed, s) }

// state tells absent (0), empty (1) and filled (2) apart.
func state(v reflect.Value) uint8 {
	if !v.IsValid() {
		return 0
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return 0
		}
		return 2
	case reflect.Slice, reflect.Map:
		switch {
		case v.IsNil():
			return 0
		case v.Len() == 0:
			return 1
		}
		return 2
	}
	if v.IsZero() {
		return 0
	}
	return 2
}

// compiler makes walkers, once per Go type and schema type.
type compiler struct {
	schema *schema.Schema
	done   map[compiled]*walker
}

type compiled struct {
	goType reflect.Type
	model  string
}

// compile returns the walker of a Go type that a schema type describes.
func (c *compiler) compile(t reflect.Type, ref schema.TypeRef) (walker, error) {
	if t.Kind() == reflect.Pointer {
		inner, err := c.compile(t.Elem(), ref)
		if err != nil {
			return nil, err
		}
		return pointer(inner), nil
	}
	atom, ok := c.schema.Resolve(ref)
	if !ok {
		return nil, fmt.Errorf("managed: schema of %s is missing", t)
	}
	if isLeaf(t) {
		return leaf, nil
	}
	switch {
	case atom.Map != nil && t.Kind() == reflect.Struct:
		if atom.Map.ElementRelationship == schema.Atomic {
			return leaf, nil
		}
		return c.named(t, ref, atom.Map)
	case atom.Map != nil && t.Kind() == reflect.Map:
		if atom.Map.ElementRelationship == schema.Atomic || len(atom.Map.Fields) > 0 {
			return leaf, nil
		}
		inner, err := c.compile(t.Elem(), atom.Map.ElementType)
		if err != nil {
			return nil, err
		}
		return mapping(inner, t.Elem()), nil
	case atom.List != nil && t.Kind() == reflect.Slice && atom.List.ElementRelationship == schema.Associative:
		return c.list(t, atom.List)
	}
	return leaf, nil
}

// named compiles a struct; recursive types meet their own walker, not yet filled in.
func (c *compiler) named(t reflect.Type, ref schema.TypeRef, m *schema.Map) (walker, error) {
	key := compiled{goType: t}
	if ref.NamedType != nil {
		key.model = *ref.NamedType
		if w, ok := c.done[key]; ok {
			return func(a, b reflect.Value, path uint64, d *diff) { (*w)(a, b, path, d) }, nil
		}
	}
	w := new(walker)
	if key.model != "" {
		c.done[key] = w
	}
	var fields []fieldWalker
	if err := c.fields(t, nil, m, &fields); err != nil {
		return nil, err
	}
	*w = structure(fields)
	return *w, nil
}

// fieldWalker is one JSON field of a struct, which may sit in an inlined one.
type fieldWalker struct {
	index []int
	hash  uint64
	walk  walker
}

func (c *compiler) fields(t reflect.Type, at []int, m *schema.Map, out *[]fieldWalker) error {
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		index := append(append([]int(nil), at...), i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
			continue
		case name == "" && (f.Anonymous || strings.Contains(options, "inline")):
			if f.Type.Kind() == reflect.Struct {
				if err := c.fields(f.Type, index, m, out); err != nil {
					return err
				}
			}
			continue
		case name == "":
			name = f.Name
		case name == "managedFields":
			continue
		}
		described, ok := m.FindField(name)
		if !ok {
			if m.ElementType.NamedType == nil && m.ElementType.Inlined == (schema.Atom{}) {
				// apiVersion, kind and what the schema does not know is never owned.
				continue
			}
			described = schema.StructField{Name: name, Type: m.ElementType}
		}
		walk, err := c.compile(f.Type, described.Type)
		if err != nil {
			return err
		}
		*out = append(*out, fieldWalker{index, hashString(name), walk})
	}
	return nil
}

func structure(fields []fieldWalker) walker {
	return func(a, b reflect.Value, path uint64, d *diff) {
		for i := range fields {
			f := &fields[i]
			f.walk(a.FieldByIndex(f.index), b.FieldByIndex(f.index), mix(path, f.hash), d)
		}
	}
}

// pointer compares what pointers point to; nil against something is the whole of it.
func pointer(inner walker) walker {
	return func(a, b reflect.Value, path uint64, d *diff) {
		switch {
		case a.IsNil() && b.IsNil():
			return
		case a.IsNil():
			d.emit(path, 0, 2, changed)
			inner(reflect.Zero(a.Type().Elem()), b.Elem(), path, d)
		case b.IsNil():
			d.emit(path, 2, 0, changed)
			inner(a.Elem(), reflect.Zero(a.Type().Elem()), path, d)
		case a.Pointer() != b.Pointer():
			inner(a.Elem(), b.Elem(), path, d)
		}
	}
}

// mapping compares maps with strings for keys, entry by entry.
func mapping(inner walker, elem reflect.Type) walker {
	zero := reflect.Zero(elem)
	return func(a, b reflect.Value, path uint64, d *diff) {
		if before, after := state(a), state(b); before != after {
			d.emit(path, before, after, same)
		}
		for entry := a.MapRange(); entry.Next(); {
			at := mix(path, hashString(entry.Key().String()))
			other := b.MapIndex(entry.Key())
			if !other.IsValid() {
				d.emit(at, 2, 0, same)
				other = zero
			}
			inner(entry.Value(), other, at, d)
		}
		for entry := b.MapRange(); entry.Next(); {
			if !a.MapIndex(entry.Key()).IsValid() {
				at := mix(path, hashString(entry.Key().String()))
				d.emit(at, 0, 2, same)
				inner(zero, entry.Value(), at, d)
			}
		}
	}
}

// list compiles a list whose items have keys, or are their own.
func (c *compiler) list(t reflect.Type, l *schema.List) (walker, error) {
	elem := t.Elem()
	if elem.Kind() == reflect.Pointer {
		return leaf, nil
	}
	inner := leaf
	identify := scalarKey
	var own ownKey
	if len(l.Keys) > 0 {
		if elem.Kind() != reflect.Struct {
			return leaf, nil
		}
		var err error
		if inner, err = c.compile(elem, l.ElementType); err != nil {
			return nil, err
		}
		if identify, err = keyOf(elem, l.Keys); err != nil {
			return nil, err
		}
		own = ownKeyOf(elem, l.Keys)
	}
	return items(inner, identify, own, reflect.Zero(elem)), nil
}

// ownKey finds the key of an item in a list whose keys objects have of their own; its name is empty
// for other lists.
type ownKey struct {
	name  string
	index []int
}

func ownKeyOf(elem reflect.Type, keys []string) ownKey {
	if len(keys) != 1 || !slices.Contains(ownKeys, keys[0]) {
		return ownKey{}
	}
	index, ok := findField(elem, keys[0])
	if !ok || elem.FieldByIndex(index).Type.Kind() != reflect.String {
		return ownKey{}
	}
	return ownKey{keys[0], index}
}

// mark replaces the one key of both lists by its mark, if they have just one.
func (o ownKey) mark(a, b reflect.Value, before, after []uint64, d *diff) {
	if o.name == "" || len(before) > 1 || len(after) > 1 || len(before) == 1 && len(after) == 1 && before[0] != after[0] {
		return
	}
	list := a
	if len(before) == 0 {
		list = b
	}
	value := list.Index(0).FieldByIndex(o.index).String()
	if !plain(value) {
		return
	}
	key := d.mark(o.name, value)
	for _, keys := range [][]uint64{before, after} {
		for i := range keys {
			keys[i] = key
		}
	}
}

func scalarKey(v reflect.Value) uint64 { return scalar(v) }

func scalar(v reflect.Value) uint64 {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return 0
		}
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.String:
		return hashString(v.String())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return mix(1, uint64(v.Int()))
	case reflect.Bool:
		if v.Bool() {
			return 2
		}
		return 1
	}
	return hashString(fmt.Sprint(v.Interface()))
}

// keyOf returns the function that hashes an item's keys.
func keyOf(elem reflect.Type, keys []string) (func(reflect.Value) uint64, error) {
	var indexes [][]int
	for _, key := range keys {
		index, ok := findField(elem, key)
		if !ok {
			return nil, fmt.Errorf("managed: %s has no field %q to be its key", elem, key)
		}
		indexes = append(indexes, index)
	}
	return func(v reflect.Value) uint64 {
		h := uint64(len(indexes))
		for _, index := range indexes {
			h = mix(h, scalar(v.FieldByIndex(index)))
		}
		return h
	}, nil
}

func findField(t reflect.Type, name string) ([]int, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == name {
			return []int{i}, true
		}
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			if index, ok := findField(f.Type, name); ok {
				return append([]int{i}, index...), true
			}
		}
	}
	return nil, false
}

// short is how long a list may be for a look through it to beat a map. Tests make it 0.
var short = 48

// items compares lists by the items' keys.
func items(inner walker, identify func(reflect.Value) uint64, own ownKey, zero reflect.Value) walker {
	return func(a, b reflect.Value, path uint64, d *diff) {
		if before, after := state(a), state(b); before != after {
			d.emit(path, before, after, same)
		}
		if a.Len() == 0 && b.Len() == 0 {
			return
		}
		before, after := keysOf(a, identify, d), keysOf(b, identify, d)
		own.mark(a, b, before, after, d)
		inAfter, inBefore := placesOf(after), placesOf(before)
		for i, key := range before {
			at := mix(path, key)
			j := inAfter.find(key, i)
			if j < 0 {
				d.emit(at, 2, 0, same)
				inner(a.Index(i), zero, at, d)
				continue
			}
			inner(a.Index(i), b.Index(j), at, d)
		}
		for j, key := range after {
			if inBefore.find(key, j) < 0 {
				at := mix(path, key)
				d.emit(at, 0, 2, same)
				inner(zero, b.Index(j), at, d)
			}
		}
	}
}

func keysOf(list reflect.Value, identify func(reflect.Value) uint64, d *diff) []uint64 {
	keys := make([]uint64, list.Len())
	if len(keys) > short {
		seen := make(map[uint64]struct{}, len(keys))
		for i := range keys {
			keys[i] = identify(list.Index(i))
			seen[keys[i]] = struct{}{}
		}
		d.odd = d.odd || len(seen) < len(keys)
		return keys
	}
	for i := range keys {
		keys[i] = identify(list.Index(i))
		for _, other := range keys[:i] {
			if other == keys[i] {
				d.odd = true
			}
		}
	}
	return keys
}

// places finds keys among keys.
type places struct {
	keys []uint64
	at   map[uint64]int // nil where a look through does
}

func placesOf(keys []uint64) places {
	p := places{keys: keys}
	if len(keys) > short {
		p.at = make(map[uint64]int, len(keys))
		for i, key := range slices.Backward(keys) { // the first of those that are alike
			p.at[key] = i
		}
	}
	return p
}

// find returns the place of a key, or -1, looking first where it was in the other list.
func (p *places) find(key uint64, hint int) int {
	if p.at == nil || hint < len(p.keys) && p.keys[hint] == key {
		return indexOf(p.keys, key, hint)
	}
	if i, ok := p.at[key]; ok {
		return i
	}
	return -1
}

// indexOf finds key, looking first where it was in the other list.
func indexOf(keys []uint64, key uint64, hint int) int {
	if hint < len(keys) && keys[hint] == key {
		return hint
	}
	for i, k := range keys {
		if k == key {
			return i
		}
	}
	return -1
}
