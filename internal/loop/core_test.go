package loop

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
)

func podAt(name string, revision uint64) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, UID: types.UID(name), ResourceVersion: fmt.Sprint(revision)}}
}

func podKey(name string) object.Key { return object.Key{Namespace: "d", Name: name} }

// TestCoreProperties drives the core at random beside a model of what is due.
func TestCoreProperties(t *testing.T) {
	const workers = 3
	rapid.Check(t, func(t *rapid.T) {
		c := NewCore([]plan.Controller{{Name: "a", For: resource.Pods}, {Name: "b", For: resource.Pods}}, workers)
		v := view.New()
		c.Start(v)
		now := time.Unix(1000, 0)
		type id struct {
			controller string
			key        object.Key
		}
		due := map[id]bool{}        // changed since it was last handed out
		out := map[id]Task{}        // handed out
		needs := map[id]uint64{}    // own last write to pods
		wakes := map[id]time.Time{} // timer
		failures := map[id]int{}    // in a row
		pods := rapid.SampledFrom([]string{"p", "q", "r", "s", "t"})
		var revision uint64
		take := func() bool {
			task, ok := c.Next()
			if !ok {
				return false
			}
			k := id{task.Controller.Name, task.Key}
			if _, twice := out[k]; twice {
				t.Fatalf("%v handed out twice", k)
			}
			if needs[k] > v.Revision(resource.Pods) {
				t.Fatalf("%v planned at revision %d, older than its own write %d", k, v.Revision(resource.Pods), needs[k])
			}
			if !due[k] {
				t.Fatalf("%v handed out for no reason", k)
			}
			busy := 0
			for o := range out {
				if o.controller == k.controller {
					busy++
				}
			}
			if busy >= workers {
				t.Fatalf("%s has %d tasks out already", k.controller, busy)
			}
			out[k] = task
			delete(due, k)
			delete(wakes, k)
			return true
		}
		finish := func(k id, o Outcome) {
			c.Done(out[k], o, now)
			delete(out, k)
		}
		change := func(name string) {
			revision++
			c.Changed(v, v.Apply(view.Event{Type: "MODIFIED", Object: podAt(name, revision)}), time.Time{})
			due[id{"a", podKey(name)}] = true
			due[id{"b", podKey(name)}] = true
		}
		some := func() (id, bool) {
			var keys []id
			for k := range out {
				keys = append(keys, k)
			}
			if len(keys) == 0 {
				return id{}, false
			}
			best := keys[0]
			for _, k := range keys {
				if k.controller+k.key.Name < best.controller+best.key.Name {
					best = k
				}
			}
			return best, true
		}
		wake := func(by time.Duration) {
			now = now.Add(by)
			c.Wake(now)
			for k, at := range wakes {
				if !at.After(now) {
					due[k] = true
					delete(wakes, k)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"change": func(*rapid.T) { change(pods.Draw(t, "pod")) },
			"take":   func(*rapid.T) { take() },
			"done": func(*rapid.T) {
				k, ok := some()
				if !ok {
					return
				}
				o := Outcome{Why: plan.Why{State: plan.Steady}}
				if ahead := rapid.Uint64Range(0, 3).Draw(t, "ahead"); ahead > 0 {
					// It wrote: the snapshot lacks that yet.
					needs[k] = revision + ahead
					o.Writes = []Write{{resource.Pods, revision + 1}, {resource.Pods, revision + ahead}}
				}
				var at time.Time
				if rapid.Bool().Draw(t, "again") {
					at = now.Add(time.Duration(rapid.IntRange(1, 1000).Draw(t, "ms")) * time.Millisecond)
					o.Again = at
				}
				if rapid.Bool().Draw(t, "fails") {
					o.Failure = &plan.Failure{}
					failures[k]++
					if r := now.Add(Backoff(failures[k])); at.IsZero() || r.Before(at) {
						at = r
					}
				} else {
					delete(failures, k)
				}
				if !at.IsZero() {
					wakes[k] = at
				}
				finish(k, o)
			},
			"wake": func(*rapid.T) { wake(time.Duration(rapid.IntRange(0, 500).Draw(t, "ms")) * time.Millisecond) },
			"": func(*rapid.T) {
				var first time.Time
				for _, at := range wakes {
					if first.IsZero() || at.Before(first) {
						first = at
					}
				}
				if at, ok := c.NextTimer(); ok != !first.IsZero() || ok && !at.Equal(first) {
					t.Fatalf("next timer %v %v, want %v", at, ok, first)
				}
			},
		})
		// All that is due is handed out in the end, once the snapshot has caught up.
		change("p")
		revision += 10
		change("q")
		for rounds := 0; len(due) > 0; rounds++ {
			if rounds > 1000 {
				t.Fatalf("never handed out: %v (%s)", due, c)
			}
			if !take() {
				k, ok := some()
				if !ok {
					t.Fatalf("stuck with %v due (%s)", due, c)
				}
				finish(k, Outcome{})
			}
		}
	})
}

func TestBackoff(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 0, 1: 5 * time.Millisecond, 2: 10 * time.Millisecond, 11: 5120 * time.Millisecond, 18: 655360 * time.Millisecond, 19: 1000 * time.Second, 1 << 30: 1000 * time.Second} {
		if got := Backoff(n); got != want {
			t.Errorf("after %d failures %s, want %s", n, got, want)
		}
	}
}

