package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"

	"coracle/internal/store/engine"
)

// change is one committed or pending write: the step from prev to cur of one key.
type change struct {
	c    *Collection
	it   *item
	cur  *version
	prev *version // nil when there was none, never dead
	rec  engine.Record
	at   int64 // Unix seconds at which it became durable
}

// batch is what one Commit of the engine makes durable.
type batch struct {
	changes []*change
	bytes   int   // encoded
	growth  int64 // of the live bytes
	adds    bool  // has an object that was not there
	removes bool  // makes room
	done    chan struct{}
	err     error // set before done is closed
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

func (b *batch) last() int64 { return b.changes[len(b.changes)-1].cur.rev }

// errConflict says that the key is no longer in the state the write was built on.
var errConflict = errors.New("conflict")

// propose gives the write the next revision and queues it, provided that the newest state of key,
// durable or not, still has revision expect (0 for none). v.rev is assigned here.
func (c *Collection) propose(key string, expect int64, v *version, data []byte) (*batch, error) {
	c.mu.Lock()
	it := c.items[key]
	var head int64
	prev := it.latest()
	if prev != nil {
		head = prev.rev
	}
	if head != expect {
		c.mu.Unlock()
		return nil, errConflict
	}
	if prev == nil && !v.dead && c.res.Within != nil {
		leave, err := c.res.Within.enter(key)
		defer leave()
		if err != nil {
			c.mu.Unlock()
			return nil, err
		}
	}
	if it == nil {
		it = &item{key: key}
	}
	ch := &change{c: c, it: it, cur: v, prev: prev}
	b, err := c.s.enqueue(ch, data)
	if err != nil {
		c.mu.Unlock()
		return nil, err
	}
	if it.head == nil {
		c.items[key] = it
		c.index.insert(it)
	}
	v.prev = it.head
	it.head = v
	c.indexVersion(it, v)
	if v.obj != nil {
		// Cannot fail: the same accessor worked when the object was prepared.
		_ = setRevision(v.obj, v.rev)
	}
	c.mu.Unlock()
	select {
	case c.s.wake <- struct{}{}:
	default:
	}
	return b, nil
}

// enter asks whether the container of what is about to be made at key is open, and keeps it so until leave is
// called: its next state then has a later revision.
func (w *Within) enter(key string) (leave func(), err error) {
	w.Of.mu.RLock()
	at := w.Key(key)
	var container runtime.Object
	if v := w.Of.items[at].latest(); v != nil {
		if container, err = w.Of.object(at, v); err != nil {
			return w.Of.mu.RUnlock, err
		}
	}
	return w.Of.mu.RUnlock, w.Open(container, key)
}

// enqueue assigns the revision and appends to the pending batch.
func (s *Store) enqueue(ch *change, data []byte) (*batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if s.failing || s.fatal != nil {
		return nil, s.readOnly()
	}
	adds := ch.prev == nil && !ch.cur.dead
	if adds && s.lastError != nil && s.compaction.turnsAway(s.now().Unix()) {
		return nil, s.readOnly()
	}
	s.next++
	ch.cur.rev = s.next
	ch.rec = engine.Record{
		Revision: s.next, Key: ch.it.key, Value: data, Delete: ch.cur.dead, Adds: adds, Expires: ch.cur.expires,
	}
	if s.pending.bytes >= batchMax {
		s.waiting = append(s.waiting, s.pending)
		s.pending = newBatch()
	}
	s.pending.changes = append(s.pending.changes, ch)
	s.pending.bytes += len(data)
	s.pending.growth += ch.growth()
	s.pending.adds = s.pending.adds || adds
	s.pending.removes = s.pending.removes || ch.cur.dead
	return s.pending, nil
}

// batchMax is the size from which on a batch takes no more writes. The engine refuses much larger ones, so
// that it knows how much a write that was cut short can have left behind.
const batchMax = 16 << 20

// wait returns once the batch is durable, with its error.
func (b *batch) wait(ctx context.Context) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return fmt.Errorf("wait for the write to become durable (it may still be): %w", ctx.Err())
	}
}

