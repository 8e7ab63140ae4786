package ordered_test

import (
	"cmp"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"coracle/internal/workload/ordered"
)

// TestSet: after any changes the set holds what a sorted slice does, in the same order and with the same ranks.
func TestSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, model := ordered.New(cmp.Compare[int]), []int{}
		for range rapid.IntRange(0, 60).Draw(t, "changes") {
			item := rapid.IntRange(0, 30).Draw(t, "item")
			at, inside := slices.BinarySearch(model, item)
			switch {
			case !inside:
				set.Add(item)
				model = slices.Insert(model, at, item)
			case !set.Remove(item):
				t.Fatalf("%d is not inside", item)
			default:
				model = slices.Delete(model, at, at+1)
			}
		}
		bound := rapid.IntRange(-1, 31).Draw(t, "bound")
		below := func(i int) bool { return i < bound }
		rank, _ := slices.BinarySearch(model, bound)
		if set.Len() != len(model) || set.Before(below) != rank {
			t.Fatalf("%d items, %d of them below %d; want %d, %d", set.Len(), set.Before(below), bound, len(model), rank)
		}
		if got := slices.AppendSeq([]int{}, set.All(nil)); !slices.Equal(got, model) {
			t.Fatalf("%v, want %v", got, model)
		}
		if got := slices.AppendSeq([]int{}, set.All(below)); !slices.Equal(got, model[rank:]) {
			t.Fatalf("from %d: %v, want %v", bound, got, model[rank:])
		}
		if first, found := set.First(below); found != (rank < len(model)) || found && first != model[rank] {
			t.Fatalf("the first from %d is %d, %v; all are %v", bound, first, found, model)
		}
		if !slices.Contains(model, bound) && set.Remove(bound) {
			t.Fatalf("%d was removed, but was not inside", bound)
		}
	})
}

// BenchmarkChange takes an item out of a set and puts it in again.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			set := ordered.New(cmp.Compare[int])
			for i := range n {
				set.Add(i)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				set.Remove(i % n)
				set.Add(i % n)
				i += 7919
			}
		})
	}
}
