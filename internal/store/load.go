package store

import (
	"fmt"
	"strings"

	"coracle/internal/store/engine"
)

// load reads the engine into items that wait for their collection. The history that compaction
// has left whole is kept too, so that watches go on across a restart.
func (s *Store) load() error {
	items := map[string]*item{}
	var changes []*change
	loaded, err := s.engine.Load(func(r engine.Record) error {
		it := items[r.Key]
		if it == nil {
			it = &item{key: r.Key}
			items[r.Key] = it
			name := bucket(r.Key)
			s.unclaimed[name] = append(s.unclaimed[name], it)
		} else if it.head.rev >= r.Revision {
			return fmt.Errorf("record of %s at revision %d follows revision %d", r.Key, r.Revision, it.head.rev)
		}
		v := &version{rev: r.Revision, dead: r.Delete, size: len(r.Value), expires: r.Expires, prev: it.head}
		if !r.Delete {
			v.pending = &undecoded{raw: r.Value}
		}
		changes = append(changes, &change{it: it, cur: v, prev: it.latest()})
		it.head = v
		return nil
	})
	if err != nil {
		return err
	}
	s.identity = loaded.Identity
	s.compaction.begin(loaded, items)
	s.tellTruncated(loaded)
	s.floor = loaded.Complete
	s.past = s.recent(changes)
	// The revision is never 0: clients take 0 for "any".
	s.next = max(loaded.Revision, 1)
	s.floor = min(s.floor, s.next)
	s.durable.Store(s.next)
	s.dispatched.Store(s.next)
	return nil
}

// tellTruncated says what was cut off the log's end, and no more of it than is known.
func (s *Store) tellTruncated(loaded engine.Loaded) {
	switch {
	case loaded.Truncated == 0:
	case loaded.Exact:
		s.log.Warn("cut a write that had not finished off the log; it had not been acknowledged",
			"bytes", loaded.Truncated, "revision", loaded.Revision)
	default:
		s.log.Warn("cut a write that had not finished off the log; it had not been acknowledged, if the disk kept its promises",
			"bytes", loaded.Truncated, "revision", loaded.Revision, "known to be acknowledged", loaded.Known)
	}
}

// recent keeps the history within its bounds and unlinks the versions nobody can ask for.
func (s *Store) recent(changes []*change) []*change {
	now := s.now().Unix()
	first := len(changes)
	var bytes int64
	for first > 0 && len(changes)-first < s.hist.Events {
		ch := changes[first-1]
		if ch.prev != nil {
			bytes += int64(ch.prev.size)
		}
		if ch.cur.rev <= s.floor || bytes > s.hist.Bytes {
			break
		}
		ch.at = now
		first--
	}
	for _, ch := range changes[:first] {
		ch.cur.prev = nil
		s.floor = max(s.floor, ch.cur.rev)
	}
	out := make([]*change, len(changes)-first)
	copy(out, changes[first:])
	return out
}

// adopt moves the items under the collection's prefix, and their history, into it. It needs
// s.collMu held.
func (c *Collection) adopt() {
	s := c.s
	prefix := c.prefix
	var mine []*item
	for name, items := range s.unclaimed {
		switch {
		case strings.HasPrefix(name+"/", prefix):
			mine = append(mine, items...)
			delete(s.unclaimed, name)
		case strings.HasPrefix(prefix, name+"/"):
			var rest []*item
			for _, it := range items {
				if strings.HasPrefix(it.key, prefix) {
					mine = append(mine, it)
				} else {
					rest = append(rest, it)
				}
			}
			s.unclaimed[name] = rest
		}
	}
	c.past.floor = s.floor
	var rest []*change
	for _, ch := range s.past {
		if !strings.HasPrefix(ch.it.key, prefix) {
			rest = append(rest, ch)
			continue
		}
		ch.c = c
		c.past.changes = append(c.past.changes, ch)
		if ch.prev != nil {
			c.past.bytes += int64(ch.prev.size)
		}
	}
	s.past = rest
	live := mine[:0]
	var timed []due
	for _, it := range mine {
		if it.head.dead && it.head.rev <= s.floor {
			continue
		}
		live = append(live, it)
		c.items[it.key] = it
		if e := it.head.expires; e != 0 {
			timed = append(timed, due{c, it.key, it.head.rev, e})
		}
	}
	c.index.build(live)
	s.expiry.add(timed)
}

// newestDurable tells the engine's compaction whether a record is still needed.
func (s *Store) newestDurable(key string, rev int64) bool {
	s.collMu.RLock()
	defer s.collMu.RUnlock()
	for i := 1; i < len(key); i++ {
		if key[i] != '/' {
			continue
		}
		c, ok := s.collections[key[:i]]
		if !ok {
			continue
		}
		c.mu.RLock()
		defer c.mu.RUnlock()
		it := c.items[key]
		if it == nil {
			return false // deleted, and the deletion is past history
		}
		durable := s.durable.Load()
		v := it.head
		for v != nil && v.rev > durable {
			v = v.prev
		}
		return v != nil && v.rev == rev && !v.dead
	}
	return true // of a resource that is not served now: keep all
}
