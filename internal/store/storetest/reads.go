package storetest

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// patience bounds every wait of the suite.
const patience = 30 * time.Second

func unwrap(obj runtime.Object) runtime.Object {
	if co, ok := obj.(runtime.CacheableObject); ok {
		return co.GetObject()
	}
	return obj
}

func next(t testing.TB, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case ev, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch was closed")
		}
		return ev
	case <-time.After(patience):
		t.Fatal("no event")
	}
	return watch.Event{}
}

// state is what a client knows: pods by key, and at which revision.
type state map[string]string

func stateOf(pods []example.Pod) state {
	s := state{}
	for i := range pods {
		s[key(&pods[i])] = pods[i].ResourceVersion
	}
	return s
}

func list(t testing.TB, s storage.Interface, opts storage.ListOptions) *example.PodList {
	t.Helper()
	if opts.Predicate.Label == nil {
		limit, cont := opts.Predicate.Limit, opts.Predicate.Continue
		opts.Predicate = storage.Everything
		opts.Predicate.Limit, opts.Predicate.Continue = limit, cont
	}
	opts.Recursive = true
	out := &example.PodList{}
	if err := s.GetList(t.Context(), "/pods", opts, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// churn makes n random changes to a few pods and returns the state after each, by revision.
func churn(t testing.TB, s storage.Interface, seed uint64, n int) (revs []int64, states map[int64]state) {
	r := rand.New(rand.NewPCG(seed, 1))
	now := stateOf(list(t, s, storage.ListOptions{}).Items)
	states = map[int64]state{}
	for range n {
		pod := newPod(fmt.Sprint("ns", r.IntN(3)), fmt.Sprintf("%d-%d", seed, r.IntN(6)))
		k := key(pod)
		var out *example.Pod
		switch _, there := now[k]; {
		case !there:
			out = create(t, s, pod)
			now[k] = out.ResourceVersion
		case r.IntN(3) == 0:
			out = remove(t, s, k)
			delete(now, k)
		default:
			out = update(t, s, k, func(pod *example.Pod) {
				pod.Labels = map[string]string{"parity": strconv.Itoa(r.IntN(2))}
				pod.Spec.NodeName = fmt.Sprint("node-", r.IntN(4))
				pod.Annotations = map[string]string{"r": strconv.Itoa(r.Int())}
			})
			now[k] = out.ResourceVersion
		}
		rev := revision(t, out)
		revs = append(revs, rev)
		states[rev] = maps.Clone(now)
	}
	return revs, states
}

func everyRevision(t *testing.T, s Backend) {
	revs, states := churn(t, s, 1, 120)
	for _, rev := range revs {
		for _, opts := range []storage.ListOptions{
			{ResourceVersion: fmt.Sprint(rev), ResourceVersionMatch: metav1.ResourceVersionMatchExact},
			{ResourceVersion: fmt.Sprint(rev), Predicate: storage.SelectionPredicate{Limit: 1000}},
		} {
			got := list(t, s, opts)
			if diff := cmp.Diff(states[rev], stateOf(got.Items)); diff != "" || got.ResourceVersion != fmt.Sprint(rev) {
				t.Fatalf("list at %d (said %s): %s", rev, got.ResourceVersion, diff)
			}
		}
		now := maps.Clone(states[rev])
		w, err := s.Watch(t.Context(), "/pods", storage.ListOptions{Recursive: true, ResourceVersion: fmt.Sprint(rev), Predicate: storage.Everything})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range revs[slices.Index(revs, rev)+1:] {
			if got := follow(t, now, next(t, w)); got != want {
				t.Fatalf("watch from %d: event %d, want %d", rev, got, want)
			}
			if diff := cmp.Diff(states[want], now); diff != "" {
				t.Fatalf("watch from %d, at %d: %s", rev, want, diff)
			}
		}
		w.Stop()
	}
}

// follow applies an event to what a client knows, checks that it fits, and returns its revision.
func follow(t testing.TB, now state, ev watch.Event) int64 {
	t.Helper()
	if ev.Type == watch.Error {
		t.Fatalf("watch failed: %v", apierrors.FromObject(ev.Object))
	}
	obj := unwrap(ev.Object)
	rev := revision(t, obj)
	if ev.Type == watch.Bookmark {
		return rev
	}
	pod := obj.(*example.Pod)
	_, there := now[key(pod)]
	if there != (ev.Type != watch.Added) {
		t.Fatalf("%s of %s at %d, which was there: %v", ev.Type, key(pod), rev, there)
	}
	now[key(pod)] = pod.ResourceVersion
	if ev.Type == watch.Deleted {
		delete(now, key(pod))
	}
	return rev
}

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
	stop := make(chan int64)
	for i := range 15 {
		pred := preds[i%len(preds)]
		followers.Go(func() { followUntil(t, s, pred, i%2 == 0, stop) })
	}
	writers.Wait()
	rev, err := s.GetCurrentResourceVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 15 {
		stop <- int64(rev)
	}
	followers.Wait()
}

// followUntil follows from a list, or from initial events, until it has seen what was written up to
// the revision it is told; then it must know what a list says.
func followUntil(t testing.TB, s Backend, pred storage.SelectionPredicate, stream bool, stop <-chan int64) {
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
		<-stop
		return
	}
	defer w.Stop()
	var seen int64
	end := int64(-1)
	initial := stream
	for end < 0 || seen < end {
		select {
		case end = <-stop:
		case ev := <-w.ResultChan():
			rev := follow(t, now, ev)
			if ev.Type == watch.Bookmark && unwrap(ev.Object).(metav1.Object).GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
				initial = false
			} else if rev < seen && !initial {
				t.Errorf("revision %d after %d", rev, seen)
			}
			seen = max(seen, rev)
		case <-time.After(patience):
			t.Errorf("nothing for %v at revision %d, waiting for %d", patience, seen, end)
			if end < 0 {
				<-stop
			}
			return
		}
	}
	want := stateOf(list(t, s, storage.ListOptions{Predicate: pred}).Items)
	if diff := cmp.Diff(want, now); diff != "" {
		t.Errorf("follower of %v %v: %s", pred.Label, pred.Field, diff)
	}
}

