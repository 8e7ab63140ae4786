package loop_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client/fake"
	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// configMaps is a planner that keeps as many ConfigMaps beside a Secret as its annotation "want"
// says, and counts them in the annotation "have" by way of the status of nothing: it is the
// smallest thing with a loop's troubles.
func configMaps(name string) plan.Controller {
	watchOwner := func(_ object.Reader, before, after object.Object) []object.Key {
		o := after
		if o == nil {
			o = before
		}
		if c := metav1.GetControllerOf(o); c != nil {
			return []object.Key{{Namespace: o.GetNamespace(), Name: c.Name}}
		}
		return nil
	}
	return plan.Controller{
		Name: name, For: resource.Pods,
		Watches: []plan.Watch{{Resource: resource.ConfigMaps, Keys: watchOwner}},
		Plan: func(in plan.Input) plan.Plan {
			o, ok := in.Reader.Get(resource.Pods, in.Key.Namespace, in.Key.Name)
			if !ok {
				return plan.Plan{}
			}
			pod := o.(*corev1.Pod)
			var want int
			_, _ = fmt.Sscan(pod.Annotations["want"], &want)
			have := in.Reader.Indexed(resource.ConfigMaps, object.ByController, string(pod.UID))
			var p plan.Plan
			yes := true
			for range want - len(have) {
				p.Actions = append(p.Actions, plan.Create{
					Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
						Namespace: pod.Namespace, GenerateName: pod.Name + "-",
						OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: &yes}},
					}},
					Because: "one is missing",
					Done:    &plan.Event{Regarding: object.RefOf(pod), Type: "Normal", Reason: "SuccessfulCreate", Message: "Created: {name}"},
					Failed:  &plan.Event{Regarding: object.RefOf(pod), Type: "Warning", Reason: "FailedCreate", Message: "Error creating: {error}"},
				})
			}
			for i := range len(have) - want {
				p.Actions = append(p.Actions, plan.Delete{Object: object.RefOf(have[i]), Because: "one too many"})
			}
			next := pod.DeepCopy()
			next.Status.Message = fmt.Sprintf("%d of %d", len(have), want)
			next.Status.Reason = ""
			if in.Last != nil {
				next.Status.Reason = string(in.Last.Status.Reason)
			}
			if next.Status.Message != pod.Status.Message || next.Status.Reason != pod.Status.Reason {
				p.Status = next
			}
			p.Why = plan.Why{State: plan.Steady}
			if len(p.Actions) > 0 {
				p.Why = plan.Why{State: plan.Progressing, Next: "make it so"}
			}
			return p
		},
	}
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// running starts a loop over a fake cluster within a synctest bubble and stops it at the end.
func running(t testing.TB, c *fake.Cluster, controllers ...plan.Controller) (*loop.Loop, *view.View) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	v := view.New()
	l := loop.New(c, v, controllers, loop.Options{Log: quiet})
	f := view.Follow(ctx, c, v, append(l.Resources(), resource.Events)...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx, f.Synced())
	}()
	stop := func() {
		cancel()
		<-done
		<-f.Done()
	}
	t.Cleanup(stop)
	return l, v
}

