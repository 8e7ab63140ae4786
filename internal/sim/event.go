package sim

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"coracle/internal/loop"
	"coracle/internal/object"
)

// event is one thing that happens, by name: a trace of them replays on the world of its seed.
type event struct {
	Does string
	Who  string     `json:",omitempty"`
	Kind string     `json:",omitempty"`
	Key  object.Key `json:",omitzero"`
	// N is a number whose sense depends on Does: which of several actions, seconds, replicas.
	N int `json:",omitempty"`
}

func (e event) String() string {
	var b strings.Builder
	b.WriteString(e.Does)
	for _, s := range []string{e.Who, e.Kind, e.Key.String()} {
		if s != "" {
			b.WriteString(" " + s)
		}
	}
	if e.N != 0 {
		fmt.Fprintf(&b, " %d", e.N)
	}
	return b.String()
}

// choice is an event that could happen now.
type choice struct {
	event
	do func()
}

// sort is a sort of events: how often it is chosen among those that have any, and which they are.
type sort struct {
	name   string
	weight int
	list   func(w *world, out []choice) []choice
}

var sorts = []sort{
	{"deliver", 40, (*world).deliveries},
	{"begin", 25, (*world).beginnings},
	{"apply", 30, (*world).applications},
	{"schedule", 15, (*world).schedulings},
	{"beat", 10, (*world).beats},
	{"node", 25, (*world).nodeWork},
	{"time", 6, (*world).times},
	{"user", 2, (*world).userOps},
	{"fault", 2, (*world).faults},
}

// step takes one event that could happen now, chosen by the seed.
func (w *world) step(buffer []choice) []choice {
	total := 0
	for _, s := range sorts {
		total += w.weight(s)
	}
	for {
		at := w.rand.IntN(total)
		var s sort
		for _, s = range sorts {
			if at -= w.weight(s); at < 0 {
				break
			}
		}
		if buffer = s.list(w, buffer[:0]); len(buffer) > 0 {
			w.take(buffer[w.rand.IntN(len(buffer))])
			return buffer
		}
	}
}

// weight is how often a sort is chosen: where there is more to do, users do more.
func (w *world) weight(s sort) int {
	if s.name == "user" && len(w.has) > 0 {
		return 3 * s.weight
	}
	return s.weight
}

func (w *world) take(c choice) {
	w.steps++
	w.trace = append(w.trace, c.event)
	c.do()
}

// replay lets an event happen if it can.
func (w *world) replay(e event, buffer []choice) []choice {
	for _, s := range sorts {
		if s.name != e.Does {
			continue
		}
		if s.name == "user" || s.name == "fault" {
			if c, ok := w.userOp(e); ok {
				w.take(c)
			}
			return buffer
		}
		buffer = s.list(w, buffer[:0])
		for _, c := range buffer {
			if c.event == e {
				w.take(c)
				return buffer
			}
		}
	}
	return buffer
}

func (w *world) deliveries(out []choice) []choice {
	for _, f := range w.Followers() {
		for _, watch := range f.Watches {
			if watch.Behind() {
				out = append(out, choice{event{Does: "deliver", Who: f.Name, Kind: watch.Resource.Plural}, watch.Deliver})
			}
		}
	}
	for _, m := range w.Machines() {
		if m.Lags() {
			out = append(out, choice{event{Does: "deliver", Who: m.Name}, m.OnChange})
		}
	}
	return out
}

func (w *world) beginnings(out []choice) []choice {
	for _, t := range w.Pending() {
		out = append(out, choice{taskEvent("begin", t), func() { w.Begin(t) }})
	}
	return out
}

func taskEvent(does string, t loop.Task) event {
	return event{Does: does, Who: t.Controller.Name, Kind: t.Controller.For.Plural, Key: t.Key}
}

func (w *world) applications(out []choice) []choice {
	for _, p := range w.Passes() {
		for nth := range p.Left() {
			e := taskEvent("apply", p.Task)
			e.N = nth
			out = append(out, choice{e, func() { w.Apply(p, nth) }})
		}
	}
	return out
}

func (w *world) schedulings(out []choice) []choice {
	if w.Placing() {
		out = append(out, choice{event{Does: "schedule"}, w.place})
	}
	for i := range w.Effects() {
		out = append(out, choice{event{Does: "schedule", Who: "effect", N: i}, func() { w.carry(i) }})
	}
	return out
}

func (w *world) nodeWork(out []choice) []choice {
	for _, p := range w.Ripe() {
		out = append(out, choice{event{Does: "node", Who: p.Machine().Name, Key: object.KeyOf(p.Object)}, func() { w.Live(p) }})
	}
	for _, m := range w.Machines() {
		if m.Reclaims() {
			out = append(out, choice{event{Does: "node", Who: m.Name, Kind: "volumes"}, m.Reclaim})
		}
	}
	return out
}

func (w *world) beats(out []choice) []choice {
	for _, m := range w.Machines() {
		if m.Beats() {
			out = append(out, choice{event{Does: "beat", Who: m.Name}, m.Beat})
		}
	}
	return out
}

func (w *world) times(out []choice) []choice {
	if next, ok := w.Next(); ok {
		pass := choice{event{Does: "time"}, func() { w.pass(next.Sub(w.Now())) }}
		out = append(out, pass, pass, pass)
	}
	for _, s := range []int{1, 7, 45} {
		out = append(out, choice{event{Does: "time", N: s}, func() { w.pass(time.Duration(s) * time.Second) }})
	}
	return out
}

func (w *world) pass(d time.Duration) {
	w.Advance(w.Now().Add(max(0, d)))
	w.checks.passed(w.Truth(), w.Now())
}

// writeTrace and readTrace keep a trace in a file, one event on each line.
func writeTrace(path string, trace []event) error {
	var b strings.Builder
	for _, e := range trace {
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("write trace: %w", err)
		}
		b.Write(append(line, '\n'))
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write trace: %w", err)
	}
	return nil
}

// readTrace reads what writeTrace wrote.
func readTrace(path string) ([]event, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read trace: %w", err)
	}
	var trace []event
	for n, line := range strings.Split(string(text), "\n") {
		if line == "" {
			continue
		}
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, fmt.Errorf("read trace: line %d: %w", n+1, err)
		}
		trace = append(trace, e)
	}
	return trace, nil
}
