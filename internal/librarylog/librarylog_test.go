package librarylog

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"k8s.io/klog/v2"
)

// TestAdmit: what becomes of the lines of one place, at seconds of a clock of their own.
func TestAdmit(t *testing.T) {
	at := func(s float64) time.Time {
		return time.Unix(1_000_000, 0).Add(time.Duration(s * float64(time.Second)))
	}
	var s site
	for i := range burst {
		if v := s.admit(at(0)); !v.write || v.last != (i == burst-1) || v.dropped != 0 {
			t.Fatalf("line %d: %+v", i, v)
		}
	}
	for _, tt := range []struct {
		at   float64
		want verdict
	}{
		{0, verdict{}}, {9.9, verdict{}},
		{10, verdict{write: true, last: true, dropped: 2}},
		{10, verdict{}}, {19, verdict{}}, {25, verdict{write: true, last: true, dropped: 2}},
		{30, verdict{write: true, last: true}}, // what was saved up at 25 counts
		{500, verdict{write: true}},
	} {
		if got := s.admit(at(tt.at)); got != tt.want {
			t.Errorf("at %v: %+v, want %+v", tt.at, got, tt.want)
		}
	}
	// A clock that is set back by a day silences nobody for a day.
	if v := s.admit(at(-86400)); !v.write {
		t.Errorf("after the clock was set back: %+v", v)
	}
	// Whoever speaks without end is written at the rate, however fast it is.
	var loud site
	written, dropped := 0, 0
	for ms := range 3_600_000 / 5 {
		v := loud.admit(at(float64(ms) / 200))
		if v.write {
			written++
			dropped += v.dropped
		}
	}
	if want := burst + 359; written != want || dropped+loud.dropped+written != 720_000 {
		t.Errorf("in an hour %d lines were written and %d told to be left out, want %d written", written, dropped, want)
	}
}

func TestCut(t *testing.T) {
	for _, text := range []string{"", "short", strings.Repeat("x", mostBytes)} {
		if got := cut(text); got != text {
			t.Errorf("%q: %q", text, got)
		}
	}
	for _, text := range []string{
		strings.Repeat("x", mostBytes+1), strings.Repeat("ü", 1000), strings.Repeat("x", 299) + "€uro", strings.Repeat("\xbf", 1000),
	} {
		got := cut(text)
		head, said, ok := strings.Cut(got, "... (")
		if !ok || said != fmt.Sprintf("%d bytes)", len(text)) || !strings.HasPrefix(text, head) ||
			len(head) > mostBytes || len(head) < mostBytes-utf8.UTFMax {
			t.Errorf("%.10q: %q", text, got)
		}
		if utf8.ValidString(text) && !utf8.ValidString(got) {
			t.Errorf("%.10q: cut in the middle of a character", text)
		}
	}
}

// adopted has klog log to a buffer, from an instant of virtual time on.
func adopted(t *testing.T, level slog.Level) func() []string {
	var mu sync.Mutex
	var buf bytes.Buffer
	Adopt(slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return buf.Write(p)
	}), &slog.HandlerOptions{Level: level})))
	t.Cleanup(klog.ClearLogger)
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Split(strings.TrimSuffix(buf.String(), "\n"), "\n")
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestFlood: clients that make the libraries complain for a day, in virtual time, with requests of a megabyte, leave a
// log of a few megabytes, and nobody else is silenced.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := adopted(t, slog.LevelInfo)
		huge := url.Values{"q": {strings.Repeat("x", 1<<20)}}
		for range 100 {
			klog.ErrorS(errors.New(huge.Get("q")), "Couldn't parse request", "request", huge)
			klog.Errorf("broken watch: %v", huge)
		}
		klog.ErrorS(nil, "something else")
		got := lines()
		if len(got) != 2*burst+1 || !strings.Contains(got[2*burst], "something else") {
			t.Fatalf("%d lines, the last %.200s", len(got), got[len(got)-1])
		}
		for _, line := range got {
			if len(line) > 1500 || !strings.Contains(line, "library=kubernetes") {
				t.Errorf("%d bytes: %.300s", len(line), line)
			}
		}
		if last := got[2*burst-1]; !strings.Contains(last, "leavingOutMore=true") || !strings.Contains(last, "1048") {
			t.Errorf("the last line before the gap: %s", last)
		}
	})
}

// TestFloodOfADay: one place that speaks every second.
func TestFloodOfADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := adopted(t, slog.LevelInfo)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for range 24 * 3600 {
			<-tick.C
			klog.ErrorS(nil, "broken")
		}
		got := lines()
		if want := burst + 24*360; len(got) < want-2 || len(got) > want+2 {
			t.Errorf("%d lines in a day, want about %d", len(got), want)
		}
		if last := got[len(got)-1]; !strings.Contains(last, "leftOut=9") {
			t.Errorf("the first line after a gap: %s", last)
		}
	})
}

// TestLevels: news are for debugging, errors are errors, and what a logger carries is cut as well.
func TestLevels(t *testing.T) {
	lines := adopted(t, slog.LevelInfo)
	klog.InfoS("news")
	klog.Background().WithValues("carried", strings.Repeat("x", 5000)).Error(errors.New("cause"), "fault", "n", 7, "many", []int{1, 2})
	got := lines()
	if len(got) != 1 || len(got[0]) > 700 {
		t.Fatalf("%.2000q", got)
	}
	for _, want := range []string{"level=ERROR", "msg=fault", "err=cause", "n=7", `many="[1 2]"`, "(5000 bytes)"} {
		if !strings.Contains(got[0], want) {
			t.Errorf("no %s in %s", want, got[0])
		}
	}
}

// TestManyAttributes: a line has as many as it may have, and says how many it has not.
func TestManyAttributes(t *testing.T) {
	lines := adopted(t, slog.LevelInfo)
	var list []any
	for i := range 100 {
		list = append(list, fmt.Sprint("k", i), i)
	}
	klog.ErrorS(nil, "many", list...)
	if got := lines()[0]; strings.Contains(got, "k8=") || !strings.Contains(got, "k6=6") || !strings.Contains(got, "furtherAttributes=9") {
		t.Error(got)
	}
}

func BenchmarkDropped(b *testing.B) {
	Adopt(slog.New(slog.DiscardHandler))
	klog.SetSlogLogger(slog.New(newBounded(slog.NewTextHandler(writer(func(p []byte) (int, error) { return len(p), nil }), nil))))
	defer klog.ClearLogger()
	b.ReportAllocs()
	for b.Loop() {
		klog.ErrorS(nil, "broken", "request", "r")
	}
}
