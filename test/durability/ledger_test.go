package durability

import (
	"fmt"
	"sync"
	"testing"
)

// write is one acknowledged state of a key.
type write struct {
	key      string
	sequence int
	revision int64
}

// event is what a watcher was told.
type event struct {
	kind string
	write
}

// ledger holds what was acknowledged until every watcher is past it.
type ledger struct {
	t  *testing.T
	mu sync.Mutex
	// newest is the highest revision that was acknowledged; puts are those that are still to be seen by watchers.
	newest int64
	puts   map[int64]write
	faults int

	creates, updates, deletes, unknown, happened int
	checked                                      int
	// refusal is the newest answer that told nothing.
	refusal string
}

// unanswered keeps what was heard instead of an answer, and counts a write of which nothing is known then.
func (l *ledger) unanswered(writes, code int, message string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unknown += writes
	l.refusal = fmt.Sprintf("%d %s %v", code, message, err)
}

// fault reports what must not be; after some of them there is nothing new to learn.
func (l *ledger) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faultLocked(format, args...)
}

func (l *ledger) faultLocked(format string, args ...any) {
	if l.faults++; l.faults <= 40 {
		l.t.Errorf(format, args...)
	}
}

// heard returns what was heard last instead of an answer.
func (l *ledger) heard() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refusal
}

// begin returns the newest revision acknowledged before a request.
func (l *ledger) begin() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest
}

// acknowledged notes a put whose request began when before was the newest revision.
func (l *ledger) acknowledged(w write, before int64, count *int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*count++
	if w.revision <= before {
		l.faultLocked("revisions went back: %+v, but %d was acknowledged before it began", w, before)
	}
	if other, twice := l.puts[w.revision]; twice {
		l.faultLocked("revision given twice: %+v and %+v", other, w)
	}
	l.newest = max(l.newest, w.revision)
	l.puts[w.revision] = w
}

func (l *ledger) count(n *int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*n++
}

func (l *ledger) acks() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.creates + l.updates + l.deletes
}

func (l *ledger) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("acknowledged %d creates, %d updates, %d deletes; unanswered %d, of which %d happened; %d puts held against every watcher; faults %d",
		l.creates, l.updates, l.deletes, l.unknown, l.happened, l.checked, l.faults)
}

// settle holds the acknowledged puts against what the watchers saw, as far as all of them have come, and
// forgets both. An answer can be later than its event, but not by a whole round: events are kept for one more.
func (l *ledger) settle(all []*watcher) {
	reached := int64(-1)
	for _, w := range all {
		w.mu.Lock()
		if reached < 0 || w.last < reached {
			reached = w.last
		}
		w.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for revision, put := range l.puts {
		if revision > reached {
			continue
		}
		l.checked++
		delete(l.puts, revision)
		for _, w := range all {
			if why := w.misses(put); why != "" {
				l.faultLocked("watcher %d: %s", w.number, why)
			}
		}
	}
	for _, w := range all {
		w.forget(w.settled)
		w.settled = reached
	}
}
