package store_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/store"
)

// TestObserve: an observer is told of what there is, then of each change in order, and has been told by the time that the
// writer is answered.
func TestObserve(t *testing.T) {
	dir := t.TempDir()
	cfg := store.Config{Dir: dir}
	st := openStore(t, cfg)
	c := collection(t, st, corePods())
	create := func(c *store.Collection, i int) {
		t.Helper()
		p := benchPod(i)
		if err := c.Create(t.Context(), "/pods/default/"+p.Name, p, &corev1.Pod{}, 0); err != nil {
			t.Fatal(err)
		}
	}
	create(c, 1)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	c = collection(t, openStore(t, cfg), corePods())

	var mu sync.Mutex
	var told []string
	name := func(o runtime.Object) string {
		if o == nil {
			return "-"
		}
		p := o.(*corev1.Pod)
		return p.Name + "@" + p.Spec.NodeName
	}
	err := c.Observe(func(before, after runtime.Object) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, fmt.Sprintf("%s>%s", name(before), name(after)))
	})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want ...string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
		told = nil
	}
	one, two := benchPod(1), benchPod(2)
	expect("->" + name(one))
	create(c, 2)
	expect("->" + name(two))
	key := "/pods/default/" + one.Name
	err = c.GuaranteedUpdate(t.Context(), key, &corev1.Pod{}, false, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
		o.(*corev1.Pod).Spec.NodeName = "moved"
		return o, nil
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	expect(name(one) + ">" + one.Name + "@moved")
	if err := c.Delete(t.Context(), key, &corev1.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(one.Name + "@moved>-")
}
