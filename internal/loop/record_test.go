package loop

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"coracle/internal/plan"
	"coracle/internal/resource"
)

func say(object, reason, message string) plan.Event {
	return plan.Event{Regarding: plan.Ref{Resource: resource.Pods, Key: podKey(object)}, Type: "Normal", Reason: reason, Message: message}
}

func TestRepeatsAreCounted(t *testing.T) {
	r, now := NewRecorder(), time.Unix(1000, 0)
	var last string
	for i := 1; i <= 5; i++ {
		e, ok := r.Record("kubelet", say("p", "BackOff", "again"), now.Add(time.Duration(i)*time.Second))
		if !ok || int(e.Count) != i || e.FirstTimestamp.Unix() != 1001 || e.LastTimestamp.Unix() != 1000+int64(i) {
			t.Fatalf("%d: %+v %v", i, e, ok)
		}
		if last != "" && last != e.Name {
			t.Errorf("a repeat has a new name: %s, %s", last, e.Name)
		}
		last = e.Name
	}
	if e, _ := r.Record("scheduler", say("p", "BackOff", "again"), now); e.Count != 1 || e.Name == last {
		t.Error("another source's event was counted with it")
	}
	first, _ := r.Record("kubelet", say("p", "BackOff", "again"), now.Add(time.Minute))
	r.Renew(first)
	if e, _ := r.Record("kubelet", say("p", "BackOff", "again"), now.Add(time.Minute)); e.Count != 1 {
		t.Errorf("an event that is gone was counted on: %d", e.Count)
	}
}

func TestLikeEventsAreCombined(t *testing.T) {
	r, now := NewRecorder(), time.Unix(1000, 0)
	var combinedCount int32
	for i := range 20 {
		e, ok := r.Record("rs", say("p", "SuccessfulCreate", fmt.Sprintf("Created pod: p-%d", i)), now)
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
	e, _ := r.Record("rs", say("p", "SuccessfulCreate", "Created pod: q"), now.Add(time.Hour))
	if strings.HasPrefix(e.Message, combined) {
		t.Errorf("still combined: %q", e.Message)
	}
}

func TestFloodsAreThinnedOut(t *testing.T) {
	r, now := NewRecorder(), time.Unix(1000, 0)
	told := 0
	for i := range 100 {
		if _, ok := r.Record("rs", say("p", fmt.Sprintf("Reason%d", i), "x"), now); ok {
			told++
		}
	}
	if told != burst {
		t.Errorf("%d told at once, want %d", told, burst)
	}
	if _, ok := r.Record("rs", say("q", "Other", "x"), now); !ok {
		t.Error("another object's event was held back")
	}
	if _, ok := r.Record("rs", say("p", "Later", "x"), now.Add(refill)); !ok {
		t.Error("still held back after five minutes")
	}
}

func TestNamesAreDistinct(t *testing.T) {
	r, now := NewRecorder(), time.Unix(1000, 0)
	seen := map[string]bool{}
	for i := range 3 * correlatorFloor {
		e, ok := r.Record("rs", say(fmt.Sprintf("p%d", i), "R", "x"), now.Add(time.Duration(i)*time.Millisecond))
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
		r.Record("rs", say(fmt.Sprintf("p%d", i%1000), "R", "x"), now.Add(time.Duration(i)*time.Second))
	}
}
