package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

func newPod(ns, name string) *example.Pod {
	return &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID("uid-" + name)}}
}

func key(pod *example.Pod) string { return "/pods/" + pod.Namespace + "/" + pod.Name }

func create(t testing.TB, s storage.Interface, pod *example.Pod) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	if err := s.Create(t.Context(), key(pod), pod, out, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

func update(t testing.TB, s storage.Interface, key string, change func(*example.Pod)) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	err := s.GuaranteedUpdate(t.Context(), key, out, false, nil, storage.SimpleUpdate(func(in runtime.Object) (runtime.Object, error) {
		change(in.(*example.Pod))
		return in, nil
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func remove(t testing.TB, s storage.Interface, key string) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	if err := s.Delete(t.Context(), key, out, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	return out
}

func revision(t testing.TB, obj runtime.Object) int64 {
	t.Helper()
	rev, err := storage.APIObjectVersioner{}.ObjectResourceVersion(obj)
	if err != nil || rev == 0 {
		t.Fatalf("revision %d: %v", rev, err)
	}
	return int64(rev)
}

func noLostUpdates(t *testing.T, s Backend) {
	const writers, each, keys = 16, 40, 3
	for i := range keys {
		create(t, s, newPod("ns", fmt.Sprint("counter-", i)))
	}
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				update(t, s, fmt.Sprint("/pods/ns/counter-", (w+i)%keys), func(pod *example.Pod) {
					n, _ := strconv.Atoi(pod.Annotations["n"])
					pod.Annotations = map[string]string{"n": strconv.Itoa(n + 1)}
				})
			}
		})
	}
	group.Wait()
	sum := 0
	for i := range keys {
		var pod example.Pod
		if err := s.Get(t.Context(), fmt.Sprint("/pods/ns/counter-", i), storage.GetOptions{}, &pod); err != nil {
			t.Fatal(err)
		}
		n, _ := strconv.Atoi(pod.Annotations["n"])
		sum += n
	}
	if sum != writers*each {
		t.Errorf("%d increments are there, want %d", sum, writers*each)
	}
}

