package locked

import (
	"sync"
	"testing"
)

// TestDo: changes that several goroutines make at once are all there afterwards, and a panic leaves the value unlocked.
func TestDo(t *testing.T) {
	v := New(map[int]int{})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 100 {
				v.Do(func(m *map[int]int) { (*m)[i]++ })
			}
		})
	}
	all.Wait()
	func() {
		defer func() { _ = recover() }()
		v.Do(func(*map[int]int) { panic("in the middle") })
	}()
	if sum := Get(v, func(m *map[int]int) (sum int) {
		for _, n := range *m {
			sum += n
		}
		return sum
	}); sum != 800 {
		t.Errorf("800 changes were made, and %d are there", sum)
	}
}
