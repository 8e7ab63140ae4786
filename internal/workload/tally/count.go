package tally

import (
	"iter"
	"math"
	"time"

	"coracle/internal/workload/ordered"
)

// Groups returns the groups, in an order that depends on nothing but what they are.
func (t *Pods) Groups() []*Group { return t.groups }

// Ready is how many active pods are ready.
func (g *Group) Ready() int { return length(g.ready) }

// Available is how many active pods have been ready for minReady, and when the next of the others will have been, if
// it stays ready; zero when there is none. With minReady above zero a pod whose node did not say since when it is ready
// never has been (podstate.AvailableAt).
func (g *Group) Available(minReady time.Duration, now time.Time) (n int, next time.Time) {
	if minReady <= 0 || g.ready == nil {
		return g.Ready(), time.Time{}
	}
	old := since(now.Add(-minReady))
	if soonest, young := g.ready.First(old); young {
		next = time.Unix(0, soonest.at).UTC().Add(minReady)
	}
	return g.ready.Before(old) - g.unknown(), next
}

// unknown is how many are ready, nobody said since when.
func (g *Group) unknown() int { return g.ready.Before(func(e entry) bool { return e.at == unsaid }) }

// since holds for what has been so at an instant.
func since(t time.Time) func(entry) bool {
	at := t.UnixNano()
	return func(e entry) bool { return e.at <= at }
}

// Young returns the names of the ready pods that not every node need know yet: those that became ready less than Bound
// ago.
func (g *Group) Young(now time.Time) iter.Seq[string] {
	if g.Bound <= 0 {
		return names(nil, nil)
	}
	return names(g.ready, since(now.Add(-g.Bound)))
}

// Ripening returns the names of the ready pods that have not been so for minReady above zero: those that never will
// have been, as nobody said since when, then the others, the next to come first.
func (g *Group) Ripening(minReady time.Duration, now time.Time) iter.Seq[string] {
	return func(yield func(string) bool) {
		if minReady <= 0 || g.ready == nil {
			return
		}
		left := g.unknown()
		for name := range names(g.ready, nil) {
			if left--; left < 0 {
				break
			}
			if !yield(name) {
				return
			}
		}
		names(g.ready, since(now.Add(-minReady)))(yield)
	}
}

// Unready returns the names of the active pods that are not ready, in their order; bad ones are those that hardly get
// well by themselves, or else the others.
func (g *Group) Unready(bad bool) iter.Seq[string] {
	if bad {
		return func(yield func(string) bool) {
			if g.unready == nil {
				return
			}
			for e := range g.unready.All(nil) {
				if e.at != 0 || !yield(e.name) {
					return
				}
			}
		}
	}
	return names(g.unready, func(e entry) bool { return e.at == 0 })
}

// Leaving returns the names of the terminating pods, in their order.
func (g *Group) Leaving() iter.Seq[string] { return names(g.leaving, nil) }

// Refused is how many pods there are that their nodes did not take.
func (g *Group) Refused() int { return length(g.refused) }

// LastRefused is the refused pod that was created last before an instant, zero for any; false when there is none. Of
// several of one instant it is the first by name.
func (g *Group) LastRefused(before time.Time) (name string, created time.Time, found bool) {
	if g.refused == nil {
		return "", time.Time{}, false
	}
	var skip func(entry) bool
	if !before.IsZero() {
		bound := -before.UnixNano()
		skip = func(e entry) bool { return e.at <= bound }
	}
	e, found := g.refused.First(skip)
	if found && e.at != math.MaxInt64 {
		created = time.Unix(0, -e.at).UTC()
	}
	return e.name, created, found
}

func length(s *ordered.Set[entry]) int {
	if s == nil {
		return 0
	}
	return s.Len()
}

func names(s *ordered.Set[entry], skip func(entry) bool) iter.Seq[string] {
	return func(yield func(string) bool) {
		if s == nil {
			return
		}
		for e := range s.All(skip) {
			if !yield(e.name) {
				return
			}
		}
	}
}