// settle waits until no answer built on revision rev could be about a write that is not durable.
func (s *Store) settle(ctx context.Context, rev int64) error {
	for s.durable.Load() < rev {
		s.mu.Lock()
		b := s.batchOf(rev)
		known := len(b.changes) > 0 && b.last() >= rev && b.changes[0].cur.rev <= rev
		s.mu.Unlock()
		if !known {
			return nil // durable by now, or undone
		}
		if err := b.wait(ctx); err != nil && ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// batchOf returns the first batch under way that reaches rev. It needs s.mu held.
func (s *Store) batchOf(rev int64) *batch {
	if s.inflight != nil && s.inflight.last() >= rev {
		return s.inflight
	}
	for _, b := range s.waiting {
		if b.last() >= rev {
			return b
		}
	}
	return s.pending
}

// commitLoop is the committer: the only goroutine that writes to the engine.
func (s *Store) commitLoop() {
	defer close(s.committed)
	defer close(s.toDispatch)
	var records []engine.Record
	for {
		b, stop := s.takeBatch()
		if b == nil {
			if stop {
				return
			}
			<-s.wake
			continue
		}
		records = records[:0]
		for _, ch := range b.changes {
			records = append(records, ch.rec)
		}
		err := s.write(b, records)
		if err != nil && s.compaction.relieve(err, b) {
			err = s.write(b, records)
		}
		clear(records)
		if err != nil {
			s.undo(b, err)
			continue
		}
		s.finish(b)
	}
}

// write makes a batch durable, if that leaves room to compact what is there.
func (s *Store) write(b *batch, records []engine.Record) error {
	if err := s.compaction.admit(b); err != nil {
		return fmt.Errorf("the disk is too full to add to the store: %w", err)
	}
	return s.engine.Commit(records)
}

func (s *Store) takeBatch() (b *batch, stop bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) > 0 {
		s.inflight = s.waiting[0]
		s.waiting = s.waiting[1:]
		return s.inflight, false
	}
	if len(s.pending.changes) == 0 {
		return nil, s.closed
	}
	s.inflight = s.pending
	s.pending = newBatch()
	return s.inflight, false
}

// finish tells the observers of a durable batch, then makes it visible to readers, then answers its writers, then hands
// it to the watches.
func (s *Store) finish(b *batch) {
	now := s.now().Unix()
	for _, ch := range b.changes {
		ch.rec.Value = nil
		ch.at = now
	}
	s.compaction.weigh(b)
	b.observe()
	s.mu.Lock()
	s.inflight = nil
	if s.compaction.refused.Load() == 0 {
		s.lastError = nil
	}
	s.durable.Store(b.last())
	s.mu.Unlock()
	close(b.done)
	s.expiry.schedule(b.changes)
	s.toDispatch <- b
}

// undo takes back every write that is not durable. Writers of the batches get the error.
func (s *Store) undo(failed *batch, cause error) {
	s.mu.Lock()
	s.failing = true // nothing is queued until the state is whole again
	undone := append([]*batch{failed}, s.waiting...)
	undone = append(undone, s.pending)
	s.waiting, s.pending = nil, newBatch()
	s.mu.Unlock()

	for _, b := range slices.Backward(undone) {
		for i := len(b.changes) - 1; i >= 0; i-- {
			b.changes[i].c.unlink(b.changes[i])
		}
	}
	s.mu.Lock()
	// Revisions given out are not used again: a log that failed may still hold them.
	s.inflight = nil
	s.failing = false
	s.lastError = cause
	if errors.Is(cause, engine.ErrFatal) {
		s.fatal = cause
	}
	err := s.readOnly()
	s.mu.Unlock()
	s.log.Error("the store cannot write", "error", cause)
	for _, b := range undone {
		b.err = err
		close(b.done)
	}
}

// unlink removes a version that never became durable.
func (c *Collection) unlink(ch *change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch.it.head != ch.cur {
		panic("store: undo out of order at " + ch.it.key)
	}
	c.unindexVersion(ch.it, ch.cur)
	ch.it.head = ch.cur.prev
	ch.cur.undone = true
	if h := ch.it.head; h == nil || h.dead && h.rev <= c.past.floor {
		delete(c.items, ch.it.key)
		c.index.remove(ch.it.key)
	}
}
