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
	// recordOverhead is what a record takes in a file at most besides its key and value.
	recordOverhead = 24
	// changeMin and changeShare, of the live bytes, are in forChanges.
	changeMin   = 64 << 10
	changeShare = 32
	// refuseFor is for how many seconds further objects are refused at the door after one found no room; less if
	// something is deleted.
	refuseFor = 1
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

	holding sync.Mutex
	held    atomic.Int64 // live bytes for which the engine holds room; written under holding

	refused atomic.Int64 // Unix seconds until which further objects find no room; 0 is not

	// The committer's own: the dead bytes and all bytes when a full disk was last compacted in vain.
	futile, futileAll int64
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
	if err := p.hold(live); err != nil {
		p.s.log.Warn("no room is kept for a compaction: until there is, nothing can be added to the store", "error", err)
	}
}

// weight is at most what a live version takes in a file.
func weight(key string, v *version) int64 { return int64(len(key) + v.size + recordOverhead) }

// growth is by how many live bytes a change adds.
func (ch *change) growth() (more int64) {
	if !ch.cur.dead {
		more += weight(ch.it.key, ch.cur)
	}
	if ch.prev != nil {
		more -= weight(ch.it.key, ch.prev)
	}
	return more
}

// weigh accounts for a durable batch.
func (p *compaction) weigh(b *batch) {
	p.live.Add(b.growth)
	if b.removes || b.adds {
		p.refused.Store(0)
	}
}

// admit makes sure that a compaction still finds room after a batch: what is on the disk could never be reduced
// without. What only changes and removes may use some room that what adds may not.
func (p *compaction) admit(b *batch) error {
	if b.growth <= 0 {
		return nil
	}
	live := p.live.Load() + b.growth
	if b.adds {
		live += forChanges(live)
	}
	if live <= p.held.Load() {
		return nil
	}
	return p.hold(live)
}

// turnsAway tells whether an object that is added is refused without being tried: together with it, what makes room
// would fail.
func (p *compaction) turnsAway(now int64) bool {
	until := p.refused.Load()
	return until != 0 && now <= until
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
	if live < p.held.Load()/4 {
		_ = p.hold(live) // less than is held
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
	err := p.s.engine.Compact(p.s.newestDurable, p.s.Revision)
	p.holdAgain()
	return err
}

// hold has the engine keep room for a compaction that leaves so many live bytes, and for more where there is enough.
func (p *compaction) hold(live int64) error {
	p.holding.Lock()
	defer p.holding.Unlock()
	var err error
	for _, bytes := range []int64{live + live/2, live + forChanges(live), live} {
		if err = p.s.engine.Reserve(bytes); err == nil {
			p.held.Store(bytes)
			return nil
		}
	}
	return err
}

// forChanges is what is kept for changes beside so many live bytes, when the disk is too full for further objects.
func forChanges(live int64) int64 { return changeMin + live/changeShare }

// holdAgain asks whether a compaction found back the room it spent.
func (p *compaction) holdAgain() {
	p.holding.Lock()
	defer p.holding.Unlock()
	if p.s.engine.Reserve(p.held.Load()) != nil {
		p.held.Store(0)
	}
}

// full tells whether a failure is for want of space, and not for good.
func full(err error) bool {
	return (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) && !errors.Is(err, engine.ErrFatal)
}

// relieve compacts at once after a batch failed for want of space, if that can help. It returns whether the batch
// may succeed now. It is the committer's.
func (p *compaction) relieve(cause error, b *batch) bool {
	if !full(cause) {
		return false
	}
	dead, all := p.dead(), p.dead()+p.live.Load()
	if all < p.futileAll { // another compaction came between
		p.futile, p.futileAll = 0, 0
	}
	gain, gained := max(relieveMin, p.live.Load()/relieveShare)+int64(b.bytes), dead-p.futile
	if !b.adds {
		// A new log takes what the old one could not, whatever is dead.
		gain, gained = relieveMin, all-p.futileAll
	}
	if gained < gain {
		p.refuse(b)
		return false
	}
	if err := p.run(); err != nil {
		p.futile, p.futileAll = dead, all
		p.refuse(b)
		p.s.log.Error("the disk is full, and compacting the log to make room failed", "error", err)
		return false
	}
	p.futile, p.futileAll = p.dead(), p.dead()+p.live.Load()
	p.s.log.Info("the disk is full: compacted the log", "bytes freed", dead-p.dead())
	return true
}

func (p *compaction) refuse(b *batch) {
	if b.adds {
		p.refused.Store(p.s.now().Unix() + refuseFor)
	}
}

func (p *compaction) wait() { p.group.Wait() }
