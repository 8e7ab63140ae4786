package store

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"

	"coracle/internal/store/engine"
)

// A compaction copies what lives, so what it costs is measured in live bytes and what it gains in dead
// ones: it is due when the dead outweigh the living by so much that it is worth its while.
const (
	// compactMin is how many bytes must be dead besides as many as live.
	compactMin = 32 << 20
	// compactSmall is how many must be dead in a store that is written little, which is compacted at
	// most once in the time for which history is kept.
	compactSmall = 1 << 20
	// relieveMin is what a compaction must gain to be tried on a full disk, and a share of the live bytes.
	relieveMin   = 64 << 10
	relieveShare = 16
	// recordOverhead is about what a record takes in a file besides its key and value.
	recordOverhead = 12
)

// compaction drops superseded records from the engine.
type compaction struct {
	s       *Store
	running atomic.Bool
	live    atomic.Int64 // bytes of the newest durable records
	retryAt atomic.Int64 // after a failure, the dead bytes at which to try again
	last    atomic.Int64 // Unix seconds of the last one, or of the start
	asked   atomic.Bool  // one is due whatever the sizes
	group   sync.WaitGroup

	reserved int64 // live bytes for which room is reserved; the dispatcher's own
	futile   int64 // dead bytes when a full disk was last compacted in vain; the committer's own
}

func (p *compaction) init(s *Store) { p.s = s }

// begin weighs what was loaded.
func (p *compaction) begin(loaded engine.Loaded, items map[string]*item) {
	var live int64
	for key, it := range items {
		if !it.head.dead {
			live += weight(key, it.head)
		}
	}
	p.live.Store(live)
	p.last.Store(p.s.now().Unix())
	p.asked.Store(loaded.Outdated)
	p.reserve(live)
}

// weight is about what a live version takes in a file.
func weight(key string, v *version) int64 { return int64(len(key) + v.size + recordOverhead) }

// weigh accounts for durable changes.
func (p *compaction) weigh(changes []*change) {
	var more int64
	for _, ch := range changes {
		if !ch.cur.dead {
			more += weight(ch.it.key, ch.cur)
		}
		if ch.prev != nil {
			more -= weight(ch.it.key, ch.prev)
		}
	}
	p.live.Add(more)
}

func (p *compaction) dead() int64 {
	compacted, since := p.s.engine.Size()
	return compacted + since - p.live.Load()
}

// worthwhile decides whether it is time for a compaction.
func worthwhile(live, dead, retryAt, sinceLast, historyAge int64) bool {
	switch {
	case dead < retryAt:
		return false
	case dead >= live+compactMin:
		return true
	}
	return dead >= live+compactSmall && sinceLast >= historyAge
}

// consider starts a compaction if one is due. It is called after each batch.
func (p *compaction) consider() {
	live, dead := p.live.Load(), p.dead()
	if live > p.reserved+p.reserved/4 || live < p.reserved/4 {
		p.reserve(live)
	}
	sinceLast, age := p.s.now().Unix()-p.last.Load(), int64(p.s.hist.Age.Seconds())
	if !p.asked.Load() && !worthwhile(live, dead, p.retryAt.Load(), sinceLast, age) {
		return
	}
	if !p.running.CompareAndSwap(false, true) {
		return
	}
	p.group.Go(func() {
		defer p.running.Store(false)
		if err := p.run(); err != nil {
			p.retryAt.Store(dead + compactMin)
			p.s.log.Error("compaction of the log failed; it goes on growing", "error", err)
		}
	})
}

func (p *compaction) run() error {
	p.asked.Store(false)
	p.retryAt.Store(0)
	p.last.Store(p.s.now().Unix())
	return p.s.engine.Compact(p.s.newestDurable, p.s.Revision)
}

// reserve keeps room on the disk for a compaction that leaves live bytes and somewhat more.
func (p *compaction) reserve(live int64) {
	p.reserved = live
	if err := p.s.engine.Reserve(live + live/2); err != nil {
		p.s.log.Warn("no room is kept for a compaction: once the disk is full, deleting may not free it", "error", err)
	}
}

// relieve compacts at once after a write of so many bytes failed for want of space, if that can gain
// enough. It returns whether the write may succeed now. It is the committer's.
func (p *compaction) relieve(cause error, need int) bool {
	if !errors.Is(cause, syscall.ENOSPC) && !errors.Is(cause, syscall.EDQUOT) || errors.Is(cause, engine.ErrFatal) {
		return false
	}
	dead := p.dead()
	gain := max(relieveMin, p.live.Load()/relieveShare, int64(need))
	if dead-p.futile < gain {
		return false
	}
	if err := p.run(); err != nil {
		p.futile = dead
		p.s.log.Error("the disk is full, and compacting the log to make room failed", "error", err)
		return false
	}
	p.futile = 0
	p.s.log.Info("the disk is full: compacted the log", "bytes freed", dead-p.dead())
	return true
}

func (p *compaction) wait() { p.group.Wait() }