// TestWholeIsOneKey makes one decision of all objects' changes.
func TestWholeIsOneKey(t *testing.T) {
	c, v := NewCore([]plan.Controller{{Name: "a", For: resource.Pods, Whole: true}}, 8), view.New()
	v.Apply(view.Event{Type: "ADDED", Object: podAt("p", 1)})
	v.Apply(view.Event{Type: "ADDED", Object: podAt("q", 2)})
	c.Start(v)
	task, ok := c.Next()
	if !ok || task.Key != (object.Key{}) {
		t.Fatalf("%v %v", task.Key, ok)
	}
	if _, more := c.Next(); more {
		t.Fatal("two decisions about the whole at once")
	}
	c.Changed(v, v.Apply(view.Event{Type: "MODIFIED", Object: podAt("q", 3)}), time.Time{})
	c.Done(task, Outcome{}, time.Unix(0, 0))
	if _, ok := c.Next(); !ok {
		t.Fatal("a change during the decision was lost")
	}
}

func creates(n int) []plan.Action {
	var out []plan.Action
	for i := range n {
		out = append(out, plan.Create{Object: podAt(fmt.Sprint(i), 0)})
	}
	return out
}

// always is a planner with one plan.
func always(p plan.Plan) func(Task) Decision {
	return func(Task) Decision { return Decision{Exists: true, Plan: p} }
}

// batches runs a plan and lists the sizes of its batches; fail says which action fails, -1 for none.
func batches(p plan.Plan, fail int) (sizes []int, pass *Pass) {
	pass = Begin(Task{}, always(p))
	done := 0
	for b := pass.Next().Actions; b != nil; b = pass.Next().Actions {
		sizes = append(sizes, len(b))
		results := make([]Result, len(b))
		for i := range b {
			if done+i == fail {
				results[i].Err = errors.New("no")
			}
		}
		done += len(b)
		pass.Done(results, time.Unix(0, 0))
	}
	return sizes, pass
}

func TestBatches(t *testing.T) {
	update := plan.Update{Object: podAt("u", 5)}
	var deletes []plan.Action
	for i := range 5 {
		deletes = append(deletes, plan.Delete{Object: object.RefOf(podAt(fmt.Sprint(i), 0))})
	}
	mixed := append(append(append([]plan.Action{update, update}, creates(4)...), deletes...), creates(2)...)
	mixed = append(mixed, plan.Create{Object: &corev1.ConfigMap{}})
	for _, tt := range []struct {
		name    string
		actions []plan.Action
		fail    int
		want    []int
	}{
		{"none", nil, -1, nil},
		{"slow start", creates(20), -1, []int{1, 2, 4, 8, 5}},
		{"runs", mixed, -1, []int{1, 1, 1, 2, 1, 1, 2, 2, 1, 1, 1}},
		{"first fails", creates(20), 0, []int{1}},
		{"one of a batch fails", creates(20), 4, []int{1, 2, 4}},
	} {
		sizes, pass := batches(plan.Plan{Actions: tt.actions}, tt.fail)
		if d := cmp.Diff(tt.want, sizes); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
		if (pass.Failure() != nil) != (tt.fail >= 0) {
			t.Errorf("%s: failure %v", tt.name, pass.Failure())
		}
	}
}

