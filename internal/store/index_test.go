package store

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestKeyIndex compares the index with a sorted slice.
func TestKeyIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x keyIndex
		var want []string
		if n := rapid.IntRange(0, 3000).Draw(t, "built"); n > 0 {
			var items []*item
			for i := range n {
				items = append(items, &item{key: fmt.Sprintf("/k/%05d", (i*7919)%100_000)})
			}
			for _, it := range items {
				want = append(want, it.key)
			}
			slices.Sort(want)
			x.build(items)
		}
		ascending := rapid.Bool().Draw(t, "ascending")
		for i := range rapid.IntRange(0, 3000).Draw(t, "inserted") {
			key := fmt.Sprintf("/k/%05d/x", (i*104729)%100_000)
			if ascending {
				key = fmt.Sprintf("/l/%05d", i)
			}
			at, there := slices.BinarySearch(want, key)
			if !there {
				want = slices.Insert(want, at, key)
				x.insert(&item{key: key})
			}
		}
		for range rapid.IntRange(0, 500).Draw(t, "removed") {
			if len(want) == 0 {
				break
			}
			at := rapid.IntRange(0, len(want)-1).Draw(t, "at")
			x.remove(want[at])
			want = slices.Delete(want, at, at+1)
		}
		x.remove("/none")
		var got []string
		x.ascend("", func(it *item) bool { got = append(got, it.key); return true })
		if !slices.Equal(want, got) || x.size != len(want) {
			t.Fatalf("index of %d keys (says %d) differs from the %d wanted", len(got), x.size, len(want))
		}
		from := rapid.SampledFrom([]string{"", "/k/", "/k/05", "/k/50000", "/l/", "/z"}).Draw(t, "from")
		to := rapid.SampledFrom([]string{"", "/k/2", "/k/50001", "/l/00100", "/zz"}).Draw(t, "to")
		a, _ := slices.BinarySearch(want, from)
		b, _ := slices.BinarySearch(want, to)
		if n := x.count(from, to); n != max(b-a, 0) {
			t.Fatalf("count of [%s, %s) is %d, want %d", from, to, n, max(b-a, 0))
		}
		for _, c := range x.chunks {
			if len(c) == 0 || len(c) > chunkMax {
				t.Fatalf("chunk of %d", len(c))
			}
		}
	})
}

func TestPrefixEnd(t *testing.T) {
	for prefix, want := range map[string]string{"/pods/": "/pods0", "a\xff": "b", "\xff\xff": "\xff\xff\xff\xff"} {
		if got := prefixEnd(prefix); got != want {
			t.Errorf("prefixEnd(%q) = %q, want %q", prefix, got, want)
		}
	}
}

func TestBucket(t *testing.T) {
	for key, want := range map[string]string{
		"/pods/ns/name": "/pods/ns", "/nodes/n": "/nodes", "/apps/deployments/ns/n": "/apps/deployments", "/x": "/x",
	} {
		if got := bucket(key); got != want {
			t.Errorf("bucket(%q) = %q, want %q", key, got, want)
		}
	}
}
