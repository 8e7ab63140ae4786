package rollout_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"coracle/internal/workload/rollout"
)

func val(s string) *intstr.IntOrString {
	if s == "" {
		return nil
	}
	v := intstr.Parse(s)
	return &v
}

func TestRoomFor(t *testing.T) {
	for _, c := range []struct {
		surge, unavailable string
		replicas           int32
		want               rollout.Room
		err                string
	}{
		{"25%", "25%", 3, rollout.Room{Surge: 1, Unavailable: 0}, ""},
		{"25%", "25%", 4, rollout.Room{Surge: 1, Unavailable: 1}, ""},
		{"25%", "25%", 10, rollout.Room{Surge: 3, Unavailable: 2}, ""},
		{"25%", "25%", 1, rollout.Room{Surge: 1, Unavailable: 0}, ""},
		{"0", "25%", 2, rollout.Room{Surge: 0, Unavailable: 1}, ""},
		{"0%", "0%", 5, rollout.Room{Surge: 0, Unavailable: 1}, ""},
		{"0", "1", 0, rollout.Room{Surge: 0, Unavailable: 0}, ""},
		{"2", "5", 3, rollout.Room{Surge: 2, Unavailable: 3}, ""},
		{"100%", "0", 7, rollout.Room{Surge: 7, Unavailable: 0}, ""},
		{"", "", 7, rollout.Room{Surge: 0, Unavailable: 1}, ""},
		{"many", "0", 7, rollout.Room{Surge: 0, Unavailable: 1}, `maxSurge: "many" is neither`},
		{"1", "1.5%", 7, rollout.Room{Surge: 1, Unavailable: 0}, `maxUnavailable: "1.5%" is neither`},
	} {
		got, err := rollout.RoomFor(val(c.surge), val(c.unavailable), c.replicas)
		if got != c.want || (err != nil) != (c.err != "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
			t.Errorf("RoomFor(%q, %q, %d) = %+v, %v; want %+v, %q", c.surge, c.unavailable, c.replicas, got, err, c.want, c.err)
		}
	}
}

// TestRoomNeverShut: whatever is asked for, something may move, and the bounds lie around the size.
func TestRoomNeverShut(t *testing.T) {
	amount := rapid.Custom(func(t *rapid.T) *intstr.IntOrString {
		if rapid.Bool().Draw(t, "percent") {
			return val(rapid.StringMatching(`([0-9]|[1-9][0-9]|100)%`).Draw(t, "value"))
		}
		v := intstr.FromInt32(rapid.Int32Range(0, 50).Draw(t, "value"))
		return &v
	})
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int32Range(1, 1000).Draw(t, "replicas")
		room, err := rollout.RoomFor(amount.Draw(t, "surge"), amount.Draw(t, "unavailable"), n)
		if err != nil {
			t.Fatal(err)
		}
		if room.Surge+room.Unavailable < 1 || room.Least(n) < 0 || room.Least(n) > n || room.Most(n) < n {
			t.Fatalf("replicas %d: %+v, between %d and %d", n, room, room.Least(n), room.Most(n))
		}
	})
}

func TestShare(t *testing.T) {
	part := func(size, whole int32) rollout.Part { return rollout.Part{Size: size, Whole: whole} }
	for _, c := range []struct {
		name            string
		parts           []rollout.Part
		whole, fallback int32
		want            []int32
	}{
		{"the documentation's example: 10 to 15 with a surge of 3", []rollout.Part{part(8, 13), part(5, 13)}, 18, 0, []int32{11, 7}},
		{"10 to 5 with a surge of 3", []rollout.Part{part(8, 13), part(5, 13)}, 8, 0, []int32{5, 3}},
		{"no change", []rollout.Part{part(8, 13), part(5, 13)}, 13, 0, []int32{8, 5}},
		{"to nothing", []rollout.Part{part(8, 13), part(5, 13)}, 0, 0, []int32{0, 0}},
		{"the leftover is the first one's", []rollout.Part{part(5, 10), part(5, 10)}, 11, 0, []int32{6, 5}},
		{"many small ones", []rollout.Part{part(1, 4), part(1, 4), part(1, 4), part(1, 4)}, 2, 0, []int32{0, 0, 1, 1}},
		{"an unknown whole falls back", []rollout.Part{part(4, 0), part(1, 0)}, 10, 5, []int32{8, 2}},
		{"nothing known", []rollout.Part{part(4, 0), part(1, 0)}, 10, 0, []int32{9, 1}},
		{"none", nil, 10, 0, []int32{}},
	} {
		if diff := cmp.Diff(c.want, rollout.Share(c.parts, c.whole, c.fallback)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", c.name, diff)
		}
	}
}

// TestShareProperties: shares are never negative, nobody grows when all shrink nor the reverse (but
// for the first, which takes the rest), and they add up.
func TestShareProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.Int32Range(1, 60), 1, 5).Draw(t, "sizes")
		var before int32
		for _, s := range sizes {
			before += s
		}
		parts := make([]rollout.Part, len(sizes))
		for i, s := range sizes {
			parts[i] = rollout.Part{Size: s, Whole: before}
		}
		whole := rapid.Int32Range(0, 300).Draw(t, "whole")
		var after int32
		for i, got := range rollout.Share(parts, whole, 0) {
			after += got
			if got < 0 || (i > 0 && whole >= before && got < sizes[i]) || (i > 0 && whole <= before && got > sizes[i]) {
				t.Fatalf("part %d of %v at %d became %d", i, sizes, whole, got)
			}
		}
		if after != whole {
			t.Fatalf("the shares of %v add up to %d, want %d", sizes, after, whole)
		}
	})
}

