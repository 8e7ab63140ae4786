package order

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

type item struct{ rank, index int }

// Whatever goes in and out, what is left comes in order.
func TestHeapYieldsInOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := New(func(a, b *item) bool { return a.rank < b.rank }, func(i *item) *int { return &i.index })
		var in []*item
		for _, rank := range rapid.SliceOf(rapid.IntRange(0, 20)).Draw(rt, "ranks") {
			it := &item{rank: rank}
			h.Push(it)
			in = append(in, it)
			if rapid.IntRange(0, 2).Draw(rt, "remove") == 0 {
				i := rapid.IntRange(0, len(in)-1).Draw(rt, "which")
				h.Remove(in[i])
				in = slices.Delete(in, i, i+1)
			}
		}
		slices.SortFunc(in, func(a, b *item) int { return a.rank - b.rank })
		for _, want := range in {
			if got := h.Pop(); got.rank != want.rank {
				rt.Fatalf("popped %d, want %d", got.rank, want.rank)
			}
		}
		if h.Len() != 0 {
			rt.Fatalf("%d are left", h.Len())
		}
	})
}
