package loop

import (
	"sync"
	"time"

	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// witness remembers the signs that controllers ask for. Planners read it while the core writes it.
type witness struct {
	signs map[resource.Resource][]plan.Sign

	mu         sync.RWMutex
	now, awake time.Duration
	last       map[sighting]time.Duration
}

type sighting struct {
	resource resource.Resource
	key      plan.Key
}

func newWitness(controllers []plan.Controller) *witness {
	w := &witness{signs: map[resource.Resource][]plan.Sign{}, last: map[sighting]time.Duration{}}
	for _, c := range controllers {
		for _, s := range c.Signs {
			w.signs[s.Resource] = append(w.signs[s.Resource], s)
		}
	}
	return w
}

// changed notes a sign, if a change is one.
func (w *witness) changed(ch view.Change) {
	for _, s := range w.signs[ch.Resource] {
		switch {
		case ch.After == nil:
			w.mu.Lock()
			delete(w.last, sighting{ch.Resource, plan.KeyOf(ch.Before)})
			w.mu.Unlock()
		case s.Given(ch.Before, ch.After):
			w.saw(ch.Resource, plan.KeyOf(ch.After), w.now)
		}
	}
}

func (w *witness) saw(res resource.Resource, key plan.Key, at time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := sighting{res, key}
	if before, seen := w.last[s]; !seen || before < at {
		w.last[s] = at
	}
}

// Last implements plan.Signs.
func (w *witness) Last(res resource.Resource, key plan.Key) (time.Duration, bool) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	at, seen := w.last[sighting{res, key}]
	return at, seen
}

// Pass moves the steady clock of the core's witness on; its zero is the core's beginning.
func (c *Core) Pass(now time.Duration) {
	c.witness.mu.Lock()
	defer c.witness.mu.Unlock()
	c.witness.now = max(c.witness.now, now)
}

// Woke says that nothing was seen up to now, because whoever watches was away. What waits for a time is looked at
// again: the time that passed may be none of its own.
func (c *Core) Woke() {
	c.witness.mu.Lock()
	c.witness.awake = c.witness.now
	c.witness.mu.Unlock()
	var waiting []*item
	for _, it := range c.timers {
		if it.state != resting {
			waiting = append(waiting, it)
		}
	}
	for _, it := range waiting {
		c.setTimer(it, time.Time{})
		c.mark(it)
	}
}

// Awake sets since when the witness has watched, for worlds that begin in the middle of things.
func (c *Core) Awake(since time.Duration) {
	c.witness.mu.Lock()
	defer c.witness.mu.Unlock()
	c.witness.awake = since
}

// Saw notes a sign that came by another way than a change.
func (c *Core) Saw(res resource.Resource, key plan.Key, at time.Duration) {
	c.witness.saw(res, key, at)
}

// HasSigns says whether some controller heeds signs: then absences matter.
func (c *Core) HasSigns() bool { return len(c.witness.signs) > 0 }

// Witness is what has been seen up to now.
func (c *Core) Witness() plan.Witness {
	c.witness.mu.RLock()
	defer c.witness.mu.RUnlock()
	return plan.Witness{Now: c.witness.now, Awake: c.witness.awake, Signs: c.witness}
}
