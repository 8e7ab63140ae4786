// Package heap keeps items in the order in which they are wanted, the first always at hand, and
// finds each in its place again, so that one whose rank changes can be taken out.
//
// It owns the order of a set and nothing else. It refuses to know what the items are: they lend
// it a comparison and, where they are to be found again, a place to note their position.
package heap

// Heap holds items in order. Make one with New.
type Heap[T any] struct {
	items []T
	// before is a total order; at is where an item notes its position, -1 outside. It may be nil.
	before func(a, b T) bool
	at     func(T) *int
}

// New returns an empty heap in the given order. at is where an item's position is noted, -1 once it is outside again: the
// heap alone writes it while the item is inside. Without it items cannot be taken out of the middle or ranked anew.
func New[T any](before func(a, b T) bool, at func(T) *int) *Heap[T] {
	return &Heap[T]{before: before, at: at}
}

// Len is the number of items.
func (h *Heap[T]) Len() int { return len(h.items) }

// First is the first item; there must be one.
func (h *Heap[T]) First() T { return h.items[0] }

// All is every item, the first one first and the others in no order; it is the heap's own.
func (h *Heap[T]) All() []T { return h.items }

// Push adds an item.
func (h *Heap[T]) Push(item T) {
	h.items = append(h.items, item)
	h.note(len(h.items) - 1)
	h.up(len(h.items) - 1)
}

// Pop takes the first item out; there must be one.
func (h *Heap[T]) Pop() T {
	return h.remove(0)
}

// Remove takes out an item that is inside.
func (h *Heap[T]) Remove(item T) { h.remove(*h.at(item)) }

func (h *Heap[T]) remove(i int) T {
	item, last := h.items[i], len(h.items)-1
	h.swap(i, last)
	var none T
	h.items[last] = none
	h.items = h.items[:last]
	if h.at != nil {
		*h.at(item) = -1
	}
	if i < last {
		h.fix(i)
	}
	return item
}

// Fix restores the order after an item's rank changed.
func (h *Heap[T]) Fix(item T) { h.fix(*h.at(item)) }

func (h *Heap[T]) fix(i int) {
	if !h.down(i) {
		h.up(i)
	}
}

func (h *Heap[T]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.before(h.items[i], h.items[parent]) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

// down says whether the item moved.
func (h *Heap[T]) down(i int) bool {
	start := i
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			break
		}
		if right := child + 1; right < len(h.items) && h.before(h.items[right], h.items[child]) {
			child = right
		}
		if !h.before(h.items[child], h.items[i]) {
			break
		}
		h.swap(i, child)
		i = child
	}
	return i > start
}

func (h *Heap[T]) swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.note(i)
	h.note(j)
}

func (h *Heap[T]) note(i int) {
	if h.at != nil {
		*h.at(h.items[i]) = i
	}
}
