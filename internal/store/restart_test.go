package store_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/store"
)

// TestRestart keeps objects, revision, expiry and the history from which watches go on.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, store.Config{Dir: dir})
	c := collection(t, s, examplePods("/pods"))
	var all []*example.Pod
	for i := range 20 {
		all = append(all, mustPut(t, c, fmt.Sprint("p", i%7), fmt.Sprint(i)))
	}
	if err := c.Delete(t.Context(), keyOf("p3"), &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), keyOf("mortal"), pod("mortal"), nil, 2); err != nil {
		t.Fatal(err)
	}
	want, rev := values(t, c), s.Revision()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, store.Config{Dir: dir})
	if s.Revision() != rev {
		t.Errorf("revision %d, want %d", s.Revision(), rev)
	}
	c = collection(t, s, examplePods("/pods"))
	if diff := cmp.Diff(want, values(t, c)); diff != "" {
		t.Error(diff)
	}
	w, err := c.Watch(t.Context(), "/pods", storage.ListOptions{Recursive: true, ResourceVersion: all[9].ResourceVersion, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for _, p := range all[10:] {
		ev := <-w.ResultChan()
		got := ev.Object.(runtime.CacheableObject).GetObject()
		if diff := cmp.Diff(p, got); diff != "" || ev.Type != watch.Modified {
			t.Fatalf("event %s: %s", ev.Type, diff)
		}
	}
	if ev := <-w.ResultChan(); ev.Type != watch.Deleted {
		t.Errorf("event %v", ev)
	}
	if ev := <-w.ResultChan(); ev.Type != watch.Added {
		t.Errorf("event %v", ev)
	}
	if ev := <-w.ResultChan(); ev.Type != watch.Deleted { // its time has come
		t.Errorf("event %v", ev)
	}
}

// TestRestartAfterCompaction restarts on a compacted directory, with keys of resources that are
// not served this time.
func TestRestartAfterCompaction(t *testing.T) {
	dir := t.TempDir()
	want := map[string]string{}
	for life := range 4 {
		s := openStore(t, store.Config{Dir: dir})
		c := collection(t, s, examplePods("/pods"))
		if diff := cmp.Diff(want, values(t, c)); diff != "" {
			t.Fatalf("life %d: %s", life, diff)
		}
		if life%2 == 0 {
			other := collection(t, s, examplePods("/other"))
			if err := other.GuaranteedUpdate(t.Context(), "/other/x", &example.Pod{}, true, nil, storage.SimpleUpdate(func(runtime.Object) (runtime.Object, error) {
				return pod(fmt.Sprint("x", life)), nil
			}), nil); err != nil {
				t.Fatal(err)
			}
		}
		var group sync.WaitGroup
		var mu sync.Mutex
		for i := range 8 {
			group.Go(func() {
				for n := range 100 {
					name, value := fmt.Sprint("p", i, n%5), fmt.Sprint(life, n)
					mustPut(t, c, name, value)
					mu.Lock()
					want[name] = value
					mu.Unlock()
					if n == 50 && i%4 == 0 {
						if err := store.CompactEngine(s); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		group.Wait()
		name := fmt.Sprint("p", life, 0)
		if err := c.Delete(t.Context(), keyOf(name), &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		delete(want, name)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := openStore(t, store.Config{Dir: dir})
	var last example.Pod
	if err := collection(t, s, examplePods("/other")).Get(t.Context(), "/other/x", storage.GetOptions{}, &last); err != nil || last.Name != "x2" {
		t.Errorf("resource not served meanwhile: %v %v", last.Name, err)
	}
}
