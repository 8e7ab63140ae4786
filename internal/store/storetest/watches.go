package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// followersAgree lets clients list and follow while others write, each under a selector of its own.
func followersAgree(t *testing.T, s Backend) {
	preds := []storage.SelectionPredicate{
		storage.Everything,
		{Label: labels.SelectorFromSet(labels.Set{"parity": "1"}), Field: fields.Everything(), GetAttrs: Attrs},
		{Label: labels.Everything(), Field: fields.OneTermEqualSelector("spec.nodeName", "node-2"), GetAttrs: Attrs},
		{Label: labels.Everything(), Field: fields.OneTermNotEqualSelector("spec.nodeName", "node-2"), GetAttrs: Attrs},
		{Label: labels.SelectorFromSet(labels.Set{"parity": "0"}), Field: fields.OneTermEqualSelector("spec.nodeName", "node-1"), GetAttrs: Attrs},
	}
	var writers, followers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() { churn(t, s, uint64(10+i), 150) })
	}
	stop := make(chan struct{})
	var end int64 // set before stop is closed
	for i := range 15 {
		pred := preds[i%len(preds)]
		followers.Go(func() { followUntil(t, s, pred, i%2 == 0, stop, &end) })
	}
	writers.Wait()
	rev, err := s.GetCurrentResourceVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end = int64(rev)
	close(stop)
	followers.Wait()
}

// followUntil follows from a list, or from initial events, until stop, and then until it has seen what was
// written up to end; then it must know what a list says.
func followUntil(t testing.TB, s Backend, pred storage.SelectionPredicate, stream bool, stop <-chan struct{}, end *int64) {
	pred.AllowWatchBookmarks = true
	opts := storage.ListOptions{Recursive: true, Predicate: pred}
	now := state{}
	if stream {
		yes := true
		opts.SendInitialEvents = &yes
	} else {
		first := list(t, s, opts)
		now = stateOf(first.Items)
		opts.ResourceVersion = first.ResourceVersion
	}
	w, err := s.Watch(t.Context(), "/pods", opts)
	if err != nil {
		t.Error(err)
		return
	}
	defer w.Stop()
	var seen int64
	initial := stream
	for stop != nil || seen < *end {
		select {
		case <-stop:
			stop = nil
		case ev := <-w.ResultChan():
			rev := follow(t, now, ev)
			if ev.Type == watch.Bookmark && unwrap(ev.Object).(metav1.Object).GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
				initial = false
			} else if rev < seen && !initial {
				t.Errorf("revision %d after %d", rev, seen)
			}
			seen = max(seen, rev)
		case <-time.After(patience):
			t.Errorf("nothing for %v at revision %d", patience, seen)
			return
		}
	}
	want := stateOf(list(t, s, storage.ListOptions{Predicate: pred}).Items)
	if diff := cmp.Diff(want, now); diff != "" {
		t.Errorf("follower of %v %v: %s", pred.Label, pred.Field, diff)
	}
}

