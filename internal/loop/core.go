package loop

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"coracle/internal/heap"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Core decides which decision is due: a deduplicating queue for each controller, freshness,
// backoff and timers. It is a state machine without goroutine or clock: Loop drives it in real
// time, the simulator step by step in virtual time. It is not safe for concurrent use.
type Core struct {
	ctls  []*queue
	items map[itemKey]*item
	// crowd is the most items since the map was last made: maps do not shrink by themselves.
	mostItems int
	// interests says, by kind, whom a change concerns.
	interests map[resource.Resource]*interest
	// seen is how recent the snapshot is, as Changed was told.
	seen    map[resource.Resource]uint64
	blocked map[resource.Resource]*heap.Heap[*item]
	timers  *heap.Heap[*item]
	witness *witness
	started bool
	// turn is the controller that Next asks first, so that none starves.
	turn int
	// onPanic is told of a watch that panicked.
	onPanic func(controller string, cause any)
}

// Task is one decision to make now. Exactly one task per key of a controller is out at a time.
type Task struct {
	Controller *plan.Controller
	Key        object.Key
	// Last is how the previous pass for this key failed; nil when it did not.
	Last *plan.Failure
	// Tries is the number of this try since the last one that did not fail; 0 counts as 1.
	Tries int

	item    *item
	witness *witness
}

// Outcome is what came of a task.
type Outcome struct {
	// Writes says how recent the snapshot must be before this key is planned again.
	Writes []Write
	// Failure is what the planner is told on the next pass; nil when there was none, or none
	// that a user need hear of.
	Failure *plan.Failure
	// Retry asks for another pass after a backoff though Failure is nil.
	Retry bool
	// Stale says that the retry is due to an old snapshot and Writes holds how recent it must be:
	// it need not wait for a backoff, unless that happens again and again.
	Stale bool
	Again time.Time
	Why   plan.Why
	// Told holds the events told together with Failure, which the next pass need not tell again.
	Told []plan.Event
	// Gone says that the primary no longer exists.
	Gone bool
}

// Write is a write to a kind, at the revision it left behind.
type Write struct {
	Resource resource.Resource
	Revision uint64
}

type itemKey struct {
	ctl int
	key object.Key
}

type state uint8

const (
	idle    state = iota
	blocked       // due, but the snapshot is older than our own last write
	queued
	running
	resting // decided a moment ago, or to be decided in a moment; the timer ends it
)

type item struct {
	itemKey
	state state
	// dirty asks for another pass as soon as the running one, or the rest after it, ends.
	dirty bool
	// wanted is the timer to set when the rest ends; zero for none.
	wanted   time.Time
	expects  []Write
	failure  *plan.Failure
	failures int
	stales   int
	told     []plan.Event
	at       time.Time // timer; zero when none is set
	heapAt   int       // index in timers, -1 when none
	why      plan.Why
	whyAt    time.Time
}

type queue struct {
	plan.Controller
	index   int
	limit   int
	running int
	fifo    []*item
}

// NewCore returns a core for controllers, each of which may have up to workers tasks out at once.
// It hands out nothing before Start.
func NewCore(controllers []plan.Controller, workers int) *Core {
	c := &Core{
		items:     map[itemKey]*item{},
		interests: map[resource.Resource]*interest{},
		seen:      map[resource.Resource]uint64{},
		blocked:   map[resource.Resource]*heap.Heap[*item]{},
		timers:    newTimers(),
		witness:   newWitness(controllers),
		onPanic:   func(string, any) {},
	}
	for i, ctl := range controllers {
		q := &queue{Controller: ctl, index: i, limit: workers}
		c.ctls = append(c.ctls, q)
		in := c.interest(ctl.For)
		in.primaries = append(in.primaries, q)
		for _, w := range ctl.Watches {
			in := c.interest(w.Resource)
			in.watches = append(in.watches, interestedWatch{q, w.Keys})
		}
	}
	return c
}

// OnPanic has f told of each Keys function that panics; the change is lost on that controller alone.
func (c *Core) OnPanic(f func(controller string, cause any)) { c.onPanic = f }

// Start makes every primary due: the snapshot is whole. Start-up is an ordinary pass over all.
func (c *Core) Start(r object.Reader) {
	c.started = true
	for _, q := range c.ctls {
		for _, o := range r.List(q.For, "") {
			if q.Cares == nil || q.Cares(nil, o) {
				c.mark(c.item(q, object.KeyOf(o)))
			}
		}
	}
}

func (c *Core) item(q *queue, k object.Key) *item {
	if q.Whole {
		k = object.Key{}
	}
	ik := itemKey{q.index, k}
	it := c.items[ik]
	if it == nil {
		it = &item{itemKey: ik, heapAt: -1}
		c.items[ik] = it
		c.mostItems = max(c.mostItems, len(c.items))
	}
	return it
}

// Poke makes one decision due, as a user's or a test's wish.
func (c *Core) Poke(controller string, res resource.Resource, key object.Key) {
	for _, q := range c.ctls {
		if q.Name == controller && q.For == res {
			c.mark(c.item(q, key))
		}
	}
}

func (c *Core) mark(it *item) {
	switch it.state {
	case idle:
		c.admit(it)
	case running, resting:
		it.dirty = true
	}
}