func pagesAreOneRevision(t *testing.T, s Backend) {
	for i := range 53 {
		create(t, s, newPod(fmt.Sprint("ns", i%3), fmt.Sprintf("p-%02d", i)))
	}
	want := list(t, s, storage.ListOptions{})
	var got []example.Pod
	opts := storage.ListOptions{}
	opts.Predicate.Limit = 10
	for page := 0; ; page++ {
		l := list(t, s, opts)
		got = append(got, l.Items...)
		if l.ResourceVersion != want.ResourceVersion {
			t.Fatalf("page %d is of revision %s, want %s", page, l.ResourceVersion, want.ResourceVersion)
		}
		if l.Continue == "" {
			break
		}
		if left := *l.RemainingItemCount; left != int64(len(want.Items)-len(got)) {
			t.Errorf("page %d: %d remaining, want %d", page, left, len(want.Items)-len(got))
		}
		opts.Predicate.Continue = l.Continue
		// Writes between the pages do not show.
		remove(t, s, key(&want.Items[50-page]))
		create(t, s, newPod("ns0", fmt.Sprint("zz-", page)))
		update(t, s, key(&want.Items[page]), func(pod *example.Pod) { pod.Spec.NodeName = "moved" })
	}
	if diff := cmp.Diff(want.Items, got); diff != "" {
		t.Error(diff)
	}
}

func expired(t *testing.T, s Backend) {
	revs, _ := churn(t, s, 3, 30)
	opts := storage.ListOptions{}
	opts.Predicate.Limit = 1
	first := list(t, s, opts)
	churn(t, s, 4, 10)
	now, err := s.GetCurrentResourceVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.Compact(t, int64(now))
	err = s.GetList(t.Context(), "/pods", storage.ListOptions{Recursive: true, ResourceVersion: fmt.Sprint(revs[0]), ResourceVersionMatch: metav1.ResourceVersionMatchExact, Predicate: storage.Everything}, &example.PodList{})
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("list at a forgotten revision: %v", err)
	}
	opts = storage.ListOptions{Recursive: true, Predicate: storage.Everything}
	opts.Predicate.Limit, opts.Predicate.Continue = 1, first.Continue
	err = s.GetList(t.Context(), "/pods", opts, &example.PodList{})
	if !apierrors.IsResourceExpired(err) {
		t.Fatalf("continued list at a forgotten revision: %v", err)
	}
	again := err.(*apierrors.StatusError).ErrStatus.Continue
	opts.Predicate.Continue, opts.Predicate.Limit = again, 0
	rest := &example.PodList{}
	if err := s.GetList(t.Context(), "/pods", opts, rest); err != nil {
		t.Fatalf("inconsistent continuation: %v", err)
	}
	for i := range rest.Items {
		if key(&rest.Items[i]) <= key(&first.Items[0]) {
			t.Errorf("continuation from %s returned %s", key(&first.Items[0]), key(&rest.Items[i]))
		}
	}
	w, err := s.Watch(t.Context(), "/pods", storage.ListOptions{Recursive: true, ResourceVersion: fmt.Sprint(revs[0]), Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if ev := next(t, w); ev.Type != watch.Error || !apierrors.IsResourceExpired(apierrors.FromObject(ev.Object)) {
		t.Errorf("watch from a forgotten revision: %v %v", ev.Type, ev.Object)
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

// fieldIndexAgrees compares lists by an indexed field, at every revision and in pages, with what
// filtering the whole list gives.
func fieldIndexAgrees(t *testing.T, s Backend) {
	revs, _ := churn(t, s, 5, 80)
	for n, rev := range revs {
		pred := storage.SelectionPredicate{Label: labels.Everything(), Field: fields.OneTermEqualSelector("spec.nodeName", fmt.Sprint("node-", n%4)), GetAttrs: Attrs}
		at := storage.ListOptions{ResourceVersion: fmt.Sprint(rev), ResourceVersionMatch: metav1.ResourceVersionMatchExact}
		var want []string
		for _, pod := range list(t, s, at).Items {
			if pod.Spec.NodeName == fmt.Sprint("node-", n%4) {
				want = append(want, key(&pod))
			}
		}
		var got []string
		at.Predicate = pred
		at.Predicate.Limit = int64(n % 3)
		for {
			l := list(t, s, at)
			for i := range l.Items {
				got = append(got, key(&l.Items[i]))
			}
			if l.Continue == "" {
				break
			}
			at.ResourceVersion, at.ResourceVersionMatch, at.Predicate.Continue = "", "", l.Continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("revision %d: %s", rev, diff)
		}
	}
}
