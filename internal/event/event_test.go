package event

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/plan"
	"coracle/internal/resource"
)

// record is Recorder.Record for a component without a host.
func record(r *Recorder, component string, e plan.Event, now time.Time) (*corev1.Event, bool) {
	w, ok := r.Record(Source{Component: component}, e, now)
	return w.Event, ok
}

func say(object, reason, message string) plan.Event {
	return plan.Event{Regarding: object.Ref{Resource: resource.Pods, Key: object.Key{Namespace: "d", Name: object}}, Type: "Normal", Reason: reason, Message: message}
}

func TestRepeatsAreCounted(t *testing.T) {
	r, now := NewRecorder(), time.Unix(1000, 0)
	var last string
	for i := 1; i <= 5; i++ {
		e, ok := record(r, "kubelet", say("p", "BackOff", "again"), now.Add(time.Duration(i)*time.Second))
		if !ok || int(e.Count) != i || e.FirstTimestamp.Unix() != 1001 || e.LastTimestamp.Unix() != 1000+int64(i) {
			t.Fatalf("%d: %+v %v", i, e, ok)
		}
		if last != "" && last != e.Name {
			t.Errorf("a repeat has a new name: %s, %s", last, e.Name)
		}
		last = e.Name
	}
	if e, _ := record(r, "scheduler", say("p", "BackOff", "again"), now); e.Count != 1 || e.Name == last {
		t.Error("another source's event was counted with it")
	}
	first, _ := record(r, "kubelet", say("p", "BackOff", "again"), now.Add(time.Minute))
	r.Renew(first)
	if e, _ := record(r, "kubelet", say("p", "BackOff", "again"), now.Add(time.Minute)); e.Count != 1 {
		t.Errorf("an event that is gone was counted on: %d", e.Count)
	}
}

func TestLikeEventsAreCombined(t *testing.T) {
	r, now := NewRecorder(), time.Unix(1000, 0)
	var combinedCount int32
	for i := range 20 {
		e, ok := record(r, "rs", say("p", "SuccessfulCreate", fmt.Sprintf("Created pod: p-%d", i)), now)
		if !ok {
			t.Fatalf("%d held back", i)
		}
		if strings.HasPrefix(e.Message, combined) != (i >= similarMost-1) {
			t.Errorf("%d: %q", i, e.Message)
		}
		if i >= similarMost-1 {
			combinedCount = e.Count
		}
	}
	if combinedCount != 11 {
		t.Errorf("combined %d times, want 11", combinedCount)
	}
	// After a quiet time they are told one by one again.
	e, _ := record(r, "rs", say("p", "SuccessfulCreate", "Created pod: q"), now.Add(time.Hour))
	if strings.HasPrefix(e.Message, combined) {
		t.Errorf("still combined: %q", e.Message)
	}
}

func TestFloodsAreThinnedOut(t *testing.T) {
	r, now := NewRecorder(), time.Unix(1000, 0)
	told := 0
	for i := range 100 {
		if _, ok := record(r, "rs", say("p", fmt.Sprintf("Reason%d", i), "x"), now); ok {
			told++
		}
	}
	if told != burst {
		t.Errorf("%d told at once, want %d", told, burst)
	}
	if _, ok := record(r, "rs", say("q", "Other", "x"), now); !ok {
		t.Error("another object's event was held back")
	}
	if _, ok := record(r, "rs", say("p", "Later", "x"), now.Add(refill)); !ok {
		t.Error("still held back after five minutes")
	}
}

func TestNamesAreDistinct(t *testing.T) {
	r, now := NewRecorder(), time.Unix(1000, 0)
	seen := map[string]bool{}
	for i := range 3 * correlatorFloor {
		e, ok := record(r, "rs", say(fmt.Sprintf("p%d", i), "R", "x"), now.Add(time.Duration(i)*time.Millisecond))
		if !ok || seen[e.Name] {
			t.Fatalf("%d: %v", i, ok)
		}
		seen[e.Name] = true
		if n := len(r.series) + len(r.buckets) + len(r.similar); n > 3*correlatorFloor+3 {
			t.Fatalf("%d remembered", n)
		}
	}
}

