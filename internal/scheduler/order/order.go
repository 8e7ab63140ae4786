// Package order holds a heap whose items know their place in it, so that any of them can be taken
// out. The scheduler's queue and its classes of nodes are kept in such heaps.
//
// It owns the shape alone. It refuses to know what it orders.
package order

import "container/heap"

// Heap yields the first of its items by less. at points to where an item keeps its index. It is
// not safe for concurrent use.
type Heap[T any] struct{ in inner[T] }

// New returns an empty heap.
func New[T any](less func(a, b T) bool, at func(T) *int) Heap[T] {
	return Heap[T]{inner[T]{less: less, at: at}}
}

// Len returns the number of items.
func (h *Heap[T]) Len() int { return len(h.in.items) }

// First returns the first item; the heap must not be empty.
func (h *Heap[T]) First() T { return h.in.items[0] }

// Items returns all items in no useful order; the caller must not change the slice.
func (h *Heap[T]) Items() []T { return h.in.items }

// Push adds an item.
func (h *Heap[T]) Push(x T) { heap.Push(&h.in, x) }

// Pop takes out the first item; the heap must not be empty.
func (h *Heap[T]) Pop() T { return heap.Pop(&h.in).(T) }

// Remove takes out an item that is in the heap.
func (h *Heap[T]) Remove(x T) { heap.Remove(&h.in, *h.in.at(x)) }

type inner[T any] struct {
	items []T
	less  func(a, b T) bool
	at    func(T) *int
}

func (h *inner[T]) Len() int           { return len(h.items) }
func (h *inner[T]) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }

func (h *inner[T]) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	*h.at(h.items[i]), *h.at(h.items[j]) = i, j
}

func (h *inner[T]) Push(x any) {
	item := x.(T)
	*h.at(item) = len(h.items)
	h.items = append(h.items, item)
}

func (h *inner[T]) Pop() any {
	last := len(h.items) - 1
	item := h.items[last]
	var zero T
	h.items[last] = zero
	h.items = h.items[:last]
	return item
}
