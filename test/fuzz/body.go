package fuzz

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"sigs.k8s.io/yaml"

	"coracle/internal/apiserver/bounds"
	"coracle/internal/scheme"
)

// nasty are values that stand where others were meant.
var nasty = []any{
	nil, true, false, 0, -1, 1, 3.5, float64(math.MinInt64), 1e308, 1e19, "", " ", "a", "A_B", "-", "..", "../../x", "/",
	"\x00", "\u202e", "é",
	"5", "-5", "1e400", "100000000000000000000000000Ti", "1n", "NaN", "25%", "-25%", "9999999999999999999%",
	"0001-01-01T00:00:00Z",
	"9999-99-99T00:00:00Z", "$(X)", "::1", "999.1.1.1", "10.0.0.0/33", "%%%",
	[]any{}, []any{nil}, []any{[]any{}}, []any{map[string]any{}}, map[string]any{}, map[string]any{"": ""},
	map[string]any{"a": map[string]any{}},
}

// words are names of fields that mean something somewhere.
var words = []string{"", "a", "name", "spec", "status", "metadata", "../x", strings.Repeat("k", 300), "\x00",
	"kubernetes.io/x", "finalizers",
	"ownerReferences", "deletionTimestamp", "generateName", "resourceVersion", "uid", "selfLink", "managedFields", "items",
	"kind", "apiVersion",
	"$patch", "$retainKeys", "$setElementOrder/containers", "$setElementOrder/ports", "$setElementOrder/finalizers",
	"$deleteFromPrimitiveList/finalizers", "$deleteFromPrimitiveList/x"}

func (g Gen) nasty() any { return runtime.DeepCopyJSONValue(plain(nasty[g.Intn(len(nasty))])) }

// plain gives numbers the types that decoding would.
func plain(v any) any {
	if n, ok := v.(int); ok {
		return int64(n)
	}
	return v
}

// mutate changes one place of a value.
func (g Gen) mutate(v any) any {
	switch t := v.(type) {
	case map[string]any:
		if len(t) == 0 || g.Intn(8) == 0 {
			if g.Intn(4) == 0 {
				return g.nasty()
			}
			t[words[g.Intn(len(words))]] = g.nasty()
			return t
		}
		key := slices.Sorted(maps.Keys(t))[g.Intn(len(t))]
		if g.Intn(12) == 0 {
			delete(t, key)
			return t
		}
		t[key] = g.mutate(t[key])
		return t
	case []any:
		if len(t) == 0 {
			return []any{g.nasty()}
		}
		i := g.Intn(len(t))
		switch g.Intn(7) {
		case 0:
			return append(t, runtime.DeepCopyJSONValue(t[i]))
		case 1:
			return append(t, g.nasty())
		case 2:
			if m, ok := t[i].(map[string]any); ok {
				m["$patch"] = oneOf[any](g, "delete", "replace", "merge", "x", int64(5))
				return t
			}
		}
		t[i] = g.mutate(t[i])
		return t
	}
	switch g.Intn(14) {
	case 0:
		return strings.Repeat("x", 1<<g.Intn(21))
	case 1:
		return strings.Repeat("é/", 1<<g.Intn(10))
	}
	return g.nasty()
}

// mutated changes a few places of an object.
func (g Gen) mutated(object map[string]any) map[string]any {
	for range oneOf(g, 0, 1, 1, 1, 2, 2, 3, 4) {
		if m, ok := g.mutate(object).(map[string]any); ok {
			object = m
		}
	}
	if g.Intn(25) == 0 {
		g.overfill(object)
	}
	return object
}

// overfill fills a list or a map of an object with many elements, about as many as is allowed.
func (g Gen) overfill(v any) bool {
	n := 1 << g.Intn(14)
	switch t := v.(type) {
	case map[string]any:
		for _, key := range g.shuffled(t) {
			if g.Intn(2) == 0 && g.overfill(t[key]) {
				return true
			}
			if list, ok := t[key].([]any); ok && len(list) > 0 {
				t[key] = g.many(list[0], n)
				return true
			}
		}
		if g.Intn(3) == 0 {
			for i := range n {
				t[fmt.Sprintf("k%x", i*2654435761%(1<<31))] = oneOf[any](g, "v", "v", map[string]any{})
			}
			return true
		}
	case []any:
		return len(t) > 0 && g.overfill(t[0])
	}
	return false
}

func (g Gen) shuffled(m map[string]any) []string {
	keys := slices.Sorted(maps.Keys(m))
	g.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return keys
}

// many returns n copies of an element, alike or with names of their own.
func (g Gen) many(element any, n int) []any {
	list := make([]any, n)
	own, empty := g.Intn(3) > 0, g.Intn(6) == 0
	for i := range list {
		switch e := runtime.DeepCopyJSONValue(element).(type) {
		case map[string]any:
			if empty {
				e = map[string]any{}
			}
			for _, key := range []string{"name", "key", "ip", "mountPath", "type", "uid"} {
				if _, ok := e[key]; ok && own {
					e[key] = fmt.Sprintf("n%x", i*2654435761%(1<<31))
				}
			}
			list[i] = e
		case string:
			if own {
				e = fmt.Sprintf("a/n%x", i*2654435761%(1<<31))
			}
			list[i] = e
		default:
			list[i] = e
		}
	}
	return list
}

