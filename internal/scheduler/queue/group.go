package queue

import (
	"time"

	"coracle/internal/heap"
	"coracle/internal/scheduler/place"
)

// smallGroup is a group all of which wakes: each of its pods then tells its user at once what
// keeps it, and a refusal that is remembered costs little.
const smallGroup = 16

// group is refused pods that are alike: what refuses one of them refuses all.
type group struct {
	of place.Alike
	// causes is what the last refusal was for.
	causes place.Cause
	asleep *heap.Heap[*Item]
	// probe tries for all, or is nil.
	probe *Item
}

// sleep puts an item into its group. If it tried for a group, the others sleep on.
func (q *Queue) sleep(it *Item, causes place.Cause) {
	of := it.Pod.Alike()
	if it.Prefer != "" {
		of = it.Pod.Alone()
	}
	if it.group != nil && it.group.of != of {
		q.passOn(it)
	}
	c := q.groups[of]
	if c == nil {
		c = &group{of: of, asleep: newHeap(sooner)}
		q.groups[of] = c
	}
	if c.probe == it {
		c.probe = nil
	}
	c.causes = causes
	it.state, it.group = refused, c
	c.asleep.Push(it)
}

// unsleep takes an item out of its group.
func (q *Queue) unsleep(it *Item) {
	c := it.group
	it.group = nil
	c.asleep.Remove(it)
	q.tidy(c)
}

// wakeGroup wakes a small group, or sends the first of a large one, unless it is out already.
func (q *Queue) wakeGroup(c *group, now time.Time) {
	if c.probe != nil {
		return
	}
	if c.asleep.Len() <= smallGroup {
		for c.asleep.Len() > 0 {
			it := c.asleep.First()
			q.unsleep(it)
			q.wake(it, now)
		}
		return
	}
	q.send(c)
	q.wake(c.probe, now)
}

// passOn has the next of a group try when its probe no longer does.
func (q *Queue) passOn(it *Item) {
	c := it.group
	if c == nil || c.probe != it {
		return
	}
	c.probe, it.group = nil, nil
	if c.asleep.Len() > 0 {
		q.send(c)
		q.activate(c.probe)
	}
	q.tidy(c)
}

// send makes the first of a group its probe.
func (q *Queue) send(c *group) {
	it := c.asleep.First()
	c.asleep.Remove(it)
	c.probe = it
}

func (q *Queue) tidy(c *group) {
	if c.asleep.Len() == 0 && c.probe == nil && q.groups[c.of] == c {
		delete(q.groups, c.of)
	}
}
