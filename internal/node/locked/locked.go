// Package locked keeps a value that several goroutines change behind the one lock that guards it: whoever has a pointer to
// the value holds the lock, so that no method of it needs to say so. It refuses to give the value out in any other way.
package locked

import "sync"

// Value is a value and its lock. Its zero value holds the zero value.
type Value[T any] struct {
	mu    sync.Mutex
	value T
}

// New holds a value.
func New[T any](value T) *Value[T] { return &Value[T]{value: value} }

// Do calls f with the value while nobody else has it. f may neither keep the pointer nor ask for the value again.
func (v *Value[T]) Do(f func(*T)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(&v.value)
}

// Get returns what f finds in the value, on the terms of Do.
func Get[T, R any](v *Value[T], f func(*T) R) R {
	v.mu.Lock()
	defer v.mu.Unlock()
	return f(&v.value)
}
