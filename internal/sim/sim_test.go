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

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
	"coracle/internal/virtual"
	"coracle/internal/workload/claim"
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

// TestPardonLasts: a daemon that a user takes from its set and gives back may stand beside another until the DaemonSet has
// dealt with it, and no longer.
func TestPardonLasts(t *testing.T) {
	var w *world
	var name string
	for seed := uint64(1); name == ""; seed++ {
		w = newWorld(seed, nil, nil)
		rest(w)
		if len(w.Truth().List(resource.Deployments, "")) > 0 {
			continue
		}
		for _, o := range w.Truth().List(resource.Pods, ns) {
			if o.GetLabels()["app"] == "ds" {
				name = o.GetName()
			}
		}
	}
	label := func(app string) {
		w.as(virtual.User, func() { edit(w, resource.Pods, name, func(p *corev1.Pod) { p.Labels["app"] = app }) })
	}
	label("gone")
	rest(w)
	label("ds")
	for back := false; !back; {
		if !w.work() {
			t.Fatal("the pod is not adopted again")
		}
		o, ok := w.Truth().Get(resource.Pods, ns, name)
		back = ok && claim.Controller(o) != nil
	}
	for _, watch := range w.Control().Watches {
		for watch.Behind() {
			watch.Deliver()
		}
	}
	w.violate(w.checks.state(w.Truth(), w.Now()))
	if w.checks.adopted == 0 {
		t.Error("pardoned before the DaemonSet has dealt with it")
	}
	rest(w)
	if w.checks.adopted != 0 || w.broken != nil {
		t.Errorf("in the end %d pods are pardoned, broken: %v", w.checks.adopted, w.broken)
	}
}

// rest lets a world come to rest for two minutes without accidents.
func rest(w *world) {
	for until := w.Now().Add(2 * time.Minute); w.Now().Before(until); {
		if next, ok := w.Next(); !w.work() && ok {
			w.pass(next.Sub(w.Now()))
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
