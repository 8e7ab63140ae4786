package queue

import (
	"time"

	"coracle/internal/scheduler/heap"
	"coracle/internal/scheduler/place"
)

// smallCrowd is a crowd all of which wakes: each of its pods then tells its user at once what
// keeps it, and a refusal that is remembered costs little.
const smallCrowd = 16

// crowd is refused pods that are alike: what refuses one of them refuses all.
type crowd struct {
	of place.Alike
	// causes is what the last refusal was for.
	causes place.Cause
	asleep *heap.Heap[*Item]
	// scout tries for all, or is nil.
	scout *Item
}

// sleep puts an item into its crowd. If it tried for a crowd, the others sleep on.
func (q *Queue) sleep(it *Item, causes place.Cause) {
	of := it.Pod.Alike()
	if it.Prefer != "" {
		of = it.Pod.Alone()
	}
	if it.crowd != nil && it.crowd.of != of {
		q.desert(it)
	}
	c := q.crowds[of]
	if c == nil {
		c = &crowd{of: of, asleep: newHeap(sooner)}
		q.crowds[of] = c
	}
	if c.scout == it {
		c.scout = nil
	}
	c.causes = causes
	it.state, it.crowd = refused, c
	c.asleep.Push(it)
}

// unsleep takes an item out of its crowd.
func (q *Queue) unsleep(it *Item) {
	c := it.crowd
	it.crowd = nil
	c.asleep.Remove(it)
	q.tidy(c)
}

// rouse wakes a small crowd, or sends the first of a large one, unless it is out already.
func (q *Queue) rouse(c *crowd, now time.Time) {
	if c.scout != nil {
		return
	}
	if c.asleep.Len() <= smallCrowd {
		for c.asleep.Len() > 0 {
			it := c.asleep.First()
			q.unsleep(it)
			q.wake(it, now)
		}
		return
	}
	q.send(c)
	q.wake(c.scout, now)
}

// desert has the next of a crowd try when its scout no longer does.
func (q *Queue) desert(it *Item) {
	c := it.crowd
	if c == nil || c.scout != it {
		return
	}
	c.scout, it.crowd = nil, nil
	if c.asleep.Len() > 0 {
		q.send(c)
		q.activate(c.scout)
	}
	q.tidy(c)
}

// send makes the first of a crowd its scout.
func (q *Queue) send(c *crowd) {
	it := c.asleep.First()
	c.asleep.Remove(it)
	c.scout = it
}

func (q *Queue) tidy(c *crowd) {
	if c.asleep.Len() == 0 && c.scout == nil && q.crowds[c.of] == c {
		delete(q.crowds, c.of)
	}
}