// TestPassDoesNotConflictWithItself writes one object three times in one plan.
func TestPassDoesNotConflictWithItself(t *testing.T) {
	o := podAt("p", 5)
	pass := Begin(Task{}, always(plan.Plan{
		Actions: []plan.Action{plan.Update{Object: o.DeepCopy()}, plan.Update{Object: o.DeepCopy(), Subresource: "status"}},
		Status:  o.DeepCopy(),
	}))
	pass.Next()
	pass.Done([]Result{{Object: podAt("p", 8)}}, time.Time{})
	second := pass.Next().Actions
	if rv := second[0].(plan.Update).Object.GetResourceVersion(); rv != "8" {
		t.Errorf("second write on %s, want 8", rv)
	}
	pass.Done([]Result{{Object: podAt("p", 9)}}, time.Time{})
	if rv := pass.Next().Status.GetResourceVersion(); rv != "9" {
		t.Errorf("status on %s, want 9", rv)
	}
	pass.Done([]Result{{Object: podAt("p", 11)}}, time.Time{})
	if step := pass.Next(); !step.Over() {
		t.Errorf("after the status there is more: %+v", step)
	}
	want := []Write{{resource.Pods, 11}}
	if d := cmp.Diff(want, newest(pass.Outcome().Writes)); d != "" {
		t.Error(d)
	}
}

