package store_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/store"
)

// TestPatienceGrowsWithTheCluster: where listing again would cost a watcher more than to catch up, it may fall further
// behind, and may come back from further back.
func TestPatienceGrowsWithTheCluster(t *testing.T) {
	for _, tc := range []struct {
		name            string
		objects, behind int
		shared          bool
		lost, expired   bool
	}{
		{"few objects", 4, 60, false, true, true},
		{"as many events as objects", 100, 90, false, false, false},
		{"more events than objects", 100, 150, false, true, false},
		{"a watcher in process", 100, 900, true, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := openStore(t, store.Config{WatchQueue: 10, History: store.History{Events: 10}})
			c := collection(t, s, corePods())
			seed(t, c, tc.objects)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tc.shared {
				ctx = store.Shared(ctx)
			}
			from := fmt.Sprint(s.Revision())
			w, err := c.Watch(ctx, "/pods", storage.ListOptions{Recursive: true, ResourceVersion: from, Predicate: storage.Everything})
			if err != nil {
				t.Fatal(err)
			}
			key := podKey(benchPod(0))
			for n := range tc.behind + 100 { // what the channel of a watch holds is not behind
				touch(t, c, key, n)
			}
			lost := false
			for range tc.behind + 100 {
				e := <-w.ResultChan()
				if e.Type == watch.Error {
					lost = true
					break
				}
			}
			if lost != tc.lost {
				t.Errorf("lost its place: %v, want %v", lost, tc.lost)
			}
			// A quarter as many changes as there are objects are remembered, or those ten.
			back := fmt.Sprint(s.Revision() - 20)
			again, err := c.Watch(t.Context(), "/pods", storage.ListOptions{Recursive: true, ResourceVersion: back, Predicate: storage.Everything})
			if err != nil {
				t.Fatal(err)
			}
			defer again.Stop()
			if e := <-again.ResultChan(); (e.Type == watch.Error) != tc.expired {
				t.Errorf("coming back: %v, want an error %v", e, tc.expired)
			}
		})
	}
}

func touch(t *testing.T, c *store.Collection, key string, n int) {
	t.Helper()
	err := c.GuaranteedUpdate(t.Context(), key, &corev1.Pod{}, false, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
		o.(*corev1.Pod).Annotations = map[string]string{"n": fmt.Sprint(n)}
		return o, nil
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
}
