package bounds

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"
)

func TestJSON(t *testing.T) {
	for in, want := range map[string]Weight{
		``:                                {},
		`5`:                               {},
		`{}`:                              {1, 1, 0, 0},
		`{"a":1,"b":[1,2,{"c":"]}[,{"}]}`: {3, 6, 1, 3},
		`[{"op":"x"},{"op":"y"}]`:         {2, 4, 0, 2},
		`{"a":"\"{[","b":"\\"}`:           {1, 2, 0, 0},
		`{"a`:                             {1, 1, 0, 0},
		`}}]]{`:                           {1, 1, 0, 0},
	} {
		if diff := cmp.Diff(want, JSON([]byte(in))); diff != "" {
			t.Errorf("%s: %s", in, diff)
		}
	}
	deep := []byte(strings.Repeat("[", 1<<20))
	if w := JSON(deep); w.Depth != Depth+1 || w.Check() == nil {
		t.Errorf("depth %d", w.Depth)
	}
}

// tree draws a value of JSON.
func tree(t *rapid.T, depth int) any {
	switch kinds := 6; rapid.IntRange(0, kinds-min(depth, 3)).Draw(t, "kind") {
	case 0:
		return rapid.StringMatching(`[a-z"\\{}\[\],: ]{0,8}`).Draw(t, "text")
	case 1:
		return rapid.IntRange(-5, 1000).Draw(t, "number")
	case 2:
		return nil
	case 3:
		return true
	case 4:
		list := []any{}
		for range rapid.IntRange(0, 4).Draw(t, "elements") {
			list = append(list, tree(t, depth+1))
		}
		return list
	}
	m := map[string]any{}
	for range rapid.IntRange(0, 4).Draw(t, "fields") {
		m[rapid.StringMatching(`[a-z]{1,3}`).Draw(t, "name")] = tree(t, depth+1)
	}
	return m
}

// model weighs a value by looking at it.
func model(v any, outermost bool) (w Weight) {
	var parts []any
	switch x := v.(type) {
	case map[string]any:
		for _, p := range x {
			parts = append(parts, p)
		}
	case []any:
		parts = x
		w.Elements = max(len(x), 1)
		for _, p := range x {
			if _, ok := p.(map[string]any); ok && !outermost {
				w.Items++
			}
		}
	default:
		return w
	}
	w.Values = max(len(parts), 1)
	for _, p := range parts {
		inner := model(p, false)
		w.Depth = max(w.Depth, inner.Depth)
		w.Values, w.Items, w.Elements = w.Values+inner.Values, w.Items+inner.Items, w.Elements+inner.Elements
	}
	w.Depth++
	return w
}

// TestWeightsAgree: what is counted in bytes is what a reader of the whole would count, in JSON; and in YAML no less.
func TestWeightsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := tree(t, 0)
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		want := model(v, true)
		if diff := cmp.Diff(want, JSON(raw)); diff != "" {
			t.Fatalf("%s: %s", raw, diff)
		}
		text, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		got, err := YAML(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if json.Valid(text) {
			return
		}
		// The document and its value count here, and an empty list for none.
		if got.Depth != want.Depth || got.Values > want.Values+2 || 2*got.Values < want.Values || got.Items < want.Items {
			t.Fatalf("%s: %+v, want %+v", text, got, want)
		}
	})
}

func TestYAML(t *testing.T) {
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 x\n")
	for level := range 60 { // 2 to the 60th values
		fmt.Fprintf(&bomb, "a%d: &a%d [*a%d, *a%d]\n", level+1, level+1, level, level)
	}
	for in, want := range map[string]string{
		"a: 1\nb: [c, d]\n":     "",
		"a: &x {b: c}\nd: *x\n": "",
		"a: &x [*x]\n":          "names what it is in",
		"a: *nowhere\n":         "not YAML",
		"a: [":                  "not YAML",
		bomb.String():           "aliases",
		strings.Repeat("[", Depth) + strings.Repeat("]", Depth) + " # not JSON": "",
		strings.Repeat("[", Depth+5) + strings.Repeat("]", Depth+5) + " #":      "too deep",
		strings.Repeat("- a\n", 3*Values):                                       "too many values",
		strings.Repeat("- a\n", Values+1):                                       "too many values",
	} {
		w, err := YAML([]byte(in))
		if err == nil {
			err = w.Check()
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", in, err, want)
		}
	}
}

// TestProtobuf: the typed count sees empty elements, and takes neither texts nor maps for them.
func TestProtobuf(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"a": "b", "c": "d"}, Finalizers: []string{"x/y"},
			ManagedFields: []metav1.ManagedFieldsEntry{{FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:a":{}}`)}}}},
		Spec: corev1.PodSpec{
			Containers:  []corev1.Container{{}, {}, {Args: []string{"\x0a\x00\x0a\x00"}}},
			Tolerations: []corev1.Toleration{{}},
		},
	}
	raw, err := pod.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	w := Protobuf(raw, reflect.TypeFor[corev1.Pod]())
	// Containers, a toleration, an entry of managed fields.
	if w.Items != 5 || w.Elements != 5+2+1+1 || w.Depth < 4 {
		t.Errorf("%+v", w)
	}
	spec := bytes.Repeat([]byte{2<<3 | 2, 0}, 1<<20)
	body := append(append([]byte{2<<3 | 2}, varint(len(spec))...), spec...)
	if w := Protobuf(body, reflect.TypeFor[corev1.Pod]()); w.Check() == nil {
		t.Errorf("a million empty containers weigh %+v", w)
	}
	for range 2000 { // damaged ones are weighed as far as they go
		cut := bytes.Clone(raw)
		cut[rand.Intn(len(cut))] = byte(rand.Intn(256))
		Protobuf(cut[:rand.Intn(len(cut)+1)], reflect.TypeFor[corev1.Pod]())
		Envelope(append(bytes.Clone(ProtobufMagic), cut...))
	}
}

func varint(n int) (out []byte) {
	for ; n >= 0x80; n >>= 7 {
		out = append(out, byte(n)|0x80)
	}
	return append(out, byte(n))
}

// TestObject: what is too much is refused where it is new, and may shrink where it is not.
func TestObject(t *testing.T) {
	withArgs := func(n int, text string) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{}}}}
		for range n {
			p.Spec.Containers[0].Env = append(p.Spec.Containers[0].Env, corev1.EnvVar{Name: text})
		}
		return p
	}
	large := withArgs(1, strings.Repeat("x", ObjectBytes))
	many, more := withArgs(Items+100, "x"), withArgs(Items+101, "x")
	for _, x := range []struct {
		name      string
		next, old any
		refused   bool
	}{
		{"small", withArgs(10, "x"), nil, false},
		{"large", large, nil, true},
		{"large already", large, large, false},
		{"large, and more so", withArgs(1, strings.Repeat("x", ObjectBytes+10)), large, true},
		{"many", many, nil, true},
		{"many already", many, many, false},
		{"more", more, many, true},
		{"fewer", many, more, false},
		{"no object", 5, nil, false},
	} {
		err := Object(x.next, x.old)
		var e *Excess
		if (err != nil) != x.refused || err != nil && !errors.As(err, &e) {
			t.Errorf("%s: %v", x.name, err)
		}
	}
}

func BenchmarkJSON(b *testing.B) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"a": "b"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "A", Value: "b"}}}}}}
	raw, err := json.Marshal(pod)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		JSON(raw)
	}
}