func selectorTransitions(t *testing.T, s Backend) {
	pred := storage.SelectionPredicate{Label: labels.SelectorFromSet(labels.Set{"app": "a"}), Field: fields.OneTermEqualSelector("spec.nodeName", "n1"), GetAttrs: Attrs}
	w, err := s.Watch(t.Context(), "/pods/ns", storage.ListOptions{Recursive: true, Predicate: pred})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	k := "/pods/ns/p"
	set := func(app, node string) *example.Pod {
		return update(t, s, k, func(pod *example.Pod) {
			pod.Labels, pod.Spec.NodeName = map[string]string{"app": app}, node
		})
	}
	want := func(kind watch.EventType, app, node string, at *example.Pod) {
		t.Helper()
		ev := next(t, w)
		pod := unwrap(ev.Object).(*example.Pod)
		if ev.Type != kind || pod.Labels["app"] != app || pod.Spec.NodeName != node || pod.ResourceVersion != at.ResourceVersion {
			t.Errorf("got %s app=%s node=%s at %s, want %s %s %s at %s", ev.Type, pod.Labels["app"], pod.Spec.NodeName, pod.ResourceVersion, kind, app, node, at.ResourceVersion)
		}
	}
	create(t, s, newPod("ns", "p"))
	set("a", "n2")
	want(watch.Added, "a", "n1", set("a", "n1"))
	want(watch.Deleted, "a", "n1", set("b", "n1"))
	want(watch.Added, "a", "n1", set("a", "n1"))
	want(watch.Deleted, "a", "n1", set("a", "n3"))
	set("b", "n3")
	want(watch.Added, "a", "n1", set("a", "n1"))
	changed := update(t, s, k, func(pod *example.Pod) { pod.Annotations = map[string]string{"x": "y"} })
	want(watch.Modified, "a", "n1", changed)
	want(watch.Deleted, "a", "n1", remove(t, s, k))
}

func slowWatcher(t *testing.T, s Backend) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := create(t, s, newPod("ns", "p"))
	w, err := s.Watch(ctx, "/pods", storage.ListOptions{Recursive: true, ResourceVersion: first.ResourceVersion, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	const writers, each = 64, 400
	for i := range writers {
		create(t, s, newPod("ns", fmt.Sprint("busy-", i)))
		group.Go(func() {
			for n := range each {
				update(t, s, fmt.Sprint("/pods/ns/busy-", i), func(pod *example.Pod) { pod.Annotations = map[string]string{"n": fmt.Sprint(n)} })
			}
		})
	}
	group.Wait() // nobody read the watch meanwhile, and no write waited for it
	last, failed := first.ResourceVersion, false
	for ev := range w.ResultChan() {
		if ev.Type == watch.Error {
			failed = true
			if err := apierrors.FromObject(ev.Object); !apierrors.IsTooManyRequests(err) {
				t.Errorf("a slow watcher got %v", err)
			}
			continue
		}
		last = unwrap(ev.Object).(metav1.Object).GetResourceVersion()
	}
	if !failed {
		t.Fatal("the watch was closed without an error")
	}
	// What it has not seen it can still have.
	w, err = s.Watch(ctx, "/pods", storage.ListOptions{Recursive: true, ResourceVersion: last, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if ev := next(t, w); ev.Type == watch.Error && !apierrors.IsResourceExpired(apierrors.FromObject(ev.Object)) {
		t.Errorf("resumed watch: %v", ev.Object)
	}
}

func initialEvents(t *testing.T, s Backend) {
	for i := range 5 {
		create(t, s, newPod("ns", fmt.Sprint("p-", i)))
	}
	now := list(t, s, storage.ListOptions{}).ResourceVersion
	yes := true
	pred := storage.Everything
	pred.AllowWatchBookmarks = true
	w, err := s.Watch(t.Context(), "/pods/ns", storage.ListOptions{Recursive: true, SendInitialEvents: &yes, Predicate: pred})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for i := range 5 {
		if ev := next(t, w); ev.Type != watch.Added || unwrap(ev.Object).(*example.Pod).Name != fmt.Sprint("p-", i) {
			t.Fatalf("initial event %d: %v", i, ev)
		}
	}
	ev := next(t, w)
	m, err := meta.Accessor(unwrap(ev.Object))
	if err != nil || ev.Type != watch.Bookmark || m.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "true" || m.GetResourceVersion() != now {
		t.Fatalf("end of the initial events: %v %v, want a bookmark at %s", ev.Type, ev.Object, now)
	}
	late := create(t, s, newPod("ns", "late"))
	for {
		if ev = next(t, w); ev.Type != watch.Bookmark {
			break
		}
	}
	if ev.Type != watch.Added || unwrap(ev.Object).(*example.Pod).ResourceVersion != late.ResourceVersion {
		t.Errorf("after the initial events: %v", ev)
	}
}
