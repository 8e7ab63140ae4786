package codec

import (
	"bytes"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"

	"coracle/internal/kind"
	"coracle/internal/resource"
)

// encoders returns our encoder of JSON and upstream's.
func encoders(t testing.TB, k kind.Kind) (ours, theirs runtime.Encoder) {
	t.Helper()
	c := New()
	info, ok := runtime.SerializerInfoForMediaType(c.SupportedMediaTypes(), runtime.ContentTypeJSON)
	if !ok {
		t.Fatal("no JSON")
	}
	gv := k.GVK().GroupVersion()
	return c.EncoderForVersion(info.Serializer, gv), c.CodecFactory.EncoderForVersion(info.Serializer, gv)
}

func text(t interface{ Fatal(...any) }, e runtime.Encoder, obj runtime.Object) string {
	var b bytes.Buffer
	if err := e.Encode(obj, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestJSONIsUpstreams: whatever the field sets and the rest look like, each byte is as upstream's encoder writes it, of
// every kind, by itself and in a watch event.
func TestJSONIsUpstreams(t *testing.T) {
	for _, k := range kind.All() {
		ours, theirs := encoders(t, k)
		if ours.(*sharedEncoder).form != jsonForm {
			t.Fatal("the server's JSON is not taken for JSON")
		}
		t.Run(k.Kind, rapid.MakeCheck(func(t *rapid.T) {
			obj := k.New()
			m := obj.(metav1.Object)
			m.SetName("n")
			m.SetAnnotations(rapid.MapOfN(rapid.SampledFrom([]string{"a", "fieldsV1"}), rapid.SampledFrom([]string{"", `{"":0}`, `"fieldsV1":{"":0}`, "<é>\n"}), 0, 2).Draw(t, "annotations"))
			sets := []string{`{"f:a":{}}`, `{"f:a":{".":{},"k:{\"b\":\"c\"}":{}}}`, `{"":0}`, `{}`, `{ "f:a": {} }`, `{"f:<b>":{}}`, `{"f:é":{}}`, `{"v:\"x y\"":{}}`}
			var entries []metav1.ManagedFieldsEntry
			for range rapid.IntRange(0, 3).Draw(t, "managers") {
				e := metav1.ManagedFieldsEntry{Manager: rapid.SampledFrom([]string{"m", `"fieldsV1":{"":0}`}).Draw(t, "manager")}
				if rapid.Bool().Draw(t, "fields") || rapid.Bool().Draw(t, "surely") {
					e.FieldsV1 = &metav1.FieldsV1{Raw: []byte(rapid.SampledFrom(sets).Draw(t, "set"))}
				}
				entries = append(entries, e)
			}
			m.SetManagedFields(entries)
			before := obj.DeepCopyObject()
			got, want := text(t, ours, obj), text(t, theirs, obj.DeepCopyObject())
			if got != want {
				t.Fatalf("we write\n%s\nupstream writes\n%s", got, want)
			}
			if text(t, theirs, before) != text(t, theirs, obj.DeepCopyObject()) || obj.GetObjectKind().GroupVersionKind().Kind != "" {
				t.Fatal("encoding changes the object")
			}
			raw := rapid.SampledFrom([]string{got, strings.TrimSuffix(got, "\n"), "{\"a\":\n1}\n", `{"a": "<"}`}).Draw(t, "raw")
			event := &metav1.WatchEvent{Type: rapid.SampledFrom([]string{"ADDED", "<>"}).Draw(t, "type"), Object: runtime.RawExtension{Raw: []byte(raw)}}
			if got, want := text(t, ours, event), text(t, theirs, event.DeepCopy()); got != want {
				t.Fatalf("we write the event\n%s\nupstream writes\n%s", got, want)
			}
		}))
	}
}

func BenchmarkEncodePod(b *testing.B) {
	k, ok := kind.For(resource.Pods)
	if !ok {
		b.Fatal("no pods")
	}
	ours, theirs := encoders(b, k)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Image: "img:1", Ports: []corev1.ContainerPort{{ContainerPort: 80}}, Env: []corev1.EnvVar{{Name: "A", Value: "1"}},
	}}}}
	set := `{"f:status":{"f:conditions":{` + strings.Repeat(`"k:{\"type\":\"Ready\"}":{".":{},"f:status":{}},`, 12) + `".":{}}}}`
	p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "a", FieldsV1: &metav1.FieldsV1{Raw: []byte(set)}}, {Manager: "b", FieldsV1: &metav1.FieldsV1{Raw: []byte(set)}}}
	for name, e := range map[string]runtime.Encoder{"ours": ours, "upstream": theirs} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var object, event bytes.Buffer
			for b.Loop() {
				object.Reset()
				event.Reset()
				if err := e.Encode(&corev1.Pod{ObjectMeta: p.ObjectMeta, Spec: p.Spec, Status: p.Status}, &object); err != nil {
					b.Fatal(err)
				}
				if err := e.Encode(&metav1.WatchEvent{Type: "MODIFIED", Object: runtime.RawExtension{Raw: object.Bytes()}}, &event); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
