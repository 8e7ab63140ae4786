package queue

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"coracle/internal/scheduler/place"
)

// groupOf is pods made from one template.
func groupOf(s *place.State, app string, n int) (pods []*place.Pod) {
	for i := range n {
		name := fmt.Sprint(app, i)
		pods = append(pods, s.NewPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID(name), Labels: map[string]string{"app": app},
		}}))
	}
	return pods
}

// asleep is a queue with n alike pods that were refused for want of resources.
func asleep(n int) *Queue {
	q := New()
	for i, p := range groupOf(place.NewState(), "web", n) {
		q.Set(p, true, start.Add(time.Duration(i)))
	}
	_, items := drain(q, start)
	for _, it := range items {
		q.Refuse(it, place.CauseResources, start)
	}
	return q
}

func TestOneTriesForTheGroup(t *testing.T) {
	q := asleep(100)
	q.Changed(place.CauseResources, start)
	q.Changed(place.CauseResources, start)
	names, items := drain(q, start)
	expect(t, names, "web0")
	q.Placing(items[0])
	names, items = drain(q, start)
	expect(t, names, "web1")
	q.Refuse(items[0], place.CauseResources, start)
	names, _ = drain(q, start.Add(time.Hour))
	expect(t, names)
}

func TestSmallGroupWakesWhole(t *testing.T) {
	q := asleep(smallGroup)
	q.Changed(place.CauseResources, start)
	if names, _ := drain(q, start); len(names) != smallGroup {
		t.Fatalf("woke %v, want all", names)
	}
}

func TestNextTriesWhenTheProbeGoes(t *testing.T) {
	for name, fate := range map[string]func(*Queue, *Item){
		"removed": func(q *Queue, it *Item) { q.Remove(it.Pod.UID) },
		"resting": func(q *Queue, it *Item) { q.Rest(it, start) },
		"preempts": func(q *Queue, it *Item) {
			it.Prefer = "n1"
			q.Refuse(it, place.CauseResources, start)
		},
		"changed": func(q *Queue, it *Item) {
			q.Set(it.Pod, true, start)
			q.Refuse(it, place.CauseNode, start)
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := asleep(100)
			q.Changed(place.CauseResources, start)
			_, items := drain(q, start)
			fate(q, items[0])
			names, _ := drain(q, start)
			for _, got := range names {
				if got == "web1" {
					return
				}
			}
			t.Fatalf("popped %v, want web1 among them", names)
		})
	}
}

// Whatever happens, once events and rests have passed no pod waits while there is room for it.
func TestNobodyWaitsBesideRoom(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, q, now := place.NewState(), New(), start
		room := map[string]int{}
		waiting := map[types.UID]string{}
		app := func(p *place.Pod) string { return p.Object.Labels["app"] }
		try := func() {
			for it := q.Pop(now); it != nil; it = q.Pop(now) {
				switch {
				case room[app(it.Pod)] == 0:
					q.Refuse(it, place.CauseResources, now)
				case rapid.IntRange(0, 9).Draw(rt, "binding fails") == 0:
					q.Placing(it)
					q.Rest(it, now)
				default:
					room[app(it.Pod)]--
					delete(waiting, it.Pod.UID)
					q.Placing(it)
					q.Remove(it.Pod.UID)
				}
			}
		}
		pods := map[string][]*place.Pod{"web": groupOf(s, "web", 80), "db": groupOf(s, "db", 80)}
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			kind := rapid.SampledFrom([]string{"web", "db"}).Draw(rt, "kind")
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0:
				for range min(len(pods[kind]), rapid.IntRange(1, 40).Draw(rt, "come")) {
					p := pods[kind][0]
					pods[kind] = pods[kind][1:]
					waiting[p.UID] = kind
					q.Set(p, true, now)
				}
			case 1:
				for uid, k := range waiting {
					if k == kind {
						delete(waiting, uid)
						q.Remove(uid)
						break
					}
				}
			case 2:
				room[kind] += rapid.IntRange(1, 30).Draw(rt, "room")
				q.Changed(place.CauseResources, now)
			case 3:
				now = now.Add(time.Duration(rapid.IntRange(0, 2000).Draw(rt, "passes")) * time.Millisecond)
			}
			if rapid.Bool().Draw(rt, "try") {
				try()
			}
		}
		for range 1000 {
			try()
			if q.Next().IsZero() {
				break
			}
			now = q.Next()
		}
		for uid, kind := range waiting {
			if room[kind] > 0 {
				rt.Fatalf("%s waits beside room for %d", uid, room[kind])
			}
		}
		if q.Len() != len(waiting) {
			rt.Fatalf("%d pods in the queue, want %d", q.Len(), len(waiting))
		}
	})
}
