package store

// Queued returns how many writes wait behind the commit under way.
func Queued(s *Store) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending.changes)
}

// CompactEngine compacts the durable state now.
func CompactEngine(s *Store) error { return s.engine.Compact(s.newestDurable, s.Revision) }

// Dispatched returns the newest revision handed to the watches and the history.
func Dispatched(s *Store) int64 { return s.dispatched.Load() }

// Retained returns how many changes and versions a collection holds.
func Retained(c *Collection) (changes, versions int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, it := range c.items {
		for v := it.head; v != nil; v = v.prev {
			versions++
		}
	}
	return len(c.past.live()), versions
}

// Keys returns how many keys a collection holds, deleted ones that history needs included.
func Keys(c *Collection) int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.index.size
}

// NewestDurable is what compaction asks.
func NewestDurable(s *Store, key string, rev int64) bool { return s.newestDurable(key, rev) }

// Failing tells whether a failed write is being undone.
func Failing(s *Store) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failing
}

// Hold keeps a collection from changing until release is called.
func Hold(c *Collection) (release func()) {
	c.mu.Lock()
	return c.mu.Unlock
}

// HoldWatches keeps the changes of a collection from its watches until release is called.
func HoldWatches(c *Collection) (release func()) {
	c.watchMu.Lock()
	return c.watchMu.Unlock
}

// Worthwhile decides whether a compaction is due.
var Worthwhile = worthwhile
