package apiserver

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"coracle/internal/kind"
	"coracle/internal/resource"
	"coracle/internal/scheme"
)

// TestDurableFormIsUpstreams holds our codec against the serializer of k8s.io/apimachinery.
func TestDurableFormIsUpstreams(t *testing.T) {
	upstream := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	for _, k := range kind.All() {
		t.Run(k.Kind, func(t *testing.T) {
			obj := k.New()
			m, err := metaOf(obj)
			if err != nil {
				t.Fatal(err)
			}
			m.SetName("n")
			m.SetLabels(map[string]string{"a": "b"})
			m.SetFinalizers([]string{"x/y"})
			codec := newStorageCodec(k.GVK(), nil)
			var got, want bytes.Buffer
			if err := codec.Encode(obj, &got); err != nil {
				t.Fatal(err)
			}
			typed := shallowCopy(obj)
			typed.GetObjectKind().SetGroupVersionKind(k.GVK())
			if err := upstream.Encode(typed, &want); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want.Bytes()) {
				t.Fatalf("we write\n%q\nupstream writes\n%q", got.Bytes(), want.Bytes())
			}
			back, _, err := codec.Decode(want.Bytes(), nil, k.New())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(obj, back); d != "" {
				t.Errorf("decoded differs (-want +got):\n%s", d)
			}
		})
	}
}

func FuzzDurable(f *testing.F) {
	k, _ := kind.For(resource.Pods)
	codec := newStorageCodec(k.GVK(), k.Default)
	var buf bytes.Buffer
	if err := codec.Encode(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}, &buf); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Add(buf.Bytes()[:len(buf.Bytes())/2])
	f.Fuzz(func(t *testing.T, data []byte) {
		obj, _, err := codec.Decode(data, nil, k.New())
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := codec.Encode(obj, &again); err != nil {
			t.Fatal(err)
		}
	})
}

// TestEqualFieldSetsAreOne is worth a third of a pod's memory.
func TestEqualFieldSetsAreOne(t *testing.T) {
	k, _ := kind.For(resource.Pods)
	codec := newStorageCodec(k.GVK(), k.Default)
	var sets []*metav1.FieldsV1
	for _, name := range []string{"p", "q"} {
		var buf bytes.Buffer
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, ManagedFields: []metav1.ManagedFieldsEntry{{FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:x":{}}`)}}}}}
		if err := codec.Encode(p, &buf); err != nil {
			t.Fatal(err)
		}
		back, _, err := codec.Decode(buf.Bytes(), nil, k.New())
		if err != nil {
			t.Fatal(err)
		}
		sets = append(sets, back.(*corev1.Pod).ManagedFields[0].FieldsV1)
	}
	if sets[0] != sets[1] {
		t.Error("two pods hold two copies of one field set")
	}
}
