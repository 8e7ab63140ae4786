package store_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/store"
)

// TestSome: a decision sees the objects with a field's value as they are now, not as they were.
func TestSome(t *testing.T) {
	c := collection(t, openStore(t, store.Config{}), corePods())
	pod := benchPod(7)
	key := "/pods/default/" + pod.Name
	on := func(node string) (names []string) {
		c.Some("spec.nodeName", node, func(o runtime.Object) bool {
			names = append(names, o.(*corev1.Pod).Name)
			return false
		})
		return names
	}
	if got := on("node-7"); len(got) != 0 {
		t.Errorf("before it is made: %v", got)
	}
	for _, p := range []*corev1.Pod{pod, benchPod(8)} {
		if err := c.Create(t.Context(), "/pods/default/"+p.Name, p, &corev1.Pod{}, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := on("node-7"); len(got) != 1 || got[0] != pod.Name {
		t.Errorf("once it is made: %v", got)
	}
	if !c.Some("spec.nodeName", "node-7", func(runtime.Object) bool { return true }) || c.Some("spec.nodeName", "node-9", func(runtime.Object) bool { return true }) {
		t.Error("what matches is not told")
	}
	err := c.GuaranteedUpdate(t.Context(), key, &corev1.Pod{}, false, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
		o.(*corev1.Pod).Spec.NodeName = "node-9"
		return o, nil
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	if was, now := on("node-7"), on("node-9"); len(was) != 0 || len(now) != 1 {
		t.Errorf("once it has moved: %v there, %v here", was, now)
	}
	if err := c.Delete(t.Context(), key, &corev1.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := on("node-9"); len(got) != 0 {
		t.Errorf("once it is gone: %v", got)
	}
}
