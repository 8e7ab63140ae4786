package store

import (
	"slices"
	"sort"
	"strings"
)

// chunkMax bounds a chunk: an insertion moves at most this many pointers.
const chunkMax = 512

// keyIndex is an ordered set of items in chunks of bounded size. Beside order it answers how
// many keys lie in a range in time proportional to the number of chunks, which a plain B-tree
// does not. It is not safe for concurrent use.
type keyIndex struct {
	chunks [][]*item
	size   int
}

// locate returns the chunk and the position of the first item with a key not less than key.
func (x *keyIndex) locate(key string) (chunk, pos int) {
	chunk = sort.Search(len(x.chunks), func(i int) bool {
		c := x.chunks[i]
		return c[len(c)-1].key >= key
	})
	if chunk == len(x.chunks) {
		return chunk, 0
	}
	pos, _ = slices.BinarySearchFunc(x.chunks[chunk], key, func(it *item, key string) int {
		return strings.Compare(it.key, key)
	})
	return chunk, pos
}

func (x *keyIndex) insert(it *item) {
	x.size++
	if len(x.chunks) == 0 {
		x.chunks = append(x.chunks, append(make([]*item, 0, 16), it))
		return
	}
	chunk, pos := x.locate(it.key)
	if chunk == len(x.chunks) {
		chunk--
		pos = len(x.chunks[chunk])
	}
	c := x.chunks[chunk]
	if len(c) < chunkMax {
		x.chunks[chunk] = slices.Insert(c, pos, it)
		return
	}
	// Keys made in ascending order would leave half-empty chunks behind: cut at the end then.
	cut := chunkMax / 2
	if pos == len(c) && chunk == len(x.chunks)-1 {
		cut = pos
	}
	right := append(make([]*item, 0, chunkMax), c[cut:]...)
	clear(c[cut:])
	left := c[:cut]
	if pos <= cut && pos < chunkMax {
		left = slices.Insert(left, pos, it)
	} else {
		right = slices.Insert(right, pos-cut, it)
	}
	x.chunks[chunk] = left
	x.chunks = slices.Insert(x.chunks, chunk+1, right)
}

func (x *keyIndex) remove(key string) {
	chunk, pos := x.locate(key)
	if chunk == len(x.chunks) || pos == len(x.chunks[chunk]) || x.chunks[chunk][pos].key != key {
		return
	}
	x.size--
	x.chunks[chunk] = slices.Delete(x.chunks[chunk], pos, pos+1)
	if len(x.chunks[chunk]) == 0 {
		x.chunks = slices.Delete(x.chunks, chunk, chunk+1)
	}
}

// build fills an empty index from items in any order.
func (x *keyIndex) build(items []*item) {
	slices.SortFunc(items, func(a, b *item) int { return strings.Compare(a.key, b.key) })
	x.size = len(items)
	x.chunks = nil
	for part := range slices.Chunk(items, chunkMax*3/4) {
		x.chunks = append(x.chunks, append(make([]*item, 0, chunkMax), part...))
	}
}

// ascend calls fn for the items from key on, in order, until it returns false.
func (x *keyIndex) ascend(from string, fn func(*item) bool) {
	chunk, pos := x.locate(from)
	for ; chunk < len(x.chunks); chunk++ {
		for _, it := range x.chunks[chunk][pos:] {
			if !fn(it) {
				return
			}
		}
		pos = 0
	}
}

// count returns the number of keys in [from, to).
func (x *keyIndex) count(from, to string) int {
	fromChunk, fromPos := x.locate(from)
	toChunk, toPos := x.locate(to)
	if fromChunk > toChunk || fromChunk == toChunk && fromPos >= toPos {
		return 0
	}
	n := toPos - fromPos
	for _, c := range x.chunks[fromChunk:toChunk] {
		n += len(c)
	}
	return n
}

// prefixEnd returns the least string greater than every string that starts with prefix.
func prefixEnd(prefix string) string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			return prefix[:i] + string([]byte{prefix[i] + 1})
		}
	}
	return "\xff\xff\xff\xff"
}
