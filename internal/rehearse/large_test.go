package rehearse

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// large is a Deployment of many pods on a hundred nodes, and its next version.
func large(t testing.TB, replicas int) Input {
	tt, ok := t.(*testing.T)
	if !ok {
		tt = &testing.T{}
	}
	var nodes strings.Builder
	for i := range 100 {
		fmt.Fprintf(&nodes, "node-%d 64\n", i)
	}
	web := func(image string) string {
		return `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: ` + fmt.Sprint(replicas) + `
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: "` + image + `"}]}
`
	}
	in := Input{Start: epoch.Add(10 * time.Minute), Namespace: "default", Within: time.Hour,
		Objects: given(tt, map[string]string{"cluster": nodes.String(), "given": web("web:1")})}
	for _, d := range documents(tt, web("web:2")) {
		in.Changes = []Change{{Verb: Apply, Ref: d.Ref, Object: served(tt, in.Objects, d)}}
	}
	return in
}

// effort is what a rehearsal takes, counted: it is the same on every machine.
type effort struct{ decisions, writes, allocations int }

func effortOf(t *testing.T, in Input) (effort, *Report) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, err := play(in)
	if err != nil {
		t.Fatal(err)
	}
	report := r.report()
	runtime.ReadMemStats(&after)
	decisions, writes := r.world.Effort()
	return effort{decisions, writes, int(after.Mallocs - before.Mallocs)}, report
}

// TestLarge: a rollout of a thousand pods is one that a person reads, and waits for: what it takes grows with the pods,
// and not with their square.
func TestLarge(t *testing.T) {
	small, _ := effortOf(t, large(t, 250))
	took, report := effortOf(t, large(t, 1000))
	t.Logf("250 pods: %+v, 1000 pods: %+v", small, took)
	for what, counts := range map[string][2]int{
		"decisions": {small.decisions, took.decisions}, "writes": {small.writes, took.writes},
		"allocations": {small.allocations, took.allocations},
	} {
		if counts[1] > 5*counts[0] {
			t.Errorf("%s: %d for 250 pods, %d for 1000", what, counts[0], counts[1])
		}
	}
	if took.decisions > 15*1000 || took.writes > 8*1000 {
		t.Errorf("it took %d decisions and %d writes", took.decisions, took.writes)
	}
	if !report.Converges || report.Created != 1000 || report.Deleted != 1000 || len(report.Timeline) > widest {
		t.Errorf("converges %v, created %d, deleted %d, %d lines", report.Converges, report.Created, report.Deleted, len(report.Timeline))
	}
	if w := report.Workloads[0]; w.Lowest.Available < 750 {
		t.Errorf("lowest %s: maxUnavailable is 25%%", w.Lowest)
	}
}

// BenchmarkLarge is how long it takes.
func BenchmarkLarge(b *testing.B) {
	in := large(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Rehearse(in); err != nil {
			b.Fatal(err)
		}
	}
}