func BenchmarkRecord(b *testing.B) {
	r, now := NewRecorder(), time.Unix(1000, 0)
	b.ReportAllocs()
	for i := range b.N {
		record(r, "rs", say(fmt.Sprintf("p%d", i%1000), "R", "x"), now.Add(time.Duration(i)*time.Second))
	}
}

// TestOneCauseIsOneEvent: what differs at each try only by passing names counts as one; what says something else does not.
func TestOneCauseIsOneEvent(t *testing.T) {
	warn := func(message string) plan.Event {
		e := say("p", "FailedCreatePodSandBox", message)
		e.Type = corev1.EventTypeWarning
		return e
	}
	for _, tc := range []struct {
		name string
		says func(try int) string
		one  bool
	}{
		{"the name of a new sandbox", func(i int) string { return fmt.Sprintf("sandbox %064x: host port 80/TCP is taken", i) }, true},
		{"a new directory", func(i int) string {
			return fmt.Sprintf("mount /x/%08x-0000-4000-8000-%012x/y: no space left on device", i, i)
		}, true},
		{"the nearer port of a connection", func(i int) string {
			return fmt.Sprintf("read tcp 10.0.0.1:%d->10.0.0.2:80: connection reset by peer", 40000+i)
		}, true},
		{"a new process", func(i int) string {
			return fmt.Sprintf("open /proc/%d/ns/net: no such file; pid %d is gone", 100+i, 100+i)
		}, true},
		{"the further port of a connection", func(i int) string { return fmt.Sprintf("dial tcp 10.0.0.2:%d: connection refused", 80+i) }, false},
		{"a status", func(i int) string { return fmt.Sprintf("HTTP probe failed with statuscode: %d", 500+i) }, false},
		{"a pod's name", func(i int) string { return fmt.Sprintf("pod web-7d4b9c8f%02d is in the way", 10+i) }, false},
	} {
		r, now := NewRecorder(), time.Unix(1000, 0)
		names := map[string]bool{}
		for i := range 8 {
			e, ok := record(r, "kubelet", warn(tc.says(i)), now.Add(time.Duration(i)*15*time.Second))
			if !ok || tc.one && (int(e.Count) != i+1 || e.Message != tc.says(i)) {
				t.Errorf("%s, try %d: %+v", tc.name, i, e)
			}
			names[e.Name] = true
		}
		if one := len(names) == 1; one != tc.one {
			t.Errorf("%s: %d events", tc.name, len(names))
		}
	}
	// News that are no warnings are each their own.
	r, now := NewRecorder(), time.Unix(1000, 0)
	a, _ := record(r, "kubelet", say("p", "Made", fmt.Sprintf("made %064x", 1)), now)
	b, _ := record(r, "kubelet", say("p", "Made", fmt.Sprintf("made %064x", 2)), now)
	if a.Name == b.Name {
		t.Error("two things made were told as one")
	}
	// Of two containers each has its own events.
	one, two := warn("x"), warn("x")
	one.Field, two.Field = "spec.containers{a}", "spec.containers{b}"
	a, _ = record(r, "kubelet", one, now)
	b, _ = record(r, "kubelet", two, now)
	if a.Name == b.Name || a.InvolvedObject.FieldPath != "spec.containers{a}" || b.InvolvedObject.FieldPath != "spec.containers{b}" {
		t.Errorf("%+v %+v", a.InvolvedObject, b.InvolvedObject)
	}
}

// TestWhatIsHeldBackCounts: a thinned out event says how often it was, when it is told again.
func TestWhatIsHeldBackCounts(t *testing.T) {
	r, now := NewRecorder(), time.Unix(1000, 0)
	told, last := 0, int32(0)
	for i := range 600 { // one a second, for ten minutes
		w, ok := r.Record(Source{Component: "kubelet", Host: "n"}, say("p", "BackOff", "again"), now.Add(time.Duration(i)*time.Second))
		if !ok {
			continue
		}
		if told++; w.New != (told == 1) || int(w.Event.Count) != i+1 || w.Event.Source.Host != "n" {
			t.Errorf("%d: %+v", i, w)
		}
		last = w.Event.Count
	}
	if told != burst+1 || last < 300 {
		t.Errorf("told %d times, of %d at last", told, last)
	}
}
