package store

import (
	"context"
	"errors"
	"sync"
	"time"

	"coracle/internal/heap"
)

// expiry removes objects whose time to live has passed. One timer, set for the earliest.
type expiry struct {
	s     *Store
	mu    sync.Mutex
	due   *heap.Heap[due]
	timer *time.Timer
	ended bool
}

// due names a version rather than hold it: what was deleted before its time is not kept in memory.
type due struct {
	c   *Collection
	key string
	rev int64
	sec int64
}

func (e *expiry) init(s *Store) {
	e.s, e.due = s, heap.New(func(a, b due) bool { return a.sec < b.sec }, nil)
}

// expiryOf turns a time to live in seconds into a moment, rounded up to whole seconds; 0 is never.
func (s *Store) expiryOf(ttl uint64) int64 {
	if ttl == 0 {
		return 0
	}
	now := s.now()
	end := now.Unix() + int64(ttl)
	if now.Nanosecond() > 0 {
		end++
	}
	return end
}

// schedule notes the expiries of durable changes.
func (e *expiry) schedule(changes []*change) {
	var add []due
	for _, ch := range changes {
		if ch.cur.expires != 0 {
			add = append(add, due{ch.c, ch.it.key, ch.cur.rev, ch.cur.expires})
		}
	}
	e.add(add)
}

func (e *expiry) add(add []due) {
	if len(add) == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range add {
		e.due.Push(d)
	}
	e.arm()
}

// arm sets the timer for the earliest entry. It needs e.mu held.
func (e *expiry) arm() {
	if e.ended || e.due.Len() == 0 {
		return
	}
	wait := max(time.Unix(e.due.First().sec, 0).Sub(e.s.now()), 0)
	if e.timer == nil {
		e.timer = time.AfterFunc(wait, e.expire)
		return
	}
	e.timer.Reset(wait)
}

// expire deletes what is due, each at the version that was due: a newer write lives on.
func (e *expiry) expire() {
	now := e.s.now().Unix()
	e.mu.Lock()
	var ripe []due
	for e.due.Len() > 0 && e.due.First().sec <= now {
		ripe = append(ripe, e.due.Pop())
	}
	e.arm()
	e.mu.Unlock()
	var last *batch
	for _, d := range ripe {
		b, err := d.c.propose(d.key, d.rev, &version{dead: true}, nil)
		switch {
		case err == nil:
			last = b
		case errors.Is(err, errConflict), errors.Is(err, ErrClosed):
		default:
			e.retry(d)
		}
	}
	if last != nil && last.wait(context.Background()) != nil {
		for _, d := range ripe {
			e.retry(d)
		}
	}
}

// retry puts an entry back that could not be removed because the store cannot write now.
func (e *expiry) retry(d due) {
	d.sec = e.s.now().Unix() + 30
	e.add([]due{d})
}

func (e *expiry) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	if e.timer != nil {
		e.timer.Stop()
	}
}
