package sim

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/object"
	"coracle/internal/scheduler"
)

// Event is one thing that happens, by name: a trace of them replays on the world of its seed.
type Event struct {
	Does string
	Who  string     `json:",omitempty"`
	Kind string     `json:",omitempty"`
	Key  object.Key `json:",omitzero"`
	// N is a number whose sense depends on Does: which of several actions, seconds, replicas.
	N int `json:",omitempty"`
}

func (e Event) String() string {
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
	Event
	do func()
}

// sort is a sort of events: how often it is chosen among those that have any, and which they are.
type sort struct {
	name   string
	weight int
	list   func(w *World, out []choice) []choice
}

var sorts = []sort{
	{"deliver", 40, (*World).deliveries},
	{"begin", 25, (*World).beginnings},
	{"apply", 30, (*World).applications},
	{"schedule", 15, (*World).schedulings},
	{"beat", 10, (*World).beats},
	{"node", 25, (*World).nodeWork},
	{"time", 6, (*World).times},
	{"user", 2, (*World).userWishes},
	{"fault", 2, (*World).faults},
}

// Step takes one event that could happen now, chosen by the seed.
func (w *World) step(buffer []choice) []choice {
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

// weight is how often a sort is chosen: where there is more to wish, users wish more.
func (w *World) weight(s sort) int {
	if s.name == "user" && len(w.has) > 0 {
		return 3 * s.weight
	}
	return s.weight
}

func (w *World) take(c choice) {
	w.steps++
	w.trace = append(w.trace, c.Event)
	c.do()
}

// replay lets an event happen if it can.
func (w *World) replay(e Event, buffer []choice) []choice {
	for _, s := range sorts {
		if s.name != e.Does {
			continue
		}
		if s.name == "user" || s.name == "fault" {
			if c, ok := w.wish(e); ok {
				w.take(c)
			}
			return buffer
		}
		buffer = s.list(w, buffer[:0])
		for _, c := range buffer {
			if c.Event == e {
				w.take(c)
				return buffer
			}
		}
	}
	return buffer
}

func (w *World) followers() []*follower { return []*follower{w.control, w.sched} }

func (w *World) deliveries(out []choice) []choice {
	for _, f := range w.followers() {
		for _, res := range f.kinds {
			if w.behind(f, res) {
				out = append(out, choice{Event{Does: "deliver", Who: f.name, Kind: res.Plural}, func() { w.deliver(f, res) }})
			}
		}
	}
	for _, n := range w.nodes {
		if w.lagging(n) {
			out = append(out, choice{Event{Does: "deliver", Who: n.name}, func() { w.hear(n) }})
		}
	}
	return out
}

func (w *World) beginnings(out []choice) []choice {
	w.core.Pass(w.now.Sub(Epoch))
	w.core.Wake(w.now)
	for _, t := range w.core.Pending() {
		out = append(out, choice{taskEvent("begin", t), func() { w.begin(t) }})
	}
	return out
}

func (w *World) applications(out []choice) []choice {
	for _, p := range w.passes {
		for nth := range max(1, len(p.left)) {
			e := taskEvent("apply", p.task)
			e.N = nth
			out = append(out, choice{e, func() { w.apply(p, nth) }})
		}
	}
	return out
}

func (w *World) schedulings(out []choice) []choice {
	if w.stepper.Due() {
		out = append(out, choice{Event{Does: "schedule"}, func() { w.stepper.Step(w.ctx) }})
	}
	for i, e := range w.stepper.Effects() {
		out = append(out, choice{Event{Does: "schedule", Who: "effect", N: i}, func() { w.effect(e) }})
	}
	return out
}

func (w *World) effect(e scheduler.Effect) {
	w.as(byScheduler, func() { w.stepper.Run(w.ctx, e) })
}

func (w *World) nodeWork(out []choice) []choice {
	for _, n := range w.nodes {
		if !n.alive() {
			continue
		}
		for _, l := range n.pods {
			if l.waiting(w.now) {
				out = append(out, choice{Event{Does: "node", Who: n.name, Key: object.KeyOf(l.pod)}, func() { w.as(byNode, func() { w.act(n, l) }) }})
			}
		}
		if w.reclaims(n) {
			out = append(out, choice{Event{Does: "node", Who: n.name, Kind: "volumes"}, func() { w.as(byNode, func() { w.reclaim(n) }) }})
		}
	}
	return out
}

func (w *World) beats(out []choice) []choice {
	for _, n := range w.nodes {
		if n.alive() && !n.beat.After(w.now) {
			out = append(out, choice{Event{Does: "beat", Who: n.name}, func() { w.as(byNode, func() { w.heart(n) }) }})
		}
	}
	return out
}

func (w *World) times(out []choice) []choice {
	if next, ok := w.next(); ok {
		pass := choice{Event{Does: "time"}, func() { w.pass(next.Sub(w.now)) }}
		out = append(out, pass, pass, pass)
	}
	for _, s := range []int{1, 7, 45} {
		out = append(out, choice{Event{Does: "time", N: s}, func() { w.pass(time.Duration(s) * time.Second) }})
	}
	return out
}

func (w *World) pass(d time.Duration) {
	w.now = w.now.Add(max(0, d))
	w.core.Pass(w.now.Sub(Epoch))
	w.core.Wake(w.now)
	w.checks.passed(w.truth, w.now)
}

// next is the next instant at which something is due that is not yet.
func (w *World) next() (time.Time, bool) {
	var next time.Time
	sooner := func(at time.Time) {
		if at.After(w.now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if at, ok := w.core.NextTimer(); ok {
		sooner(at)
	}
	sooner(w.stepper.Next())
	for _, n := range w.nodes {
		if !n.alive() {
			continue
		}
		sooner(n.beat)
		for _, l := range n.pods {
			sooner(l.due)
		}
	}
	return next, !next.IsZero()
}

// answer is what an accident does to a call.
func answer(err error, verb string, ref object.Ref) error {
	if apierrors.IsConflict(err) && verb == "update" {
		return apierrors.NewConflict(ref.Resource.GroupResource(), ref.Name, fmt.Errorf("the object has been modified"))
	}
	return apierrors.NewInternalError(fmt.Errorf("an accident"))
}

// WriteTrace and ReadTrace keep a trace in a file, one event on each line.
func WriteTrace(path string, trace []Event) error {
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

// ReadTrace reads what WriteTrace wrote.
func ReadTrace(path string) ([]Event, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read trace: %w", err)
	}
	var trace []Event
	for n, line := range strings.Split(string(text), "\n") {
		if line == "" {
			continue
		}
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, fmt.Errorf("read trace: line %d: %w", n+1, err)
		}
		trace = append(trace, e)
	}
	return trace, nil
}
