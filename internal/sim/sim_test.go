package sim

import (
	"flag"
	"testing"
	"time"
)

var (
	seed   = flag.Uint64("sim.seed", 0, "run this one world")
	trace  = flag.String("sim.trace", "", "replay this trace on the world of -sim.seed")
	worlds = flag.Int("sim.worlds", 150, "how many worlds to run")
	from   = flag.Uint64("sim.from", 1, "the first seed")
)

// TestWorlds runs a fixed set of worlds. A failure prints its seed and a short trace.
func TestWorlds(t *testing.T) {
	if *seed != 0 {
		one(t, *seed)
		return
	}
	began, steps, failures := time.Now(), 0, 0
	for i := range *worlds {
		r := Run(*from+uint64(i), Steps, nil)
		steps += r.Steps
		if r.Broken == nil {
			continue
		}
		if failures++; failures > 5 {
			t.Logf("seed %d: %v", r.Seed, r.Broken)
			t.Fail()
			continue
		}
		t.Error(Report(r))
	}
	took := time.Since(began)
	t.Logf("%d worlds, %d steps, %d failures, %.0f worlds/s, %.0f steps/s", *worlds, steps, failures,
		float64(*worlds)/took.Seconds(), float64(steps)/took.Seconds())
}

func one(t *testing.T, seed uint64) {
	var r Result
	if *trace != "" {
		events, err := ReadTrace(*trace)
		if err != nil {
			t.Fatal(err)
		}
		r = Replay(seed, events, nil)
	} else {
		r = Run(seed, Steps, nil)
	}
	if r.Broken != nil {
		t.Fatal(Report(Shrink(r, nil, 400)))
	}
}

// TestDeterminism: one seed is one world.
func TestDeterminism(t *testing.T) {
	for seed := range uint64(30) {
		a, b := Run(seed, Steps, nil), Run(seed, Steps, nil)
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
