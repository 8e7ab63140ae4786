package bounds

import "bytes"

// JSON weighs a body that is JSON or claims to be. It does not say whether it is well formed: that is the decoder's,
// which stops where this would have gone on counting. It returns at the first level too many.
//
// A value is counted by the comma before it or by the opening of the list or object that it is the first of, so
// that an empty list counts as if it had one. The objects of an outermost list are the operations of a JSON patch,
// which have a bound of their own, and no items.
func JSON(body []byte) Weight {
	var w Weight
	var open levels
	for i := 0; i < len(body); i++ {
		switch c := body[i]; c {
		case '"':
			i = endOfString(body, i)
		case ',':
			w.Values++
			if open.inList() {
				w.Elements++
			}
		case '{', '[':
			w.Values++
			if c == '[' {
				w.Elements++
			} else if open.depth > 1 && open.inList() {
				w.Items++
			}
			if open.depth == Depth {
				w.Depth = Depth + 1
				return w
			}
			open.push(c == '[')
			w.Depth = max(w.Depth, open.depth)
		case '}', ']':
			open.depth = max(open.depth-1, 0)
		}
	}
	return w
}

// levels remembers which of the open levels are lists.
type levels struct {
	depth int
	lists [Depth/64 + 1]uint64
}

func (l *levels) push(list bool) {
	word, bit := &l.lists[l.depth/64], uint64(1)<<(l.depth%64)
	*word &^= bit
	if list {
		*word |= bit
	}
	l.depth++
}

func (l *levels) inList() bool {
	return l.depth > 0 && l.lists[(l.depth-1)/64]&(1<<((l.depth-1)%64)) != 0
}

// endOfString returns the place of the quote that ends the string that begins at i, or of the last byte.
func endOfString(body []byte, i int) int {
	for i++; i < len(body); {
		n := bytes.IndexByte(body[i:], '"')
		if n < 0 {
			return len(body) - 1
		}
		i += n
		escapes := 0
		for body[i-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return i
		}
		i++
	}
	return len(body) - 1
}
