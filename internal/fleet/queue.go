package fleet

import (
	"net/netip"
	"time"

	"coracle/internal/heap"
	"coracle/internal/object"
)

// sort is what an item is.
type sort uint8

const (
	aPod sort = iota
	aNode
	aVolume
)

// item is something to look at.
type item struct {
	sort sort
	key  object.Key
}

// entry is what is known of an item on which something is to be done, now or later. An item at
// rest has none.
type entry struct {
	item item
	// since is when its present stage began: simnode.Input.Since.
	since time.Time
	// address was given to a pod and is not yet to be seen in its object.
	address netip.Addr
	// queued says that it stands in line, working that a worker has it, dirty that it changed
	// meanwhile.
	queued, working, dirty bool
	// deleting says that since is that of the deletion.
	deleting bool
	// reshaped says that its annotations changed, so that their problems are to be told.
	reshaped bool
	failures int
	// due is when it is to be looked at again, zero when not; at is its place among those.
	due time.Time
	at  int
}

// queue is a line of items to look at and those that are to be looked at later. An item stands
// in line once, and one worker has it at a time.
type queue struct {
	entries map[item]*entry
	line    []*entry
	head    int
	later   *heap.Heap[*entry]
}

func newQueue() queue {
	return queue{entries: map[item]*entry{}, later: heap.New(
		func(a, b *entry) bool { return a.due.Before(b.due) }, func(e *entry) *int { return &e.at })}
}

// add puts an item in line and says whether a worker may have to be woken for it.
func (q *queue) add(it item, now time.Time) bool {
	e := q.entries[it]
	if e == nil {
		e = &entry{item: it, since: now, at: -1}
		q.entries[it] = e
	}
	if e.working {
		e.dirty = true
		return false
	}
	return q.push(e)
}

func (q *queue) push(e *entry) bool {
	if e.queued {
		return false
	}
	e.queued = true
	q.line = append(q.line, e)
	return true
}

func (q *queue) waiting() int { return len(q.line) - q.head }

// take returns the first in line, nil when there is none.
func (q *queue) take() (item, *entry) {
	for q.head < len(q.line) {
		e := q.line[q.head]
		q.line[q.head] = nil
		q.head++
		if q.head == len(q.line) {
			q.line, q.head = q.line[:0], 0
			if cap(q.line) > 1024 {
				q.line = nil
			}
		}
		if q.entries[e.item] != e {
			continue // forgotten while it stood in line
		}
		q.unset(e)
		e.queued, e.working = false, true
		return e.item, e
	}
	return item{}, nil
}

// done takes an item back from a worker, to be looked at again at a moment or, when that is
// zero, not until it changes. It says whether the moment is the first of all.
func (q *queue) done(it item, again time.Time) (first bool) {
	e := q.entries[it]
	if e == nil || !e.working {
		return false
	}
	e.working = false
	if e.dirty {
		e.dirty = false
		q.push(e) // the worker that brings it back takes the next
		return false
	}
	if again.IsZero() {
		if !e.address.IsValid() {
			delete(q.entries, it)
		}
		return false
	}
	e.due = again
	q.later.Push(e)
	return q.later.First() == e
}

// forget drops an item that is no more.
func (q *queue) forget(it item) {
	if e := q.entries[it]; e != nil {
		q.unset(e)
		delete(q.entries, it)
	}
}

func (q *queue) unset(e *entry) {
	if e.at >= 0 {
		q.later.Remove(e)
	}
}

// ripen puts in line what is due and returns when the next item is; zero when none is.
func (q *queue) ripen(now time.Time) time.Time {
	for q.later.Len() > 0 {
		e := q.later.First()
		if e.due.After(now) {
			return e.due
		}
		q.later.Pop()
		q.push(e)
	}
	return time.Time{}
}