func owner(t testing.TB, c *fake.Cluster, name string, want int) *corev1.Pod {
	t.Helper()
	o, err := c.Create(context.Background(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "d", Name: name, Annotations: map[string]string{"want": fmt.Sprint(want)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return o.(*corev1.Pod)
}

func setWant(t testing.TB, c *fake.Cluster, name string, want int) {
	t.Helper()
	body := fmt.Sprintf(`{"metadata":{"annotations":{"want":"%d"}}}`, want)
	ref := object.Ref{Resource: resource.Pods, Key: object.Key{Namespace: "d", Name: name}}
	if _, err := c.Patch(context.Background(), ref, "application/merge-patch+json", []byte(body), ""); err != nil {
		t.Fatal(err)
	}
}

func count(v *view.View) int { return len(v.List(resource.ConfigMaps, "d")) }

func status(t testing.TB, v *view.View, name string) corev1.PodStatus {
	t.Helper()
	o, ok := v.Get(resource.Pods, "d", name)
	if !ok {
		t.Fatalf("no pod %s", name)
	}
	return o.(*corev1.Pod).Status
}

// TestNeverMoreThanAsked would make too many if a plan were made on a snapshot older than the
// loop's own writes.
func TestNeverMoreThanAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fake.New()
		l, v := running(t, c, configMaps("keeper"))
		for i := range 5 {
			owner(t, c, fmt.Sprintf("o%d", i), 20)
		}
		synctest.Wait()
		if got := count(v); got != 100 {
			t.Errorf("%d made, want 100", got)
		}
		if got := c.Calls()["create"]; got < 100+5 || got > 105+5*26 { // owners, children, events
			t.Errorf("%d creates", got)
		}
		if got := status(t, v, "o3").Message; got != "20 of 20" {
			t.Errorf("status %q", got)
		}
		setWant(t, c, "o3", 3)
		synctest.Wait()
		if got := count(v); got != 83 {
			t.Errorf("%d left, want 83", got)
		}
		if got := c.Calls()["delete"]; got != 17 {
			t.Errorf("%d deletes, want 17: none twice", got)
		}
		if !l.Idle() {
			t.Error("not idle at rest")
		}
		writes := c.Revision()
		time.Sleep(time.Hour)
		synctest.Wait()
		if c.Revision() != writes {
			t.Errorf("a loop at rest wrote %d times", c.Revision()-writes)
		}
	})
}

// TestFailureIsShownAndTriedAgain lets three creates pass, then refuses.
func TestFailureIsShownAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fake.New()
		var allowed atomic.Int64
		allowed.Store(3)
		c.Fail = func(verb string, ref object.Ref, _ string) error {
			if verb == "create" && ref.Resource == resource.ConfigMaps && allowed.Add(-1) < 0 {
				return apierrors.NewForbidden(ref.Resource.GroupResource(), ref.Name, errors.New("exceeded quota"))
			}
			return nil
		}
		l, v := running(t, c, configMaps("keeper"))
		owner(t, c, "o", 100)
		synctest.Wait()
		if got := count(v); got != 3 {
			t.Errorf("%d made, want 3", got)
		}
		if got := status(t, v, "o").Reason; got != "Forbidden" {
			t.Errorf("status says %q", got)
		}
		// 1, 2, 4: the third batch fails as one, and nothing more is tried in that pass; the
		// events of the pass's own writes ask for further passes of one create each.
		if tried := 3 - allowed.Load(); tried > 20 {
			t.Errorf("%d creates tried at a wall", tried)
		}
		why := l.Why(resource.Pods, object.Key{Namespace: "d", Name: "o"})
		if len(why) != 1 || why[0].Failure == nil || why[0].Controller != "keeper" {
			t.Errorf("why: %+v", why)
		}
		allowed.Store(1000)
		time.Sleep(1001 * time.Second)
		synctest.Wait()
		if got := count(v); got != 100 {
			t.Errorf("%d made, want 100", got)
		}
		if got := status(t, v, "o"); got.Reason != "" || got.Message != "100 of 100" {
			t.Errorf("status %q %q", got.Reason, got.Message)
		}
		events := v.List(resource.Events, "d")
		var failed, combined bool
		for _, o := range events {
			e := o.(*corev1.Event)
			failed = failed || e.Reason == "FailedCreate" && strings.Contains(e.Message, "exceeded quota") && e.Source.Component == "keeper"
			combined = combined || strings.HasPrefix(e.Message, "(combined from similar events): Created: o-")
			if !strings.HasPrefix(e.Name, "o.") {
				t.Errorf("event named %q", e.Name)
			}
		}
		if !failed || !combined || len(events) > 25 {
			t.Errorf("%d events, failed told %v, combined told %v", len(events), failed, combined)
		}
	})
}

func TestPanicIsCaughtAndBackedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fake.New()
		var calls atomic.Int64
		l, v := running(t, c, plan.Controller{
			Name: "broken", For: resource.Pods,
			Plan: func(plan.Input) plan.Plan {
				calls.Add(1)
				panic("no such thing")
			},
		})
		owner(t, c, "o", 0)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		// 5, 10, 20, 40 ms after the first.
		if got := calls.Load(); got != 5 {
			t.Errorf("%d tries in 100 ms, want 5", got)
		}
		events := v.List(resource.Events, "d")
		if len(events) != 1 || events[0].(*corev1.Event).Reason != "PlannerPanic" || events[0].(*corev1.Event).Count != 5 {
			t.Errorf("events: %+v", events)
		}
		why := l.Why(resource.Pods, object.Key{Namespace: "d", Name: "o"})
		if len(why) != 1 || why[0].Why.State != plan.Stuck {
			t.Errorf("why: %+v", why)
		}
	})
}

func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fake.New()
		start := time.Now()
		var passes []time.Duration
		running(t, c, plan.Controller{
			Name: "clock", For: resource.Pods,
			Plan: func(in plan.Input) plan.Plan {
				passes = append(passes, in.Now.Sub(start))
				if len(passes) == 3 {
					return plan.Plan{}
				}
				return plan.Plan{Again: in.Now.Add(time.Minute)}
			},
		})
		owner(t, c, "o", 0)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := fmt.Sprint(passes); got != "[0s 1m0s 2m0s]" {
			t.Errorf("passes at %s", got)
		}
	})
}

// TestAbsent asks the cluster, not the snapshot, whether an owner is gone.
func TestAbsent(t *testing.T) {
	c := fake.New()
	o := owner(t, c, "alive", 0)
	victim := owner(t, c, "victim", 0)
	ref := object.RefOf(o)
	if r := loop.Apply(t.Context(), c, plan.Delete{Object: object.RefOf(victim), When: plan.AllAbsent(ref)}); r.Err != nil || r.Object != nil {
		t.Errorf("deleted though its owner lives: %+v", r)
	}
	ref.UID = "an earlier one"
	if r := loop.Apply(t.Context(), c, plan.Delete{Object: object.RefOf(victim), When: plan.AllAbsent(ref)}); r.Err != nil || r.Object == nil {
		t.Errorf("kept though its owner is gone: %+v", r)
	}
}

// TestAlive asks the cluster, not the snapshot, whether an adopter lives.
func TestAlive(t *testing.T) {
	c := fake.New()
	o, orphan := owner(t, c, "alive", 0), owner(t, c, "orphan", 0)
	adopt := func(ref object.Ref) loop.Result {
		next := orphan.DeepCopy()
		next.ResourceVersion = ""
		next.Labels = map[string]string{"adopted-by": string(ref.UID)}
		return loop.Apply(t.Context(), c, plan.Update{Object: next, When: []plan.Guard{plan.Alive{Ref: ref}}})
	}
	if r := adopt(object.RefOf(o)); r.Err != nil || r.Object == nil {
		t.Errorf("a living owner adopts: %+v", r)
	}
	stranger := object.RefOf(o)
	stranger.UID = "an earlier one"
	if r := adopt(stranger); r.Err != nil || r.Object != nil {
		t.Errorf("a dead owner adopted: %+v", r)
	}
}

// BenchmarkThousand makes 1,000 objects for one primary, from its creation to a status that
// counts them all.
func BenchmarkThousand(b *testing.B) {
	c := fake.New()
	_, v := running(b, c, configMaps("keeper"))
	ready := make(chan string, 1)
	v.Subscribe(func(ch view.Change) {
		if p, ok := ch.After.(*corev1.Pod); ok && p.Status.Message == "1000 of 1000" {
			ready <- p.Name
		}
	})
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		owner(b, c, fmt.Sprintf("o%d", i), 1000)
		<-ready
	}
}