// admit queues an item, or blocks it on the first of its own writes that the snapshot lacks.
func (c *Core) admit(it *item) {
	for len(it.expects) > 0 {
		w := it.expects[0]
		if c.seen[w.Resource] < w.Revision {
			it.state = blocked
			h := c.blocked[w.Resource]
			if h == nil {
				h = newBlocked()
				c.blocked[w.Resource] = h
			}
			h.Push(it)
			return
		}
		it.expects = it.expects[1:]
	}
	it.expects = nil
	it.state = queued
	q := c.ctls[it.ctl]
	q.fifo = append(q.fifo, it)
}

func (c *Core) unblock(res resource.Resource) {
	h := c.blocked[res]
	if h == nil {
		return
	}
	for h.Len() > 0 && h.First().expects[0].Revision <= c.seen[res] {
		c.admit(h.Pop())
	}
}

// Next hands out a task that is due, if any. Each must be given back by Done.
func (c *Core) Next() (Task, bool) {
	for n := range c.ctls {
		q := c.ctls[(c.turn+n)%len(c.ctls)]
		if q.running >= q.limit || len(q.fifo) == 0 {
			continue
		}
		c.turn = (c.turn + n + 1) % len(c.ctls)
		it := q.fifo[0]
		q.fifo[0] = nil
		if q.fifo = q.fifo[1:]; len(q.fifo) == 0 {
			q.fifo = nil
		}
		q.running++
		it.state, it.dirty = running, false
		c.setTimer(it, time.Time{})
		return Task{Controller: &q.Controller, Key: it.key, Last: it.failure, Tries: 1 + it.failures, item: it, witness: c.witness}, true
	}
	return Task{}, false
}

// Pending returns the tasks that Next could hand out, for a simulator that chooses among them.
func (c *Core) Pending() []Task {
	var out []Task
	for _, q := range c.ctls {
		for _, it := range q.fifo {
			out = append(out, Task{Controller: &q.Controller, Key: it.key, Last: it.failure, item: it})
		}
	}
	return out
}

// Take hands out a pending task chosen by the caller, out of turn.
func (c *Core) Take(t Task) (Task, bool) {
	q := c.ctls[t.item.ctl]
	at := slices.Index(q.fifo, t.item)
	if at < 0 {
		return Task{}, false
	}
	q.fifo = slices.Delete(q.fifo, at, at+1)
	q.fifo = slices.Insert(q.fifo, 0, t.item)
	limit, turn := q.limit, c.turn
	q.limit, c.turn = q.running+1, q.index
	t, ok := c.Next()
	q.limit, c.turn = limit, turn
	return t, ok
}

// Done gives a task back.
func (c *Core) Done(t Task, out Outcome, now time.Time) {
	it := t.item
	c.ctls[it.ctl].running--
	it.state = idle
	it.expects = newest(out.Writes)
	it.failure, it.told = out.Failure, out.Told
	it.why, it.whyAt = out.Why, now
	at := out.Again
	switch {
	case out.Failure == nil && out.Stale && it.stales < staleTries:
		it.stales++
		it.dirty = true
	case out.Failure != nil || out.Retry:
		it.failures++
		if retry := now.Add(Backoff(it.failures)); at.IsZero() || retry.Before(at) {
			at = retry
		}
	default:
		it.failures, it.stales = 0, 0
	}
	if rest := c.ctls[it.ctl].Rest; rest > 0 && !out.Gone {
		it.state, it.wanted = resting, at
		c.setTimer(it, now.Add(rest))
		return
	}
	c.setTimer(it, at)
	switch {
	case it.dirty:
		c.concern(it, now)
	case at.IsZero() && (out.Gone || it.why.State == "") && it.caughtUp(c):
		c.forget(it)
	}
}

// forget drops an item of which nothing need be known. After a start-up of 100,000 objects the
// room they took is given back.
func (c *Core) forget(it *item) {
	delete(c.items, it.itemKey)
	if n := len(c.items); c.mostItems > 4096 && n < c.mostItems/8 {
		items := make(map[itemKey]*item, n)
		maps.Copy(items, c.items)
		c.items, c.mostItems = items, n
	}
}

// staleTries is how often in a row an old snapshot costs no backoff.
const staleTries = 3

// caughtUp says that nothing of the item need be remembered for freshness.
func (it *item) caughtUp(c *Core) bool {
	for _, w := range it.expects {
		if c.seen[w.Resource] < w.Revision {
			return false
		}
	}
	return true
}

// newest keeps the highest revision of each kind.
func newest(writes []Write) []Write {
	var out []Write
	for _, w := range writes {
		at := slices.IndexFunc(out, func(o Write) bool { return o.Resource == w.Resource })
		if at < 0 {
			out = append(out, w)
		} else if out[at].Revision < w.Revision {
			out[at].Revision = w.Revision
		}
	}
	return out
}

// Idle says that no task is out, due or blocked; timers may be set, as that of a rest that nothing
// happened in.
func (c *Core) Idle() bool {
	for _, q := range c.ctls {
		if q.running > 0 || len(q.fifo) > 0 {
			return false
		}
	}
	for _, h := range c.blocked {
		if h.Len() > 0 {
			return false
		}
	}
	return true
}

// String counts the items by state, for logs and tests.
func (c *Core) String() string {
	var n [5]int
	for _, it := range c.items {
		n[it.state]++
	}
	return fmt.Sprintf("idle %d, blocked %d, queued %d, running %d, resting %d", n[idle], n[blocked], n[queued], n[running], n[resting])
}
