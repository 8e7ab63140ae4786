package store

// Queued returns how many writes wait behind the commit under way.
func Queued(s *Store) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending.changes)
}

// CompactEngine compacts the durable state now.
func CompactEngine(s *Store) error { return s.engine.Compact(s.newestDurable, s.Revision) }
