package store

import (
	"sync"
	"time"
)

// defaultBookmarks is upstream's interval between progress bookmarks.
const defaultBookmarks = time.Minute

// dispatchLoop hands durable changes to the watches, in order of revision.
func (s *Store) dispatchLoop() {
	defer close(s.delivered)
	for b := range s.toDispatch {
		changes := b.changes
		for len(changes) > 0 {
			n := 1
			for n < len(changes) && changes[n].c == changes[0].c {
				n++
			}
			changes[0].c.deliver(changes[:n])
			changes = changes[n:]
		}
		s.dispatched.Store(b.last())
		s.bookmarks.arm()
		s.compaction.consider()
	}
}

// deliver appends the changes to the history and to the queues of the watchers they may interest.
func (c *Collection) deliver(changes []*change) {
	c.watchMu.Lock()
	defer c.watchMu.Unlock()
	c.mu.Lock()
	c.remember(changes)
	c.itemCount.Store(int64(len(c.items)))
	c.mu.Unlock()
	for _, ch := range changes {
		var d *delivery
		c.watches.route(ch, func(w *watcher) {
			if d == nil {
				d = &delivery{change: ch}
			}
			w.push(entry{delivery: d})
		})
	}
}

// bookmarks sends the cluster's progress to watchers that allow it. The timer runs only while
// there is progress to tell somebody.
type bookmarks struct {
	s        *Store
	interval time.Duration
	mu       sync.Mutex
	timer    *time.Timer
	armed    bool
	ended    bool
	watchers int
}

func (b *bookmarks) init(s *Store, interval time.Duration) {
	if interval == 0 {
		interval = defaultBookmarks
	}
	b.s, b.interval = s, interval
}

// join counts a watcher in; behind says that there is progress it does not know of.
func (b *bookmarks) join(behind bool) {
	b.mu.Lock()
	b.watchers++
	b.mu.Unlock()
	if behind {
		b.arm()
	}
}

func (b *bookmarks) leave() {
	b.mu.Lock()
	b.watchers--
	b.mu.Unlock()
}

func (b *bookmarks) arm() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.armed || b.ended || b.watchers == 0 {
		return
	}
	b.armed = true
	if b.timer == nil {
		b.timer = time.AfterFunc(b.interval, b.fire)
		return
	}
	b.timer.Reset(b.interval)
}

func (b *bookmarks) fire() {
	b.mu.Lock()
	b.armed = false
	b.mu.Unlock()
	for _, c := range b.s.all() {
		c.bookmark(func(w *watcher) bool { return w.bookmarks })
	}
}

func (b *bookmarks) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if b.timer != nil {
		b.timer.Stop()
	}
}

// bookmark queues the present progress for the chosen watchers.
func (c *Collection) bookmark(chosen func(*watcher) bool) {
	c.watchMu.Lock()
	defer c.watchMu.Unlock()
	rev := c.s.dispatched.Load()
	c.watches.each(func(w *watcher) {
		if chosen(w) {
			w.push(entry{bookmark: rev})
		}
	})
}
