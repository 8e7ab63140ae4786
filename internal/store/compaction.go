package store

import (
	"sync"
	"sync/atomic"
)

// compactMin is how many bytes are written to the log before a compaction is worth its while.
const compactMin = 32 << 20

// compaction drops superseded records from the engine in the background, once more has been
// written since the last time than is live.
type compaction struct {
	s       *Store
	running atomic.Bool
	retryAt atomic.Int64 // after a failure, the size of the log at which to try again
	group   sync.WaitGroup
}

func (p *compaction) init(s *Store) { p.s = s }

// consider starts a compaction if one is due. It is called after each batch.
func (p *compaction) consider() {
	compacted, since := p.s.engine.Size()
	if since < max(compactMin+compacted, p.retryAt.Load()) || !p.running.CompareAndSwap(false, true) {
		return
	}
	p.group.Go(func() {
		defer p.running.Store(false)
		p.retryAt.Store(0)
		if err := p.s.engine.Compact(p.s.newestDurable, p.s.Revision); err != nil {
			p.retryAt.Store(since + compactMin)
			p.s.log.Error("compaction of the log failed; it goes on growing", "error", err)
		}
	})
}

func (p *compaction) wait() { p.group.Wait() }
