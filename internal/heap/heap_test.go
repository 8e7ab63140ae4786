package heap

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

type item struct{ rank, at int }

// Whatever is pushed, taken out and ranked anew, the first item is the least.
func TestFirstIsLeast(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := New(func(a, b *item) bool { return a.rank < b.rank }, func(i *item) *int { return &i.at })
		var inside []*item
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			step := rapid.IntRange(0, 3).Draw(rt, "step")
			if len(inside) == 0 {
				step = 0
			}
			which := 0
			if len(inside) > 0 {
				which = rapid.IntRange(0, len(inside)-1).Draw(rt, "which")
			}
			switch step {
			case 0:
				it := &item{rank: rapid.IntRange(0, 20).Draw(rt, "rank")}
				inside = append(inside, it)
				h.Push(it)
			case 1:
				h.Remove(inside[which])
				inside = slices.Delete(inside, which, which+1)
			case 2:
				inside[which].rank = rapid.IntRange(0, 20).Draw(rt, "new rank")
				h.Fix(inside[which])
			case 3:
				it := h.Pop()
				inside = slices.DeleteFunc(inside, func(o *item) bool { return o == it })
				for _, o := range inside {
					if o.rank < it.rank {
						rt.Fatalf("popped %d before %d", it.rank, o.rank)
					}
				}
			}
			if h.Len() != len(inside) {
				rt.Fatalf("%d inside, want %d", h.Len(), len(inside))
			}
			for i, it := range h.All() {
				if it.at != i || h.First().rank > it.rank {
					rt.Fatalf("item %d of rank %d notes %d; the first has rank %d", i, it.rank, it.at, h.First().rank)
				}
			}
		}
	})
}