// body makes the bytes of an object, seldom sound, and says what they are.
func (g Gen) body(object map[string]any) ([]byte, string) {
	object = g.mutated(object)
	raw, err := json.Marshal(object)
	if err != nil {
		return nil, formats[0]
	}
	format := formats[g.Intn(len(formats))]
	if b := g.hostile(format); b != nil {
		return b, format
	}
	switch format {
	case "application/yaml":
		if y, err := yaml.JSONToYAML(raw); err == nil && len(raw) < 1<<18 {
			raw = y
		}
	case "application/vnd.kubernetes.protobuf":
		raw = g.protobuf(raw)
	}
	return g.damage(raw), format
}

// damage cuts or changes bytes, sometimes.
func (g Gen) damage(raw []byte) []byte {
	switch g.Intn(20) {
	case 0:
		return raw[:g.Intn(len(raw)+1)]
	case 1:
		for range min(len(raw), 1+g.Intn(5)) {
			raw[g.Intn(len(raw))] = byte(g.Intn(256))
		}
	case 2:
		return bytes.Replace(raw, []byte(`{`), []byte(`{"kind":"Pod","kind":"Secret","metadata":{"name":"a","name":"b"},`), 1)
	case 3:
		return bytes.ReplaceAll(raw, []byte(`"a"`), []byte("\"\xff\xfe\xc0\""))
	}
	return raw
}

// hostile makes a body that costs more than it is long, seldom.
func (g Gen) hostile(format string) []byte {
	n := 1 << g.Intn(18)
	switch g.Intn(60) {
	case 0:
		return []byte(`{"metadata":` + strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) + "}")
	case 1:
		return []byte(strings.Repeat("[", n) + strings.Repeat("]", n))
	case 2:
		return []byte(`{"metadata":{"ownerReferences":[` + strings.TrimSuffix(strings.Repeat("{},", n), ",") + `]}}`)
	case 3:
		if format == "application/yaml" {
			return g.bomb()
		}
	case 4:
		if format == "application/yaml" {
			return []byte(oneOf(g, "", "x: ") + strings.Repeat("- ", min(n, 1<<13)) + "a")
		}
	case 5:
		if format == "application/vnd.kubernetes.protobuf" {
			return g.empties(n)
		}
	}
	return nil
}

// bomb makes YAML in which few anchors stand for much.
func (g Gen) bomb() []byte {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb}\n" +
		"a0: &a0 " + strings.Repeat("x", 1<<g.Intn(12)) + "\n")
	width := 2 + g.Intn(60)
	for level := range 1 + g.Intn(8) {
		all := strings.Repeat(fmt.Sprintf("*a%d,", level), width)
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", level+1, level+1, strings.TrimSuffix(all, ","))
	}
	return []byte(b.String())
}

// empties makes a pod in protobuf with n empty elements in a list of its spec.
func (g Gen) empties(n int) []byte {
	field := byte(oneOf(g, 1, 2, 9, 20)<<3 | 2)
	spec := bytes.Repeat([]byte{field, 0}, n)
	if field > 127 { // a tag of two bytes
		spec = bytes.Repeat([]byte{field, 1, 0}, n)
	}
	return envelope("v1", "Pod", delimited(2, spec))
}

func envelope(version, kind string, object []byte) []byte {
	body := bytes.Clone(bounds.ProtobufMagic)
	body = append(body, delimited(1, append(delimited(1, []byte(version)), delimited(2, []byte(kind))...))...)
	return append(body, delimited(2, object)...)
}

func delimited(field byte, value []byte) []byte {
	out := []byte{field<<3 | 2}
	for n := uint64(len(value)); ; n >>= 7 {
		if n < 0x80 {
			out = append(out, byte(n))
			break
		}
		out = append(out, byte(n)|0x80)
	}
	return append(out, value...)
}

// protobuf turns JSON into Kubernetes protobuf, as far as it is an object.
func (g Gen) protobuf(raw []byte) []byte {
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, nil)
	if err != nil {
		return append(bytes.Clone(bounds.ProtobufMagic), raw[:min(len(raw), 200)]...)
	}
	var buf bytes.Buffer
	if protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(obj, &buf) != nil {
		return raw
	}
	return buf.Bytes()
}

// options makes the body of a deletion.
func (g Gen) options() ([]byte, string) {
	if g.Intn(3) == 0 {
		return nil, ""
	}
	return g.body(map[string]any{
		"apiVersion": oneOf[any](g, "v1", "meta.k8s.io/v1", "apps/v1", "x"), "kind": "DeleteOptions",
		"gracePeriodSeconds": int64(0),
		"preconditions":      map[string]any{"uid": "x", "resourceVersion": oneOf[any](g, "1", "abc", "-1")},
		"propagationPolicy":  "Background",
		"dryRun":             []any{"All"},
	})
}
