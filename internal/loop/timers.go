package loop

import (
	"time"

	"coracle/internal/heap"
)

// Backoff is the pause after n failures in a row: 5 ms doubling to 1000 s, client-go's
// DefaultTypedControllerRateLimiter.
func Backoff(n int) time.Duration {
	const first, last = 5 * time.Millisecond, 1000 * time.Second
	if n < 1 {
		return 0
	}
	if n > 18 { // 5 ms << 18 is past the last
		return last
	}
	return min(first<<(n-1), last)
}

// NextTimer says when Wake has something to do; false when never.
func (c *Core) NextTimer() (time.Time, bool) {
	if c.timers.Len() == 0 {
		return time.Time{}, false
	}
	return c.timers.First().at, true
}

// Wake makes due the items whose time has come.
func (c *Core) Wake(now time.Time) {
	for c.timers.Len() > 0 && !c.timers.First().at.After(now) {
		it := c.timers.First()
		c.setTimer(it, time.Time{})
		if it.state == resting {
			c.rested(it, now)
			continue
		}
		c.mark(it)
	}
}

// concern makes an item due that a change bears on: at once, or when its controller's lag is over.
func (c *Core) concern(it *item, now time.Time) {
	lag := c.ctls[it.ctl].Lag
	if lag == 0 || it.state != idle {
		c.mark(it)
		return
	}
	it.state, it.dirty, it.wanted = resting, true, it.at
	c.setTimer(it, now.Add(lag))
}

// rested ends a rest: what changed in it is due now, and so is what the timer was to bring meanwhile.
func (c *Core) rested(it *item, now time.Time) {
	it.state = idle
	if it.dirty || !it.wanted.IsZero() && !it.wanted.After(now) {
		it.dirty = false
		c.mark(it)
		return
	}
	c.setTimer(it, it.wanted)
}

func (c *Core) setTimer(it *item, at time.Time) {
	it.at = at
	switch {
	case at.IsZero() && it.heapAt >= 0:
		c.timers.Remove(it)
	case at.IsZero():
	case it.heapAt >= 0:
		c.timers.Fix(it)
	default:
		c.timers.Push(it)
	}
}

// newTimers are items by the time of their timers.
func newTimers() *heap.Heap[*item] {
	return heap.New(func(a, b *item) bool { return a.at.Before(b.at) }, func(it *item) *int { return &it.heapAt })
}

// newBlocked are items by the write that the snapshot lacks.
func newBlocked() *heap.Heap[*item] {
	return heap.New(func(a, b *item) bool { return a.expects[0].Revision < b.expects[0].Revision }, nil)
}
