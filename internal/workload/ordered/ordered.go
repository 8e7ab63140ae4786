// Package ordered keeps items in order and knows their ranks: how many come before an instant or a name, and which
// come next.
//
// It owns a treap (Aragon and Seidel, "Randomized Search Trees", 1989): each change, rank and search costs the
// logarithm of the number of items, and 24 bytes beside the item. Reading changes nothing, so that many may read at
// once. It refuses to know what the items are.
package ordered

import "iter"

// Set holds items that differ. Make one with New.
type Set[T any] struct {
	compare func(a, b T) int
	root    *node[T]
	// drawn is the state of the generator of priorities: the same changes give the same tree.
	drawn uint64
}

type node[T any] struct {
	item        T
	left, right *node[T]
	size        int32
	priority    uint32
}

// New returns an empty set in the order of compare, which must tell any two items apart.
func New[T any](compare func(a, b T) int) *Set[T] { return &Set[T]{compare: compare} }

// Len is the number of items.
func (s *Set[T]) Len() int { return s.root.len() }

func (n *node[T]) len() int {
	if n == nil {
		return 0
	}
	return int(n.size)
}

// Add puts in an item that is not inside.
func (s *Set[T]) Add(item T) {
	less, more := s.split(s.root, item)
	s.root = merge(merge(less, &node[T]{item: item, size: 1, priority: s.draw()}), more)
}

// Remove takes an item out, and says whether it was inside.
func (s *Set[T]) Remove(item T) bool {
	at := &s.root
	for *at != nil {
		switch c := s.compare(item, (*at).item); {
		case c == 0:
			s.shrink(item)
			*at = merge((*at).left, (*at).right)
			return true
		case c < 0:
			at = &(*at).left
		default:
			at = &(*at).right
		}
	}
	return false
}

// shrink counts an item out on the way to it.
func (s *Set[T]) shrink(item T) {
	for n := s.root; ; {
		c := s.compare(item, n.item)
		if c == 0 {
			return
		}
		n.size--
		if c < 0 {
			n = n.left
		} else {
			n = n.right
		}
	}
}

// split parts a tree at an item that is not inside.
func (s *Set[T]) split(n *node[T], item T) (less, more *node[T]) {
	if n == nil {
		return nil, nil
	}
	if s.compare(n.item, item) < 0 {
		n.right, more = s.split(n.right, item)
		n.count()
		return n, more
	}
	less, n.left = s.split(n.left, item)
	n.count()
	return less, n
}

// merge joins two trees, all of the first before all of the second.
func merge[T any](a, b *node[T]) *node[T] {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		a.right = merge(a.right, b)
		a.count()
		return a
	}
	b.left = merge(a, b.left)
	b.count()
	return b
}

func (n *node[T]) count() { n.size = int32(1 + n.left.len() + n.right.len()) }

// draw is SplitMix64 (Steele, Lea and Flood, 2014).
func (s *Set[T]) draw() uint32 {
	s.drawn += 0x9e3779b97f4a7c15
	z := s.drawn
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return uint32((z ^ z>>31) >> 32)
}

// Before counts the items for which holds is true. It must be true of the first items in order, and of no other.
func (s *Set[T]) Before(holds func(T) bool) int {
	rank := 0
	for n := s.root; n != nil; {
		if holds(n.item) {
			rank += 1 + n.left.len()
			n = n.right
		} else {
			n = n.left
		}
	}
	return rank
}

// All returns the items in order, from the first for which skip is not true; nil skips none. Skip must be true of the
// first items in order, and of no other.
func (s *Set[T]) All(skip func(T) bool) iter.Seq[T] {
	return func(yield func(T) bool) { s.root.walk(skip, yield) }
}

func (n *node[T]) walk(skip, yield func(T) bool) bool {
	if n == nil {
		return true
	}
	if skip != nil && skip(n.item) {
		return n.right.walk(skip, yield)
	}
	return n.left.walk(skip, yield) && yield(n.item) && n.right.walk(nil, yield)
}

// Back returns the items in the opposite order.
func (s *Set[T]) Back() iter.Seq[T] {
	return func(yield func(T) bool) { s.root.back(yield) }
}

func (n *node[T]) back(yield func(T) bool) bool {
	return n == nil || n.right.back(yield) && yield(n.item) && n.left.back(yield)
}

// First returns the first item for which skip is not true, as All does; false when there is none.
func (s *Set[T]) First(skip func(T) bool) (first T, found bool) {
	for item := range s.All(skip) {
		return item, true
	}
	return first, false
}