func TestAnswers(t *testing.T) {
	gr, ref := resource.Pods.GroupResource(), object.RefOf(podAt("p", 1))
	terminating := apierrors.NewForbidden(gr, "p", errors.New("going"))
	terminating.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	create, remove, update := plan.Create{Object: podAt("p", 0)}, plan.Delete{Object: ref}, plan.Update{Object: podAt("p", 1)}
	for _, tt := range []struct {
		name     string
		action   plan.Action
		err      error
		failures int // before
		want     string
	}{
		{"deleted already", remove, apierrors.NewNotFound(gr, "p"), 0, "done"},
		{"another of the name", remove, apierrors.NewConflict(gr, "p", errors.New("UID")), 0, "done"},
		{"changed since", plan.Delete{Object: ref, ResourceVersion: "1"}, apierrors.NewConflict(gr, "p", errors.New("RV")), 0, "look again"},
		{"exists", create, apierrors.NewAlreadyExists(gr, "p"), 0, "look again"},
		{"exists for long", create, apierrors.NewAlreadyExists(gr, "p"), QuietTries, "failed 3"},
		{"conflict", update, apierrors.NewConflict(gr, "p", errors.New("RV")), 0, "look again"},
		{"conflict for long", update, apierrors.NewConflict(gr, "p", errors.New("RV")), 20, "look again"},
		{"gone", update, apierrors.NewNotFound(gr, "p"), 1, "look again"},
		{"evicted already", plan.Evict{Pod: ref}, apierrors.NewNotFound(gr, "p"), 0, "done"},
		{"budget", plan.Evict{Pod: ref}, apierrors.NewTooManyRequests("budget", 1), 0, "failed 1"},
		{"quota", create, apierrors.NewForbidden(gr, "p", errors.New("quota")), 4, "failed 5"},
		{"namespace going", create, terminating, 0, "ended"},
	} {
		pass := Begin(Task{Tries: 1 + tt.failures}, always(plan.Plan{Actions: []plan.Action{tt.action, update}}))
		pass.Next()
		pass.Done([]Result{{Err: tt.err}}, time.Time{})
		o := pass.Outcome()
		got := "done"
		switch {
		case o.Failure != nil:
			got = fmt.Sprintf("failed %d", o.Failure.Times)
		case o.Retry:
			got = "look again"
		case pass.Next().Over():
			got = "ended"
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestOldSnapshot costs no backoff while the snapshot catches up each time, and one after that.
func TestOldSnapshot(t *testing.T) {
	c, v := NewCore([]plan.Controller{{Name: "a", For: resource.Pods}}, 1), view.New()
	v.Apply(view.Event{Type: "ADDED", Object: podAt("p", 1)})
	c.Start(v)
	c.Changed(v, view.Change{Resource: resource.Pods, Revision: 1}, time.Time{})
	now := time.Unix(1000, 0)
	conflict := apierrors.NewConflict(resource.Pods.GroupResource(), "p", errors.New("RV"))
	for try := 1; try <= staleTries+1; try++ {
		task, ok := c.Next()
		if !ok {
			t.Fatalf("try %d: nothing due", try)
		}
		live := podAt("p", uint64(10*try))
		pass := Begin(task, always(plan.Plan{Actions: []plan.Action{plan.Update{Object: podAt("p", 1)}}}))
		pass.Next()
		pass.Done([]Result{{Object: live, Err: conflict}}, now)
		c.Done(task, pass.Outcome(), now)
		if _, ok := c.Next(); ok {
			t.Fatalf("try %d: planned on a picture known to be old", try)
		}
		if at, ok := c.NextTimer(); ok != (try > staleTries) {
			t.Errorf("try %d: timer %v %v", try, at, ok)
		}
		// The event does not make the key due: its own wish to look again does.
		c.Changed(v, view.Change{Resource: resource.Pods, Revision: uint64(10 * try)}, time.Time{})
	}
}

// TestRest: of a burst of changes the first is decided about at once, all others together when the
// rest ends; a quiet rest ends in nothing, and a timer set meanwhile still comes.
func TestRest(t *testing.T) {
	c := NewCore([]plan.Controller{{Name: "a", For: resource.Pods, Rest: time.Second}}, 1)
	v := view.New()
	c.Start(v)
	now := time.Unix(1000, 0)
	change := func(revision uint64) {
		c.Changed(v, v.Apply(view.Event{Type: "MODIFIED", Object: podAt("p", revision)}), now)
	}
	next := func(want bool) Task {
		t.Helper()
		task, ok := c.Next()
		if ok != want {
			t.Fatalf("handed out: %t, want %t: %s", ok, want, c)
		}
		return task
	}
	change(1)
	c.Done(next(true), Outcome{Why: plan.Why{State: plan.Steady}, Again: now.Add(time.Minute)}, now)
	change(2)
	change(3)
	next(false)
	c.Wake(now.Add(time.Second))
	c.Done(next(true), Outcome{Why: plan.Why{State: plan.Steady}, Again: now.Add(time.Minute)}, now.Add(time.Second))
	next(false)
	c.Wake(now.Add(3 * time.Second))
	next(false)
	if at, ok := c.NextTimer(); !ok || !at.Equal(now.Add(time.Minute)) || !c.Idle() {
		t.Fatalf("timer %s %t: %s", at, ok, c)
	}
	change(4)
	c.Done(next(true), Outcome{Why: plan.Why{State: plan.Steady}, Again: now.Add(4 * time.Second)}, now.Add(3500*time.Millisecond))
	c.Wake(now.Add(4600 * time.Millisecond)) // the timer's time came within the rest
	next(true)
}

// TestLag: a change waits for its decision as long as the controller lags, and those that come meanwhile wait no longer;
// what a pass finds changed when it ends lags too, the beginning and the planner's own wish do not.
func TestLag(t *testing.T) {
	c := NewCore([]plan.Controller{{Name: "a", For: resource.Pods, Lag: time.Second}}, 1)
	v := view.New()
	now := time.Unix(1000, 0)
	v.Apply(view.Event{Type: "ADDED", Object: podAt("p", 1)})
	c.Start(v)
	change := func(revision uint64, at time.Time) {
		c.Changed(v, v.Apply(view.Event{Type: "MODIFIED", Object: podAt("p", revision)}), at)
	}
	next := func(want bool) Task {
		t.Helper()
		task, ok := c.Next()
		if ok != want {
			t.Fatalf("handed out: %t, want %t: %s", ok, want, c)
		}
		return task
	}
	steady := Outcome{Why: plan.Why{State: plan.Steady}, Again: now.Add(time.Minute)}
	c.Done(next(true), steady, now)
	change(2, now)
	next(false)
	change(3, now.Add(900*time.Millisecond))
	c.Wake(now.Add(999 * time.Millisecond))
	next(false)
	c.Wake(now.Add(time.Second))
	running := next(true)
	change(4, now.Add(1100*time.Millisecond))
	c.Done(running, steady, now.Add(1200*time.Millisecond))
	next(false)
	c.Wake(now.Add(2200 * time.Millisecond))
	c.Done(next(true), steady, now.Add(2200*time.Millisecond))
	if at, ok := c.NextTimer(); !ok || !at.Equal(now.Add(time.Minute)) {
		t.Fatalf("timer %s %t: %s", at, ok, c)
	}
	c.Wake(now.Add(time.Minute))
	next(true)
}
