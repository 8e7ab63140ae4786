package why_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/why"
)

// TestLogIsBounded: a container writes what it likes; an answer has little of it, and nothing that moves a cursor.
func TestLogIsBounded(t *testing.T) {
	var l why.Log
	l.Fill([]byte(strings.Repeat("early\n", 30) + "\x1b[31mred\x07\r\n\xff\xfe\n\n" + strings.Repeat("long", 1000) + "\n"))
	if len(l.Lines) > why.LogLines {
		t.Errorf("%d lines", len(l.Lines))
	}
	if !slices.Contains(l.Lines, "[31mred") {
		t.Errorf("%q", l.Lines)
	}
	for _, line := range l.Lines {
		if len([]rune(line)) > 301 || strings.ContainsAny(line, "\x1b\x07\r") {
			t.Errorf("line %q", line)
		}
	}
	var none why.Log
	none.Fill(nil)
	if len(none.Lines) != 0 {
		t.Errorf("%q", none.Lines)
	}
}

// TestLogIsOfTheCrash: which container's log, and which run's.
func TestLogIsOfTheCrash(t *testing.T) {
	inWorld(t, func(w *world) {
		w.make(node("n1", "4"), solo())
		for _, tc := range []struct {
			name   string
			change func(*corev1.Pod)
			want   why.Log
			ok     bool
		}{
			{"waits", crashing(1, "Error"), why.Log{Container: "app", Previous: true}, true},
			{"has ended", func(p *corev1.Pod) {
				crashing(1, "Error")(p)
				s := &p.Status.ContainerStatuses[0]
				s.State = corev1.ContainerState{Terminated: s.LastTerminationState.Terminated}
			}, why.Log{Container: "app"}, true},
			{"ready again", func(p *corev1.Pod) { crashing(1, "Error")(p); ready(p) }, why.Log{}, false},
			{"has not begun", creating, why.Log{}, false},
		} {
			w.pods("solo", tc.change)
			o, _ := w.View.Get(resource.Pods, "default", "solo")
			got, ok := why.Crashed(o.(*corev1.Pod))
			if ok != tc.ok || got.Container != tc.want.Container || got.Previous != tc.want.Previous {
				t.Errorf("%s: %+v %v, want %+v %v", tc.name, got, ok, tc.want, tc.ok)
			}
		}
	})
}

// TestLogIsTold: the lines stand below the cause.
func TestLogIsTold(t *testing.T) {
	inWorld(t, func(w *world) {
		w.make(node("n1", "4"), solo())
		w.pods("solo", crashing(1, "Error"))
		report, _ := w.why(resource.Pods, "solo")
		log := why.Log{Container: "app", Previous: true}
		log.Fill([]byte("reading /etc/app.yaml\nfatal: no such file\n"))
		report.Causes[0].Log = &log
		var b strings.Builder
		if err := report.Text(&b); err != nil {
			t.Fatal(err)
		}
		if want := "  last lines of container app:\n    reading /etc/app.yaml\n    fatal: no such file\n"; !strings.Contains(b.String(), want) {
			t.Errorf("the log is not told:\n%s", b.String())
		}
		roundTrip(t, report, b.String())
		if report.Object.State != plan.Stuck {
			t.Errorf("state %s", report.Object.State)
		}
	})
}
