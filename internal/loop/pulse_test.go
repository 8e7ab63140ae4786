package loop

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client/fake"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
)

func TestAbsent(t *testing.T) {
	for _, c := range []struct {
		what          string
		steady, ofDay time.Duration
		away          bool
	}{
		{"an ordinary tick", 5 * time.Second, 5 * time.Second, false},
		{"a late one on a busy machine", 14 * time.Second, 14 * time.Second, false},
		{"a clock kept by NTP", 5 * time.Second, 5*time.Second + 300*time.Millisecond, false},
		{"a leap of a second", 5 * time.Second, 4 * time.Second, false},
		{"stopped for 62 s", 62 * time.Second, 62 * time.Second, true},
		{"suspended for 62 s", time.Second, 63 * time.Second, true},
		{"set three hours ahead", 5 * time.Second, 3 * time.Hour, true},
		{"set back", 5 * time.Second, -3 * time.Hour, true},
		{"stopped, and set back by as much", 62 * time.Second, 0, true},
	} {
		if got := absent(c.steady, c.ofDay); got != c.away {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

// TestAwayIsNobodysSilence: what a planner is told of an object's silence leaves out the time in which the loop did not
// run, and it is asked again when the loop comes back.
func TestAwayIsNobodysSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var silent atomic.Int64
		key := object.Key{Namespace: "d", Name: "p"}
		c := plan.Controller{
			Name: "a", For: resource.Pods,
			Signs: []plan.Sign{{Resource: resource.Pods, Given: func(_, after object.Object) bool { return after.(*corev1.Pod).Status.Message == "sign" }}},
			Plan: func(in plan.Input) plan.Plan {
				silent.Store(int64((in.Witness.Now - in.Witness.Last(resource.Pods, key)).Round(time.Second)))
				return plan.Plan{Again: in.Now.Add(time.Hour)}
			},
		}
		cluster := fake.New()
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "p"}}
		if _, err := cluster.Create(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		v := view.New()
		l := New(cluster, v, []plan.Controller{c}, Options{NoEvents: true})
		f := view.Follow(t.Context(), cluster, v, l.Resources()...)
		go l.Run(t.Context(), f.Synced())
		want := func(what string, d time.Duration) {
			t.Helper()
			l.mu.Lock()
			l.core.Poke("a", resource.Pods, key)
			l.dispatch()
			l.mu.Unlock()
			synctest.Wait()
			if got := time.Duration(silent.Load()); got != d {
				t.Errorf("%s: silent for %s, want %s", what, got, d)
			}
		}
		say := func(message string) {
			t.Helper()
			next := pod.DeepCopy()
			next.Status.Message = message
			if _, err := cluster.Update(t.Context(), next, "status"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		time.Sleep(30 * time.Second)
		want("since the start", 30*time.Second)
		say("sign")
		time.Sleep(20 * time.Second)
		want("since the sign", 20*time.Second)
		say("no sign")
		want("another change", 20*time.Second)

		l.mu.Lock()
		l.pulse.last = l.pulse.last.Add(-time.Minute) // as if the process had not run for a minute
		l.mu.Unlock()
		silent.Store(-1)
		time.Sleep(pulseEvery)
		synctest.Wait()
		if silent.Load() < 0 {
			t.Error("what waited was not looked at after the absence")
		}
		began := time.Duration(silent.Load())
		if began > pulseEvery {
			t.Errorf("after the absence: silent for %s", began)
		}
		time.Sleep(10 * time.Second)
		want("ten seconds later", began+10*time.Second)
	})
}