func TestParseSteps(t *testing.T) {
	step := func(percent int32, pause time.Duration) rollout.Step {
		return rollout.Step{Percent: percent, Pause: pause}
	}
	for _, c := range []struct {
		value string
		want  []rollout.Step
		err   string
	}{
		{"10%,50%,100%", []rollout.Step{step(10, 0), step(50, 0), step(100, 0)}, ""},
		{"10%:5m, 50%:1h30m", []rollout.Step{step(10, 5*time.Minute), step(50, 90*time.Minute), step(100, 0)}, ""},
		{"100%", []rollout.Step{step(100, 0)}, ""},
		{"", nil, `step ""`},
		{"10", nil, `step "10": want a percentage`},
		{"0%", nil, `step "0%": want a percentage`},
		{"101%", nil, `step "101%": want a percentage`},
		{"50%,50%", nil, `step "50%": percentages must rise`},
		{"10%:", nil, `step "10%:": the pause must be`},
		{"10%:-1s", nil, `step "10%:-1s": the pause must be`},
		{"10%:5m:6m", nil, `the pause must be`},
		{"10%,,50%", nil, `step ""`},
	} {
		got, err := rollout.ParseSteps(c.value)
		if diff := cmp.Diff(c.want, got); diff != "" || (err != nil) != (c.err != "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
			t.Errorf("ParseSteps(%q) = %v, %v; want %v, %q", c.value, got, err, c.want, c.err)
		}
	}
}

func FuzzParseSteps(f *testing.F) {
	for _, seed := range []string{"10%,50%,100%", "10%:5m", "%", ":", "100%:1ns", "1%,2%,3%"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		steps, err := rollout.ParseSteps(value)
		if err != nil {
			return
		}
		var before int32
		for _, s := range steps {
			if s.Percent <= before || s.Pause < 0 {
				t.Fatalf("%q: %v", value, steps)
			}
			before = s.Percent
		}
		if before != 100 {
			t.Fatalf("%q ends at %d%%", value, before)
		}
	})
}

func TestStepTarget(t *testing.T) {
	for _, c := range []struct{ percent, replicas, want int32 }{
		{10, 10, 1}, {10, 3, 1}, {10, 1, 1}, {10, 0, 0}, {50, 3, 2}, {100, 7, 7}, {1, 1000, 10}, {33, 100, 33},
	} {
		if got := (rollout.Step{Percent: c.percent}).Target(c.replicas); got != c.want {
			t.Errorf("%d%% of %d = %d, want %d", c.percent, c.replicas, got, c.want)
		}
	}
}

func TestJudge(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	const limit = time.Minute
	for _, c := range []struct {
		name string
		p    rollout.Progress
		now  time.Time
		want rollout.Standing
		end  time.Time
	}{
		{"complete", rollout.Progress{Complete: true, Expired: true}, at(time.Hour), rollout.Done, time.Time{}},
		{"moved", rollout.Progress{Moved: true, Expired: true}, at(0), rollout.Advanced, at(limit)},
		{"within the deadline", rollout.Progress{Last: start}, at(limit - 1), rollout.Unchanged, at(limit)},
		{"at the deadline", rollout.Progress{Last: start}, at(limit), rollout.TimedOut, time.Time{}},
		{"expired before", rollout.Progress{Last: at(limit), Expired: true}, at(limit), rollout.TimedOut, time.Time{}},
		{"at rest since the last rollout", rollout.Progress{Last: start, Rested: true}, at(time.Hour), rollout.Unchanged, time.Time{}},
		{"no clock", rollout.Progress{}, at(time.Hour), rollout.Unchanged, time.Time{}},
	} {
		c.p.Deadline = limit
		if got, end := c.p.Judge(c.now); got != c.want || !end.Equal(c.end) {
			t.Errorf("%s: %v until %v, want %v until %v", c.name, got, end, c.want, c.end)
		}
	}
}

func TestUpDown(t *testing.T) {
	for _, c := range []struct {
		v        string
		total    int32
		up, down int32
	}{{"", 5, 0, 0}, {"3", 5, 3, 3}, {"30%", 5, 2, 1}, {"100%", 5, 5, 5}, {"0%", 5, 0, 0}, {"29%", 100, 29, 29}} {
		up, errUp := rollout.Up(val(c.v), c.total)
		down, errDown := rollout.Down(val(c.v), c.total)
		if up != c.up || down != c.down || errUp != nil || errDown != nil {
			t.Errorf("%q of %d: up %d (%v), down %d (%v); want %d, %d", c.v, c.total, up, errUp, down, errDown, c.up, c.down)
		}
	}
}

// TestShareGrowsAll: no part is lowered by a growth, however much larger all were when its size was decided.
func TestShareGrowsAll(t *testing.T) {
	parts := []rollout.Part{{Size: 2, Whole: 9}, {Size: 2, Whole: 9}}
	got := rollout.Share(parts, 5, 4)
	if got[0]+got[1] != 5 || got[0] < 2 || got[1] < 2 {
		t.Errorf("from 2 and 2 to 5 in all: %v", got)
	}
}
