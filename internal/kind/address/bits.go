package address

import "math/bits"

// bitmap is a set of small numbers.
type bitmap []uint64

func newBitmap(size int) bitmap { return make(bitmap, (size+63)/64) }

func (b bitmap) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }
func (b bitmap) add(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitmap) remove(i int)   { b[i/64] &^= 1 << (i % 64) }

// free returns the first number in [from, to) that is not in the set.
func (b bitmap) free(from, to int) (int, bool) {
	for i := from; i < to; {
		open := ^b[i/64] >> (i % 64)
		if open == 0 {
			i = (i/64 + 1) * 64
			continue
		}
		i += bits.TrailingZeros64(open)
		return i, i < to
	}
	return 0, false
}
