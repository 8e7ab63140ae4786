package loop

import (
	"container/heap"
	"time"
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
	if len(c.timers) == 0 {
		return time.Time{}, false
	}
	return c.timers[0].at, true
}

// Wake makes due the items whose time has come.
func (c *Core) Wake(now time.Time) {
	for len(c.timers) > 0 && !c.timers[0].at.After(now) {
		it := c.timers[0]
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
		heap.Remove(&c.timers, it.heapAt)
	case at.IsZero():
	case it.heapAt >= 0:
		heap.Fix(&c.timers, it.heapAt)
	default:
		heap.Push(&c.timers, it)
	}
}

type blockedHeap []*item

func (h blockedHeap) Len() int           { return len(h) }
func (h blockedHeap) Less(i, j int) bool { return h[i].expects[0].Revision < h[j].expects[0].Revision }
func (h blockedHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *blockedHeap) Push(x any)        { *h = append(*h, x.(*item)) }
func (h *blockedHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}

type timerHeap []*item

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapAt, h[j].heapAt = i, j
}
func (h *timerHeap) Push(x any) {
	it := x.(*item)
	it.heapAt = len(*h)
	*h = append(*h, it)
}
func (h *timerHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	last.heapAt = -1
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
