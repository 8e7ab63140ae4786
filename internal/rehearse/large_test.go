package rehearse

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// large is a Deployment of a thousand pods on a hundred nodes, and its next version.
func large(t testing.TB) Input {
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
  replicas: 1000
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

// TestLarge: a rollout of a thousand pods is one that a person waits for, and reads.
func TestLarge(t *testing.T) {
	in := large(t)
	began := time.Now()
	report, err := Rehearse(in)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	} else {
		t.Logf("rehearsed in %s", took)
	}
	if !report.Converges || report.Created != 1000 || report.Deleted != 1000 || len(report.Timeline) > widest {
		t.Errorf("converges %v, created %d, deleted %d, %d lines", report.Converges, report.Created, report.Deleted, len(report.Timeline))
	}
	if w := report.Workloads[0]; w.Lowest.Available < 750 {
		t.Errorf("lowest %s: maxUnavailable is 25%%", w.Lowest)
	}
}

// BenchmarkLarge is the same, to look at.
func BenchmarkLarge(b *testing.B) {
	in := large(b)
	for b.Loop() {
		if _, err := Rehearse(in); err != nil {
			b.Fatal(err)
		}
	}
}
