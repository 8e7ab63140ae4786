package sim

import (
	"fmt"
	"strings"
	"time"

	"coracle/internal/virtual"
)

// bound says how much of a small world is explored. An event is a departure where it is not the first that could happen,
// by the order of the sorts: what comes first is told, decided and done first, and users wait until nothing else happens.
type bound struct {
	// depth is how many events may happen, departures how many of them may be departures.
	depth, departures int
}

// endless is more than ever happens in a small world before it is at rest.
const endless = 2000

// within explores all orders of so many events.
func within(depth int) bound { return bound{depth, endless} }

// departing explores all runs to their ends that depart so often.
func departing(times int) bound { return bound{endless, times} }

func (b bound) String() string {
	if b.depth == endless {
		return fmt.Sprintf("to the end with at most %d departures", b.departures)
	}
	return fmt.Sprintf("to depth %d", b.depth)
}

// covers says that whoever explored within this bound need not within the other.
func (b bound) covers(o bound) bool { return b.depth >= o.depth && b.departures >= o.departures }

// search goes through all that can happen in a small world within a bound. It takes back what happened by letting the
// world happen again up to there, and goes on from no state twice, as Digest tells states apart.
type search struct {
	scope    *scope
	mutation *mutation
	bound    bound

	sums *virtual.Sums
	// seen holds, by state, within which bound it was explored.
	seen                      map[uint64]bound
	path                      []int
	trace                     []event
	states, transitions, ends int
	// broken is the first promise that was, with the events that led there.
	broken error
}

// explore searches a small world.
func explore(s *scope, m *mutation, b bound) *search {
	x := &search{scope: s, mutation: m, bound: b, sums: virtual.NewSums(), seen: map[uint64]bound{}}
	x.from(s.world(m), b)
	return x
}

// from explores what can happen in a world within what is left of the bound, and uses the world up.
func (x *search) from(w *world, left bound) {
	state := w.Digest(x.sums) + w.small.digest()
	before, seen := x.seen[state]
	if seen && before.covers(left) {
		return
	} else if !seen {
		x.states++
	}
	x.seen[state] = left
	choices := w.possible(nil)
	if left.depth == 0 || len(choices) == 0 || choices[0].Does == "fault" {
		x.end(w)
		w = nil
	}
	for i := 0; i < len(choices) && left.depth > 0 && x.broken == nil; i++ {
		next := bound{left.depth - 1, left.departures}
		if i > 0 || choices[i].Does == "fault" {
			next.departures--
		}
		if next.departures < 0 {
			return
		}
		if w == nil {
			w = x.again()
			choices = w.possible(choices[:0])
		}
		x.take(w, i, choices[i], next)
		w = nil
	}
}

// take has an event happen and goes on from there.
func (x *search) take(w *world, nth int, c choice, left bound) {
	x.transitions++
	x.path, x.trace = append(x.path, nth), append(x.trace, c.event)
	if w.happen(c); w.broken != nil {
		x.broken = w.broken
		return
	}
	if x.from(w, left); x.broken == nil {
		x.path, x.trace = x.path[:len(x.path)-1], x.trace[:len(x.trace)-1]
	}
}

// again is the world as it was at the present path.
func (x *search) again() *world {
	x.sums.Forget()
	w := x.scope.world(x.mutation)
	var buffer []choice
	for _, i := range x.path {
		buffer = w.possible(buffer[:0])
		w.happen(buffer[i])
	}
	return w
}

// end leaves the world in peace: edits and accidents are over, and all must become as it shall be and stay so.
func (x *search) end(w *world) {
	x.ends++
	w.come()
	x.broken = w.broken
}

// String tells what was covered, and what was found with the events that led there.
func (x *search) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %d states, %d transitions, %d ends", x.scope.name, x.bound, x.states, x.transitions, x.ends)
	if x.broken != nil {
		fmt.Fprintf(&b, "\n%v\n", x.broken)
		for i, e := range x.trace {
			fmt.Fprintf(&b, "%4d %s\n", i+1, e)
		}
	}
	return b.String()
}

// possible are the events that could happen now: time passes when nothing else can, users and accidents aside.
func (w *world) possible(out []choice) []choice {
	for _, watch := range w.Control().Watches {
		if watch.Behind() {
			out = append(out, choice{event{Does: "deliver", Kind: watch.Resource.Plural}, watch.Deliver})
		}
	}
	out = w.applications(w.beginnings(out))
	if w.Placing() || len(w.Effects()) > 0 {
		out = append(out, choice{event{Does: "schedule"}, w.schedule})
	}
	out = w.nodeWork(out)
	if next, ok := w.Next(); ok && len(out) == 0 {
		out = append(out, choice{event{Does: "time"}, func() { w.pass(next.Sub(w.Now())) }})
	}
	if s := w.small; s.edits < len(s.scope.edits) {
		edit := s.scope.edits[s.edits]
		out = append(out, choice{event{Does: "user", Who: edit.name}, func() {
			s.edits++
			w.as(virtual.User, func() { edit.do(w) })
		}})
	}
	return w.accidents(out)
}

// happen has an event happen. Machines and the scheduler hear at once: their lag is the random worlds' subject.
func (w *world) happen(c choice) {
	w.steps++
	c.do()
	w.prompt()
}

func (w *world) prompt() {
	for _, f := range w.Followers() {
		for _, watch := range f.Watches {
			for f != w.Control() && watch.Behind() {
				watch.Deliver()
			}
		}
	}
	for _, m := range w.Machines() {
		for m.Lags() {
			m.OnChange()
		}
	}
}

// schedule has the scheduler decide for all pods that wait, and carry it out.
func (w *world) schedule() {
	for w.Placing() || len(w.Effects()) > 0 {
		if w.Placing() {
			w.place()
		}
		for len(w.Effects()) > 0 {
			w.carry(0)
		}
		w.prompt()
	}
}

// come lets a small world come to rest and demands that it stays there, also over a restart.
func (w *world) come() {
	w.fail = nil
	deadline := w.Now().Add(patience)
	for w.broken == nil {
		if w.work() {
			if w.steps > calmSteps {
				w.violate(fmt.Errorf("endless: still busy after %d steps", w.steps))
			}
			continue
		}
		last := w.small.scope.restful(w)
		if last == nil && w.Now().Sub(w.checks.wrote) >= time.Second {
			break
		}
		if !w.await(last, deadline) {
			return
		}
	}
	w.stays()
}
