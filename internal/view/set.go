package view

import (
	"slices"
	"strings"
	"sync"

	"coracle/internal/object"
)

// set is a bag of objects that reads in order of namespace and name. Writes are noted and merged
// by the next read, so that a burst of changes to a large set costs one merge, and a read after
// no change costs nothing. A slice that was lent to a reader is never written again.
type set struct {
	// mu orders readers that merge; writers are alone already, by the view's own lock.
	mu      sync.Mutex
	items   []object.Object
	pending []change
	lent    bool
	members int
	// hoards, when set, puts the merge off however much is noted: see table.settle.
	hoards *bool
}

// change is a noted write; a nil object is a removal.
type change struct {
	key object.Key
	obj object.Object
}

// Writes that a set notes before it merges on its own, so that a set nobody reads does not keep
// old versions of objects alive: a few, and an eighth of its size.
const (
	pendingFloor = 16
	pendingShare = 8
)

func newSet(t *table) *set { return &set{hoards: &t.bulk} }

func compareKeys(a, b object.Key) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

func find(items []object.Object, k object.Key) (int, bool) {
	return slices.BinarySearchFunc(items, k, func(o object.Object, k object.Key) int {
		return compareKeys(object.KeyOf(o), k)
	})
}

// put files obj under k; member says whether k was in the set already.
func (s *set) put(k object.Key, obj object.Object, member bool) {
	if !member {
		s.members++
		if n := len(s.items); len(s.pending) == 0 && (n == 0 || compareKeys(object.KeyOf(s.items[n-1]), k) < 0) {
			// The usual case in a list. What was lent ends before the new last item.
			s.items = append(s.items, obj)
			return
		}
	} else if !s.lent && len(s.pending) == 0 {
		if i, ok := find(s.items, k); ok {
			s.items[i] = obj
			return
		}
	}
	s.note(change{k, obj})
}

// remove takes the member k out and says whether the set is now empty.
func (s *set) remove(k object.Key) (empty bool) {
	s.members--
	if s.members == 0 {
		s.items, s.pending, s.lent = nil, nil, false
		return true
	}
	s.note(change{k, nil})
	return false
}

func (s *set) note(c change) {
	s.pending = append(s.pending, c)
	if len(s.pending) > pendingFloor+len(s.items)/pendingShare && !*s.hoards {
		s.merge()
	}
}

// list returns the members in order. The slice is the caller's to read, for ever.
func (s *set) list() []object.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) > 0 {
		s.merge()
	}
	s.lent = true
	return s.items[:len(s.items):len(s.items)]
}

func (s *set) merge() {
	slices.SortStableFunc(s.pending, func(a, b change) int { return compareKeys(a.key, b.key) })
	out := make([]object.Object, 0, s.members)
	rest := s.items
	for i, c := range s.pending {
		if i+1 < len(s.pending) && s.pending[i+1].key == c.key {
			continue // a later write to the same key
		}
		at, found := find(rest, c.key)
		out = append(out, rest[:at]...)
		if found {
			at++
		}
		if c.obj != nil {
			out = append(out, c.obj)
		}
		rest = rest[at:]
	}
	s.items = append(out, rest...)
	clear(s.pending)
	s.pending = s.pending[:0]
	if cap(s.pending) > 4*pendingFloor {
		s.pending = nil
	}
	s.lent = false
}
