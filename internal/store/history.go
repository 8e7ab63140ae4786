package store

import "sort"

// history is the retained past of one collection, guarded by its lock: changes after floor, in
// order of revision.
type history struct {
	changes []*change
	start   int   // changes[:start] were dropped
	bytes   int64 // encoded size of superseded versions
	floor   int64 // revisions below this one cannot be answered any more
}

func (h *history) live() []*change { return h.changes[h.start:] }

// pastShare says how large the retained past may be whatever Events and Bytes say: one change for so many
// objects that there are.
const pastShare = 4

// after returns the changes with revisions above rev.
func (h *history) after(rev int64) []*change {
	live := h.live()
	return live[sort.Search(len(live), func(i int) bool { return live[i].cur.rev > rev }):]
}

// remember appends durable changes and drops what is beyond the bounds. It needs c.mu held.
func (c *Collection) remember(changes []*change) {
	h := &c.past
	for _, ch := range changes {
		h.changes = append(h.changes, ch)
		if ch.prev != nil {
			h.bytes += int64(ch.prev.size)
		}
	}
	bounds := c.s.hist
	oldest := changes[len(changes)-1].at - int64(bounds.Age.Seconds())
	// A watcher that has lost its place lists everything again: where there is much to list, more of the past is
	// worth its memory.
	few := len(c.items) / pastShare
	for n := len(h.changes) - h.start; n > 0; n-- {
		if aged := h.changes[h.start].at < oldest; !aged && (n <= few || n <= bounds.Events && h.bytes <= bounds.Bytes) {
			break
		}
		c.forgetOldest()
	}
	h.squeeze()
}

// forget drops the past up to and including rev.
func (c *Collection) forget(rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.past.start < len(c.past.changes) && c.past.changes[c.past.start].cur.rev <= rev {
		c.forgetOldest()
	}
	c.past.floor = max(c.past.floor, rev)
	c.past.squeeze()
}

// forgetOldest drops the oldest change and the versions only it needed.
func (c *Collection) forgetOldest() {
	h := &c.past
	ch := h.changes[h.start]
	h.changes[h.start] = nil
	h.start++
	h.floor = max(h.floor, ch.cur.rev)
	if ch.prev != nil {
		h.bytes -= int64(ch.prev.size)
	}
	for v := ch.cur.prev; v != nil; v = v.prev {
		c.unindexVersion(ch.it, v)
	}
	ch.cur.prev = nil
	if ch.cur.dead && ch.it.head == ch.cur {
		delete(c.items, ch.it.key)
		c.index.remove(ch.it.key)
	}
}

// squeeze reclaims the room of dropped changes once it is half of the slice.
func (h *history) squeeze() {
	if h.start < 1024 && h.start < len(h.changes) || h.start*2 < len(h.changes) {
		return
	}
	n := copy(h.changes, h.changes[h.start:])
	clear(h.changes[n:])
	h.changes = h.changes[:n]
	h.start = 0
}

// Compact drops all history up to rev: lists and watches from before it get 410 Expired.
func (s *Store) Compact(rev int64) {
	rev = min(rev, s.durable.Load())
	for _, c := range s.all() {
		c.forget(rev)
	}
	s.collMu.Lock()
	s.floor = max(s.floor, rev)
	s.collMu.Unlock()
}
