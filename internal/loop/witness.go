package loop

import (
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// witness remembers the signs and partings that controllers ask for. Planners read it while the core writes it.
type witness struct {
	signs       map[resource.Resource][]plan.Sign
	successions map[resource.Resource][]succession

	mu         sync.RWMutex
	now, awake time.Duration
	last       map[sighting]time.Duration
	// parted holds the partings of the last plan.Recall, recent the order in which they came.
	parted map[sighting]plan.Parting
	recent []sighting
	// told is how recent the changes are that it was told of, for kinds that have successions.
	told map[resource.Resource]uint64
	// deleting names, by the object's identity, the controller that has it deleted: from just before it asks until the
	// parting is forgotten, or until it learns that nothing came of it.
	deleting map[types.UID]string
}

// succession is a kind with the controller that makes successors of it.
type succession struct {
	plan.Succession
	controller string
}

type sighting struct {
	resource resource.Resource
	key      object.Key
}

func newWitness(controllers []plan.Controller) *witness {
	w := &witness{
		signs: map[resource.Resource][]plan.Sign{}, successions: map[resource.Resource][]succession{},
		last: map[sighting]time.Duration{}, parted: map[sighting]plan.Parting{}, deleting: map[types.UID]string{},
		told: map[resource.Resource]uint64{},
	}
	for _, c := range controllers {
		for _, s := range c.Successions {
			w.successions[s.Resource] = append(w.successions[s.Resource], succession{s, c.Name})
		}
		for _, s := range c.Signs {
			w.signs[s.Resource] = append(w.signs[s.Resource], s)
		}
	}
	return w
}

// changed notes a sign or a parting, if a change is one.
func (w *witness) changed(ch view.Change) {
	if len(w.successions[ch.Resource]) > 0 {
		defer w.hears(ch.Resource, ch.Revision)
	}
	if o := ch.Before; o != nil && (ch.After == nil || ch.After.GetUID() != o.GetUID()) && len(w.successions[ch.Resource]) > 0 {
		w.went(ch.Resource, o)
	}
	for _, s := range w.signs[ch.Resource] {
		switch {
		case ch.After == nil:
			w.mu.Lock()
			delete(w.last, sighting{ch.Resource, object.KeyOf(ch.Before)})
			w.mu.Unlock()
		case s.Given(ch.Before, ch.After):
			w.saw(ch.Resource, object.KeyOf(ch.After), w.now)
		}
	}
}

func (w *witness) saw(res resource.Resource, key object.Key, at time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := sighting{res, key}
	if before, seen := w.last[s]; !seen || before < at {
		w.last[s] = at
	}
}

// Last implements plan.Signs.
func (w *witness) Last(res resource.Resource, key object.Key) (time.Duration, bool) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	at, seen := w.last[sighting{res, key}]
	return at, seen
}

// went notes a parting, if somebody may make a successor.
func (w *witness) went(res resource.Resource, o object.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.ContainsFunc(w.successions[res], func(s succession) bool { return s.Of == nil || s.Of(o) }) {
		delete(w.deleting, o.GetUID())
		return
	}
	s := sighting{res, object.KeyOf(o)}
	if p, again := w.parted[s]; again && p.UID != o.GetUID() {
		delete(w.deleting, p.UID)
	}
	w.parted[s] = plan.Parting{UID: o.GetUID(), At: w.now}
	w.recent = append(w.recent, s)
}

func (w *witness) hears(res resource.Resource, revision uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told[res] = max(w.told[res], revision)
}

// abreast is a witness for a decision on a snapshot that may already show what it was not told of yet: of a name that it
// knows nothing of, it then says that an object of it went just now. When it hears the rest the decision is made again.
type abreast struct {
	*witness
	snapshot interface {
		Revision(resource.Resource) uint64
	}
}

func (a abreast) Parted(res resource.Resource, key object.Key) (plan.Parting, bool) {
	p, known := a.witness.Parted(res, key)
	a.mu.RLock()
	defer a.mu.RUnlock()
	if !known && a.snapshot.Revision(res) > a.told[res] {
		return plan.Parting{At: a.now}, true
	}
	return p, known
}

// forget drops the partings that are too long ago. w.mu is held.
func (w *witness) forget() {
	for len(w.recent) > 0 {
		p, there := w.parted[w.recent[0]]
		if there && w.now-p.At < plan.Recall {
			return
		}
		delete(w.parted, w.recent[0])
		delete(w.deleting, p.UID)
		if w.recent = w.recent[1:]; len(w.recent) == 0 {
			w.recent, w.parted = nil, map[sighting]plan.Parting{} // maps do not shrink by themselves
		}
	}
}

// Parted implements plan.Partings.
func (w *witness) Parted(res resource.Resource, key object.Key) (plan.Parting, bool) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	p, seen := w.parted[sighting{res, key}]
	p.By = w.deleting[p.UID]
	return p, seen && w.now-p.At < plan.Recall
}

// deletes notes whose deletions are about to be carried out.
func (w *witness) deletes(controller string, batch []plan.Action) {
	for _, a := range batch {
		d, ok := a.(plan.Delete)
		if !ok || !slices.ContainsFunc(w.successions[d.Object.Resource], func(s succession) bool { return s.controller == controller }) {
			return // neighbours of a batch are of one sort and one kind
		}
		w.mu.Lock()
		w.deleting[d.Object.UID] = controller
		w.mu.Unlock()
	}
}

// spared takes a note back: the deletion did not happen, or it was somebody else's.
func (w *witness) spared(a plan.Action) {
	if d, ok := a.(plan.Delete); ok && w != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.deleting, d.Object.UID)
	}
}

// Pass moves the steady clock of the core's witness on; its zero is the core's beginning.
func (c *Core) Pass(now time.Duration) {
	c.witness.mu.Lock()
	defer c.witness.mu.Unlock()
	c.witness.now = max(c.witness.now, now)
	c.witness.forget()
}

// Woke says that nothing was seen up to now, because whoever watches was away. What waits for a time is looked at
// again: the time that passed may be none of its own.
func (c *Core) Woke() {
	c.witness.mu.Lock()
	c.witness.awake = c.witness.now
	c.witness.mu.Unlock()
	var waiting []*item
	for _, it := range c.timers.All() {
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
func (c *Core) Saw(res resource.Resource, key object.Key, at time.Duration) {
	c.witness.saw(res, key, at)
}

// HasSigns says whether some controller heeds signs: then absences matter.
func (c *Core) HasSigns() bool { return len(c.witness.signs) > 0 }

// Witness is what has been seen up to now.
func (c *Core) Witness() plan.Witness {
	c.witness.mu.RLock()
	defer c.witness.mu.RUnlock()
	return plan.Witness{Now: c.witness.now, Awake: c.witness.awake, Signs: c.witness, Partings: c.witness}
}
