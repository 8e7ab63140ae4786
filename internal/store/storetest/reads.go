package storetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	var expired *apierrors.StatusError
	if !errors.As(err, &expired) {
		t.Fatalf("%T is no API error", err)
	}
	again := expired.ErrStatus.Continue
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
