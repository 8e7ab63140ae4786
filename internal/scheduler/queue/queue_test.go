package queue

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/scheduler/place"
)

var start = time.Unix(1_700_000_000, 0)

func pod(name string, priority int32) *place.Pod {
	return place.NewPod(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Spec:       corev1.PodSpec{Priority: &priority},
	})
}

// drain pops everything that may be tried now.
func drain(q *Queue, now time.Time) (names []string, items []*Item) {
	for it := q.Pop(now); it != nil; it = q.Pop(now) {
		names = append(names, it.Pod.Object.Name)
		items = append(items, it)
	}
	return names, items
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("popped (-want +got):\n%s", diff)
	}
}

func TestPriorityThenAge(t *testing.T) {
	q := New()
	q.Set(pod("old", 0), true, start)
	q.Set(pod("young", 0), true, start.Add(time.Second))
	q.Set(pod("vip", 10), true, start.Add(2*time.Second))
	got, _ := drain(q, start.Add(time.Minute))
	expect(t, got, "vip", "old", "young")
}

func TestRefusedWakesOnItsCauseOnly(t *testing.T) {
	q := New()
	q.Set(pod("a", 0), true, start)
	_, items := drain(q, start)
	q.Refuse(items[0], place.CauseVolume, start)
	q.Changed(place.CauseResources, start)
	got, _ := drain(q, start)
	expect(t, got)
	q.Changed(place.CauseVolume|place.CauseNode, start)
	got, _ = drain(q, start)
	expect(t, got, "a")
}

// What happens while a pod is being tried must not be lost: the try did not see it.
func TestChangeDuringTryWakes(t *testing.T) {
	q := New()
	q.Set(pod("a", 0), true, start)
	_, items := drain(q, start)
	q.Changed(place.CauseNode, start)
	q.Refuse(items[0], place.CauseNode, start)
	got, _ := drain(q, start)
	expect(t, got, "a")
}

func TestRepeatedRefusalRests(t *testing.T) {
	q := New()
	q.Set(pod("a", 0), true, start)
	now := start
	for attempt := 1; attempt <= 12; attempt++ {
		_, items := drain(q, now)
		if len(items) != 1 {
			t.Fatalf("attempt %d: popped %d pods, want 1", attempt, len(items))
		}
		q.Refuse(items[0], place.CauseResources, now)
		q.Changed(place.CauseResources, now)
		if next := q.Next(); attempt == 1 && !next.IsZero() {
			t.Fatal("the first wake must be immediate")
		} else if attempt > 1 {
			rest := next.Sub(now)
			if rest < firstRest || rest > lastRest {
				t.Fatalf("attempt %d rests %s, want %s to %s", attempt, rest, firstRest, lastRest)
			}
			if early, _ := drain(q, next.Add(-time.Nanosecond)); len(early) > 0 {
				t.Fatalf("attempt %d was handed out before its rest ended", attempt)
			}
			now = next
		}
	}
}

func TestFailedBindingRestsWithoutAnyEvent(t *testing.T) {
	q := New()
	q.Set(pod("a", 0), true, start)
	_, items := drain(q, start)
	q.Rest(items[0], start)
	if got := q.Next().Sub(start); got != firstRest {
		t.Fatalf("rests %s, want %s", got, firstRest)
	}
	got, _ := drain(q, start.Add(firstRest))
	expect(t, got, "a")
}

func TestOwnChangeWakesAtOnce(t *testing.T) {
	q := New()
	q.Set(pod("a", 0), true, start)
	for range 3 {
		_, items := drain(q, start)
		q.Refuse(items[0], place.CauseGates, start)
		q.Set(pod("a", 0), true, start)
	}
	got, _ := drain(q, start)
	expect(t, got, "a")
}

func TestRemoveInEveryState(t *testing.T) {
	for name, put := range map[string]func(*Queue){
		"active":  func(*Queue) {},
		"taken":   func(q *Queue) { q.Pop(start) },
		"refused": func(q *Queue) { q.Refuse(q.Pop(start), place.CauseNode, start) },
		"resting": func(q *Queue) { q.Rest(q.Pop(start), start) },
	} {
		t.Run(name, func(t *testing.T) {
			q := New()
			q.Set(pod("a", 0), true, start)
			put(q)
			q.Remove("a")
			q.Changed(^place.Cause(0), start)
			got, _ := drain(q, start.Add(time.Hour))
			expect(t, got)
			if q.Len() != 0 {
				t.Fatalf("%d pods left", q.Len())
			}
		})
	}
}
