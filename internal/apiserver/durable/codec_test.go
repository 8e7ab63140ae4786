package durable

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
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
			m, err := meta.Accessor(obj)
			if err != nil {
				t.Fatal(err)
			}
			m.SetName("n")
			m.SetLabels(map[string]string{"a": "b"})
			m.SetFinalizers([]string{"x/y"})
			codec := NewCodec(k.GVK(), nil)
			var got, want bytes.Buffer
			if err := codec.Encode(obj, &got); err != nil {
				t.Fatal(err)
			}
			typed := obj.DeepCopyObject()
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
	codec := NewCodec(k.GVK(), k.Default)
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
	codec := NewCodec(k.GVK(), k.Default)
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

func encoded(t *testing.T, c *Codec, obj runtime.Object) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := c.Encode(obj, &buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func decoded(t *testing.T, c *Codec, data []byte) *corev1.Pod {
	t.Helper()
	back, _, err := c.Decode(data, nil, &corev1.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	return back.(*corev1.Pod)
}

func controlled(name, node string) *corev1.Pod {
	yes := true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"app": "web"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "u", Controller: &yes}},
		},
		Spec: corev1.PodSpec{
			NodeName: node, Tolerations: []corev1.Toleration{{Key: "k"}},
			Containers: []corev1.Container{{Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "A", Value: "1"}}}},
			Volumes:    []corev1.Volume{{Name: "v"}},
		},
		Status: corev1.PodStatus{PodIP: "10.0.0.1"},
	}
}

// TestPodsOfOneTemplateShareTheirSpec: they are what was written, to the letter, and one in memory but for
// what differs.
func TestPodsOfOneTemplateShareTheirSpec(t *testing.T) {
	k, _ := kind.For(resource.Pods)
	codec := NewCodec(k.GVK(), k.Default)
	var pods []*corev1.Pod
	for i, node := range []string{"", "n1", "n2"} {
		want := controlled(string(rune('a'+i)), node)
		got := decoded(t, codec, encoded(t, codec, want))
		k.Default(want)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("decoded differs (-want +got):\n%s", d)
		}
		pods = append(pods, got)
	}
	for _, p := range pods[1:] {
		first := pods[0]
		if &p.Spec.Containers[0] != &first.Spec.Containers[0] || &p.Spec.Volumes[0] != &first.Spec.Volumes[0] ||
			&p.OwnerReferences[0] != &first.OwnerReferences[0] || reflect.ValueOf(p.Labels).Pointer() != reflect.ValueOf(first.Labels).Pointer() {
			t.Errorf("pod %s shares nothing with the first", p.Name)
		}
	}
	other := controlled("x", "")
	other.Spec.Hostname = "x"
	other.Spec.Volumes[0].Name = "w"
	got := decoded(t, codec, encoded(t, codec, other))
	if &got.Spec.Containers[0] != &pods[0].Spec.Containers[0] {
		t.Error("containers of a pod with another volume are not shared")
	}
	if got.Spec.Volumes[0].Name != "w" || pods[0].Spec.Volumes[0].Name != "v" || got.Spec.Hostname != "x" || pods[0].Spec.Hostname != "" {
		t.Error("what differs is shared")
	}
}

// TestForeignFormsOfAPod: fields in another order, or twice, are read as protobuf has it.
func TestForeignFormsOfAPod(t *testing.T) {
	k, _ := kind.For(resource.Pods)
	codec := NewCodec(k.GVK(), nil)
	a, b := controlled("a", "n1"), &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n2", Hostname: "h"}}
	one, err := a.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	both := append(one, two...)
	var want, got corev1.Pod
	if err := want.Unmarshal(both); err != nil {
		t.Fatal(err)
	}
	if err := codec.fillPod(&got, both); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" || got.Spec.NodeName != "n2" {
		t.Errorf("decoded differs (-want +got):\n%s", d)
	}
}

func BenchmarkDecodePod(b *testing.B) {
	k, _ := kind.For(resource.Pods)
	codec := NewCodec(k.GVK(), k.Default)
	var buf bytes.Buffer
	if err := codec.Encode(controlled("a", "n1"), &buf); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := codec.Decode(buf.Bytes(), nil, &corev1.Pod{}); err != nil {
			b.Fatal(err)
		}
	}
}
