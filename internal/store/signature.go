package store

import (
	"hash/maphash"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
)

// signature is a small set of labels: a Bloom filter of one word, in which each label has two bits. A list by labels
// asks it before it looks at an object, which is several places in memory away, because most objects are not what
// most lists look for.
type signature uint64

// anything is the signature of what is not known.
const anything = ^signature(0)

var labelSeed = maphash.MakeSeed()

// labelBits returns the bits of a label.
func labelBits(key, value string) signature {
	var h maphash.Hash
	h.SetSeed(labelSeed)
	_, _ = h.WriteString(key) // it cannot fail
	_ = h.WriteByte('=')      // as above
	_, _ = h.WriteString(value)
	sum := h.Sum64()
	return 1<<(sum&63) | 1<<(sum>>6&63)
}

// signatureOf returns the signature of an object.
func signatureOf(obj runtime.Object) signature {
	m, err := meta.Accessor(obj)
	if err != nil {
		return anything
	}
	var s signature
	for key, value := range m.GetLabels() {
		s |= labelBits(key, value)
	}
	return s
}

// required returns the bits that all objects have which a selector selects; none if that cannot be said.
func required(sel labels.Selector) signature {
	if sel == nil {
		return 0
	}
	var s signature
	requirements, _ := sel.Requirements()
	for _, r := range requirements {
		switch r.Operator() {
		case selection.Equals, selection.DoubleEquals, selection.In:
			if values := r.ValuesUnsorted(); len(values) == 1 {
				s |= labelBits(r.Key(), values[0])
			}
		}
	}
	return s
}

// mayHave says whether a version may have all labels of a signature.
func (v *version) mayHave(s signature) bool {
	have := v.labels
	if u := v.pending; u != nil {
		have = anything
		if u.done.Load() {
			have = u.labels
		}
	}
	return have&s == s
}
