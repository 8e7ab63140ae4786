package sim

import (
	"fmt"
	"strings"
	"time"

	"coracle/internal/virtual"
)

// search goes through all that can happen in a small world up to a depth. It takes back what happened by letting the
// world happen again up to there, and goes on from no state twice, as Digest tells states apart.
type search struct {
	scope    *scope
	mutation *mutation
	depth    int
	// most is how many transitions are explored at most; zero is no limit.
	most int

	sums *virtual.Sums
	// seen holds, by state, how many events from there on were explored.
	seen                      map[uint64]int
	path                      []int
	trace                     []event
	states, transitions, ends int
	// cut says that most was reached before the end.
	cut bool
	// broken is the first promise that was, with the events that led there.
	broken error
}

// explore searches a small world.
func explore(s *scope, m *mutation, depth, most int) *search {
	x := &search{scope: s, mutation: m, depth: depth, most: most, sums: virtual.NewSums(), seen: map[uint64]int{}}
	x.from(s.world(m))
	return x
}

// from explores what can happen in a world, and uses it up.
func (x *search) from(w *world) {
	left := x.depth - len(x.path)
	state := w.Digest(x.sums) + w.small.digest()
	if before, seen := x.seen[state]; seen && before >= left {
		return
	} else if !seen {
		x.states++
	}
	x.seen[state] = left
	choices := w.possible(nil)
	if left == 0 || len(choices) == 0 {
		x.end(w)
		return
	}
	for i := range choices {
		if x.broken != nil || x.cut {
			return
		}
		if i > 0 {
			w = x.again()
			choices = w.possible(choices[:0])
		}
		x.transitions++
		x.cut = x.most > 0 && x.transitions >= x.most
		x.path, x.trace = append(x.path, i), append(x.trace, choices[i].event)
		w.happen(choices[i])
		if w.broken != nil {
			x.broken = w.broken
			return
		}
		x.from(w)
		if x.broken == nil {
			x.path, x.trace = x.path[:len(x.path)-1], x.trace[:len(x.trace)-1]
		}
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
	whole := "whole"
	if x.cut {
		whole = "cut short"
	}
	fmt.Fprintf(&b, "%s to depth %d (%s): %d states, %d transitions, %d ends", x.scope.name, x.depth, whole, x.states, x.transitions, x.ends)
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
			m.Hear()
		}
	}
}

// schedule has the scheduler decide for all pods that wait, and carry it out.
func (w *world) schedule() {
	for w.Placing() || len(w.Effects()) > 0 {
		if w.Placing() {
			w.Place()
		}
		for _, e := range w.Effects() {
			w.Carry(e)
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
		if last != nil && w.Now().After(deadline) {
			w.violate(fmt.Errorf("%w (after %s of peace)", last, patience))
			return
		}
		next, ok := w.Next()
		if !ok {
			next = w.Now().Add(respite)
		}
		w.pass(next.Sub(w.Now()))
	}
	w.quiet("quiet")
	if w.broken == nil {
		w.restart()
		w.quiet("quiet after a restart")
	}
}
