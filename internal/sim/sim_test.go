package sim

import (
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

var (
	seed   = flag.Uint64("sim.seed", 0, "run this one world, and shrink its trace if it fails")
	trace  = flag.String("sim.trace", "", "replay this trace on the world of -sim.seed; without one, where to write the trace of a failure")
	worlds = flag.Uint64("sim.worlds", 200, "how many worlds to run")
	from   = flag.Uint64("sim.from", 1, "the first seed")
	tries  = flag.Int("sim.tries", 300, "how many shorter traces to try of a failure")
	long   = flag.Bool("sim.long", false, "go on from the first seed until stopped or until a world fails")
)

func TestMain(m *testing.M) {
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	os.Exit(m.Run())
}

// sweep runs the worlds from first to last on all processors, and calls done for each from one goroutine, in the order
// in which they end, until it returns false.
func sweep(first, last uint64, done func(result) bool) {
	seeds, results, stop := make(chan uint64), make(chan result), make(chan struct{})
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for s := range seeds {
				select {
				case results <- play(s, busySteps, nil):
				case <-stop:
				}
			}
		})
	}
	go func() {
		defer close(results)
		defer workers.Wait()
		defer close(seeds)
		for s := first; s <= last; s++ {
			select {
			case seeds <- s:
			case <-stop:
				return
			}
		}
	}()
	stopped := false
	for r := range results {
		if !stopped && !done(r) {
			stopped = true
			close(stop)
		}
	}
}

// TestWorlds runs a fixed set of worlds. A failure prints its seed and a short trace.
func TestWorlds(t *testing.T) {
	if *seed != 0 {
		one(t, *seed)
		return
	}
	last := *from + *worlds - 1
	if *long {
		last = ^uint64(0)
	}
	began, told := time.Now(), time.Now()
	ran, steps, failures := 0, 0, 0
	sweep(*from, last, func(r result) bool {
		ran++
		steps += r.Steps
		if *long && time.Since(told) > 10*time.Second {
			told = time.Now()
			t.Logf("%d worlds, %.0f worlds/s", ran, float64(ran)/time.Since(began).Seconds())
		}
		if r.Broken == nil {
			return true
		}
		failures++
		if failures == 1 {
			r = shrink(r, nil, *tries)
			t.Error(report(r))
		} else {
			t.Errorf("seed %d: %v", r.Seed, r.Broken)
		}
		return !*long && failures < 20
	})
	took := time.Since(began).Seconds()
	t.Logf("%d worlds, %d steps, %d failures, %.0f worlds/s, %.0f steps/s", ran, steps, failures, float64(ran)/took, float64(steps)/took)
}

func one(t *testing.T, seed uint64) {
	if _, err := os.Stat(*trace); err == nil {
		events, err := readTrace(*trace)
		if err != nil {
			t.Fatal(err)
		}
		if r := replayed(seed, events, nil); r.Broken != nil {
			t.Fatal(report(r))
		}
		return
	}
	r := play(seed, busySteps, nil)
	if r.Broken == nil {
		return
	}
	r = shrink(r, nil, *tries)
	if *trace != "" {
		if err := writeTrace(*trace, r.Trace); err != nil {
			t.Error(err)
		}
	}
	t.Fatal(report(r))
}

// TestRegressions runs the seeds of worlds that once failed, without features: their draws are of that time.
func TestRegressions(t *testing.T) {
	for seed, was := range map[uint64]string{
		100182: "a daemon pod that the user relabels away and back was pardoned before the DaemonSet had dealt with it",
	} {
		if r := run(seed, busySteps, nil, nil); r.Broken != nil {
			t.Errorf("seed %d (%s): %v", seed, was, r.Broken)
		}
	}
}

// TestDeterminism: one seed is one world.
func TestDeterminism(t *testing.T) {
	for seed := range uint64(30) {
		a, b := play(seed, busySteps, nil), play(seed, busySteps, nil)
		if a.Revision != b.Revision || a.Steps != b.Steps {
			t.Errorf("seed %d: revision %d and %d, steps %d and %d", seed, a.Revision, b.Revision, a.Steps, b.Steps)
		}
		for i := range min(len(a.Trace), len(b.Trace)) {
			if a.Trace[i] != b.Trace[i] {
				t.Errorf("seed %d parts at %d: %s and %s", seed, i, a.Trace[i], b.Trace[i])
				break
			}
		}
	}
}

// TestShrink: a failure's trace becomes shorter, and fails in the same way when it is read back and replayed.
func TestShrink(t *testing.T) {
	m := &mutations[0]
	for seed := uint64(1); ; seed++ {
		r := play(seed, busySteps, m)
		if r.Broken == nil {
			continue
		}
		short := shrink(r, m, 200)
		if len(short.Trace) >= len(r.Trace) || len(short.Trace) > 60 {
			t.Errorf("shrunk from %d events to %d only", len(r.Trace), len(short.Trace))
		}
		path := filepath.Join(t.TempDir(), "trace")
		if err := writeTrace(path, short.Trace); err != nil {
			t.Fatal(err)
		}
		events, err := readTrace(path)
		if err != nil {
			t.Fatal(err)
		}
		if again := replayed(seed, events, m); again.Broken == nil || promise(again.Broken) != promise(r.Broken) {
			t.Errorf("replayed: %v, was: %v", again.Broken, r.Broken)
		}
		return
	}
}
