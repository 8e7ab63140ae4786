package store_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/store"
)

// TestSharedPointers wants one object in memory for all in-process readers.
func TestSharedPointers(t *testing.T) {
	s := openStore(t, store.Config{})
	c := collection(t, s, examplePods("/pods"))
	w, err := c.Watch(store.Shared(t.Context()), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	mustPut(t, c, "a", "1")
	first, err := c.Object(keyOf("a"))
	if err != nil {
		t.Fatal(err)
	}
	listed, rev, err := c.Objects(t.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
	if err != nil || rev != s.Revision() {
		t.Fatal(rev, err)
	}
	if ev := <-w.ResultChan(); ev.Object != first || listed[0] != first {
		t.Errorf("three readers got %p, %p and %p", first, ev.Object, listed[0])
	}
	if err := s.VerifyUnchanged(); err != nil {
		t.Error(err)
	}
	first.(*example.Pod).Annotations["value"] = "changed behind the store's back"
	if err := s.VerifyUnchanged(); err == nil || !strings.Contains(err.Error(), keyOf("a")) {
		t.Errorf("a changed object was not found: %v", err)
	}
}

// TestEncodedOnceForAllWatchers wants one encoding for however many watchers over HTTP.
func TestEncodedOnceForAllWatchers(t *testing.T) {
	c := collection(t, openStore(t, store.Config{}), examplePods("/pods"))
	var watches []watch.Interface
	for range 5 {
		w, err := c.Watch(t.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		watches = append(watches, w)
	}
	mustPut(t, c, "a", "1")
	if err := c.Delete(t.Context(), keyOf("a"), &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	encodings := 0
	encode := func(obj runtime.Object, w io.Writer) error {
		encodings++
		obj.(*example.Pod).Kind = "Pod" // as encoders do, on what must be their own copy
		_, err := io.WriteString(w, obj.(metav1.Object).GetResourceVersion())
		return err
	}
	for _, want := range []string{"2", "3"} {
		for _, w := range watches {
			ev := <-w.ResultChan()
			var buf bytes.Buffer
			if err := ev.Object.(runtime.CacheableObject).CacheEncode("test", encode, &buf); err != nil || buf.String() != want {
				t.Errorf("encoded %q, %v; want %q", buf.String(), err, want)
			}
		}
	}
	if encodings != 2 {
		t.Errorf("encoded %d times, want once for each of 2 events", encodings)
	}
}

// TestExpiryAndBookmarksInTime runs an hour in a moment.
func TestExpiryAndBookmarksInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(store.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		c := collection(t, s, examplePods("/pods"))
		ctx := context.Background()
		pred := storage.Everything
		pred.AllowWatchBookmarks = true
		w, err := c.Watch(ctx, "/pods", storage.ListOptions{Recursive: true, ResourceVersion: "1", Predicate: pred})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		start := time.Now()
		if err := c.Create(ctx, keyOf("event"), pod("event"), nil, 3600); err != nil {
			t.Fatal(err)
		}
		other := collection(t, s, examplePods("/other"))
		if err := other.Create(ctx, "/other/ns/x", pod("x"), nil, 0); err != nil {
			t.Fatal(err)
		}
		for _, want := range []struct {
			kind watch.EventType
			at   time.Duration
			rev  string
		}{{watch.Added, 0, "2"}, {watch.Bookmark, time.Minute, "3"}, {watch.Deleted, time.Hour, "4"}} {
			ev := <-w.ResultChan()
			obj := ev.Object
			if co, ok := obj.(runtime.CacheableObject); ok {
				obj = co.GetObject()
			}
			if at := time.Since(start); ev.Type != want.kind || at != want.at || obj.(metav1.Object).GetResourceVersion() != want.rev {
				t.Errorf("%s of revision %s after %v, want %v", ev.Type, obj.(metav1.Object).GetResourceVersion(), at, want)
			}
		}
		// At rest nothing is sent, and no timer runs that would.
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		select {
		case ev := <-w.ResultChan():
			t.Errorf("an event at rest: %v", ev)
		default:
		}
	})
}

// TestHistoryBounds wants the past dropped beyond each bound.
func TestHistoryBounds(t *testing.T) {
	for name, bound := range map[string]store.History{
		"events": {Events: 10}, "bytes": {Bytes: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, store.Config{History: bound})
			c := collection(t, s, examplePods("/pods"))
			for range 500 {
				mustPut(t, c, "a", strings.Repeat("x", int(s.Revision()%7)))
				mustPut(t, c, "b", strings.Repeat("y", int(s.Revision()%5)))
			}
			within(t, "the last change is in the history", func() bool { return store.Dispatched(s) == s.Revision() })
			changes, versions := store.Retained(c)
			if changes == 0 || changes > 20 || versions > changes+2 {
				t.Errorf("%d changes and %d versions are retained", changes, versions)
			}
			if floor := c.CompactRevision(); floor < s.Revision()-20 || floor >= s.Revision() {
				t.Errorf("history begins at %d of %d", floor, s.Revision())
			}
			if err := c.Delete(t.Context(), keyOf("a"), &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			for range 50 {
				mustPut(t, c, "b", strings.Repeat("z", 1+int(s.Revision()%5)))
			}
			within(t, "the last change is in the history", func() bool { return store.Dispatched(s) == s.Revision() })
			if keys := store.Keys(c); keys != 1 {
				t.Errorf("%d keys are held, a deleted one among them", keys)
			}
		})
	}
	t.Run("age", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, err := store.Open(store.Config{History: store.History{Age: time.Minute}})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			c := collection(t, s, examplePods("/pods"))
			for i := range 10 {
				if _, err := put(context.Background(), c, "a", strings.Repeat("x", i)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Second)
			}
			synctest.Wait()
			if changes, _ := store.Retained(c); changes != 4 {
				t.Errorf("%d changes of the last minute are retained, want 4", changes)
			}
		})
	})
}