func createOnce(t *testing.T, s Backend) {
	for round := range 20 {
		var made, refused atomic.Int64
		var group sync.WaitGroup
		for range 16 {
			group.Go(func() {
				pod := newPod("ns", fmt.Sprint("once-", round))
				switch err := s.Create(t.Context(), key(pod), pod, nil, 0); {
				case err == nil:
					made.Add(1)
				case storage.IsExist(err):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		group.Wait()
		if made.Load() != 1 || refused.Load() != 15 {
			t.Fatalf("created %d times, refused %d times", made.Load(), refused.Load())
		}
	}
}

func oneRevisionOrder(t *testing.T, s Backend) {
	var last int64
	for i := range 20 {
		a := create(t, s, newPod("ns", fmt.Sprint("a-", i)))
		b := &example.Pod{}
		if err := s.Other.Create(t.Context(), fmt.Sprint("/other/ns/b-", i), newPod("ns", fmt.Sprint("b-", i)), b, 0); err != nil {
			t.Fatal(err)
		}
		c := update(t, s, key(a), func(pod *example.Pod) { pod.Spec.NodeName = "n" })
		d := remove(t, s, key(a))
		for _, pod := range []*example.Pod{a, b, c, d} {
			rev := revision(t, pod)
			if rev <= last {
				t.Fatalf("revision %d after %d", rev, last)
			}
			last = rev
		}
	}
	if now, err := s.GetCurrentResourceVersion(t.Context()); err != nil || int64(now) < last {
		t.Errorf("current revision %d, %v; last write was %d", now, err, last)
	}
}

func noChangeNoRevision(t *testing.T, s Backend) {
	pod := newPod("ns", "same")
	entry := metav1.ManagedFieldsEntry{Manager: "m", Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)}
	entry.Time = &metav1.Time{Time: time.Unix(1_000_000_000, 0)}
	pod.ManagedFields = []metav1.ManagedFieldsEntry{entry}
	before := create(t, s, pod)
	tick := func(pod *example.Pod) { pod.ManagedFields[0].Time = &metav1.Time{Time: time.Unix(1_000_000_100, 0)} }
	for name, change := range map[string]func(*example.Pod){
		"nothing":            func(*example.Pod) {},
		"empty for nil":      func(pod *example.Pod) { pod.Labels = map[string]string{} },
		"revision, link":     func(pod *example.Pod) { pod.ResourceVersion, pod.SelfLink = "1", "/x" },
		"a manager's time":   tick,
		"part of a second":   func(pod *example.Pod) { pod.ManagedFields[0].Time = &metav1.Time{Time: time.Unix(1_000_000_000, 5e8)} },
		"a time in its zone": func(pod *example.Pod) { pod.ManagedFields[0].Time.Time = pod.ManagedFields[0].Time.UTC() },
	} {
		if after := update(t, s, key(pod), change); revision(t, after) != revision(t, before) {
			t.Errorf("%s: new revision", name)
		}
	}
	after := update(t, s, key(pod), func(pod *example.Pod) { tick(pod); pod.Spec.NodeName = "n" })
	if revision(t, after) == revision(t, before) || after.ManagedFields[0].Time.Unix() != 1_000_000_100 {
		t.Errorf("a change with a manager's time: %v", after.ManagedFields[0].Time)
	}
}

func deleteReports(t *testing.T, s Backend) {
	pod := create(t, s, newPod("ns", "gone"))
	uid := types.UID("another")
	err := s.Delete(t.Context(), key(pod), &example.Pod{}, &storage.Preconditions{UID: &uid}, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
	if !storage.IsInvalidObj(err) {
		t.Errorf("delete with another UID: %v", err)
	}
	refusal := errors.New("no")
	err = s.Delete(t.Context(), key(pod), &example.Pod{}, nil, func(context.Context, runtime.Object) error { return refusal }, nil, storage.DeleteOptions{})
	if !errors.Is(err, refusal) {
		t.Errorf("delete refused by its validation: %v", err)
	}
	out := remove(t, s, key(pod))
	if revision(t, out) <= revision(t, pod) {
		t.Errorf("deleted object has revision %s, the object had %s", out.ResourceVersion, pod.ResourceVersion)
	}
	pod.ResourceVersion = out.ResourceVersion
	if diff := cmp.Diff(pod, out); diff != "" {
		t.Error(diff)
	}
	err = s.Delete(t.Context(), key(pod), out, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
	if !storage.IsNotFound(err) {
		t.Errorf("second delete: %v", err)
	}
}

// callersCannotHarm changes what it was given and what it gave, at the top level, which is the
// caller's own.
func callersCannotHarm(t *testing.T, s Backend) {
	in := newPod("ns", "mine")
	in.Labels = map[string]string{"a": "b"}
	out := create(t, s, in)
	want := out.DeepCopy()
	in.Labels["a"] = "changed"
	in.Name = "changed"
	out.Name, out.Labels, out.Spec.NodeName = "changed", nil, "changed"
	var got example.Pod
	for range 2 {
		if err := s.Get(t.Context(), "/pods/ns/mine", storage.GetOptions{}, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, &got); diff != "" {
			t.Fatal(diff)
		}
		got.Kind, got.Labels = "changed", nil
	}
	var list example.PodList
	for range 2 {
		if err := s.GetList(t.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, &list); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, &list.Items[0]); diff != "" {
			t.Fatal(diff)
		}
		list.Items[0].Kind, list.Items[0].Labels = "changed", nil
	}
	failure := errors.New("no")
	err := s.GuaranteedUpdate(t.Context(), "/pods/ns/mine", &example.Pod{}, false, nil, storage.SimpleUpdate(func(in runtime.Object) (runtime.Object, error) {
		in.(*example.Pod).Labels["a"] = "changed deep down, then given up"
		return nil, failure
	}), nil)
	if !errors.Is(err, failure) {
		t.Fatal(err)
	}
	if err := s.Get(t.Context(), "/pods/ns/mine", storage.GetOptions{}, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &got); diff != "" {
		t.Error(diff)
	}
}

// storedAsRead wants the answer of a write to be what every later read gives, so that a restart changes nothing.
func storedAsRead(t *testing.T, s Backend) {
	pod := newPod("ns", "times")
	pod.CreationTimestamp = metav1.Time{Time: time.Unix(1_700_000_000, 123_456_789)}
	pod.Kind, pod.APIVersion = "Pod", "example.apiserver.k8s.io/v1"
	pod.Labels = map[string]string{}
	out := create(t, s, pod)
	if n := out.CreationTimestamp.Nanosecond(); n != 0 {
		t.Errorf("a time keeps %d ns, which no encoding does", n)
	}
	if out.Kind != "" {
		t.Errorf("kind %q is set on an in-memory object", out.Kind)
	}
	var got example.Pod
	if err := s.Get(t.Context(), key(pod), storage.GetOptions{}, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(out, &got); diff != "" {
		t.Error(diff)
	}
}

func timeToLive(t *testing.T, s Backend) {
	short, long := newPod("ns", "short"), newPod("ns", "long")
	w, err := s.Watch(t.Context(), "/pods/ns", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for pod, ttl := range map[*example.Pod]uint64{short: 1, long: 1} {
		if err := s.Create(t.Context(), key(pod), pod, nil, ttl); err != nil {
			t.Fatal(err)
		}
	}
	err = s.GuaranteedUpdate(t.Context(), key(long), &example.Pod{}, false, nil, func(in runtime.Object, _ storage.ResponseMeta) (runtime.Object, *uint64, error) {
		hour := uint64(3600)
		in.(*example.Pod).Spec.NodeName = "n"
		return in, &hour, nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for {
		ev := next(t, w)
		if ev.Type == watch.Deleted {
			if name := unwrap(ev.Object).(*example.Pod).Name; name != "short" {
				t.Errorf("%s expired", name)
			}
			break
		}
	}
	if err := s.Get(t.Context(), key(short), storage.GetOptions{}, &example.Pod{}); !storage.IsNotFound(err) {
		t.Errorf("expired object: %v", err)
	}
	if err := s.Get(t.Context(), key(long), storage.GetOptions{}, &example.Pod{}); err != nil {
		t.Errorf("object with a renewed life: %v", err)
	}
}

func cancelledWrite(t *testing.T, s Backend) {
	ctx, cancel := context.WithCancel(t.Context())
	pod := create(t, s, newPod("ns", "kept"))
	cancel()
	if err := s.GuaranteedUpdate(ctx, key(pod), &example.Pod{}, false, nil, storage.SimpleUpdate(func(in runtime.Object) (runtime.Object, error) {
		in.(*example.Pod).Spec.NodeName = "n"
		return in, nil
	}), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("update under a cancelled context: %v", err)
	}
}
