package managed

import (
	"bytes"
	"hash/maphash"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Lists of addresses and of owners have keys of which nearly every object has its own: a pod's IP, the
// UID of its ReplicaSet. In field sets such a key stands in full, so that no two pods would ever have
// the same question to ask. Where such a list has one key, before and after the write together, the key
// is a literal: the question is asked, and its answer remembered, with a mark in its place. What owns
// a field does not depend on what the key is called, and with one key there is no order among keys.

// ownKeys are the keys that objects have of their own.
var ownKeys = []string{"ip", "uid"}

// literal is such a key as field sets spell it, quotes escaped.
type literal []byte

func literalOf(key, value string) literal {
	return literal(`k:{\"` + key + `\":\"` + value + `\"}`)
}

// plain says whether a value is spelt in JSON as it is.
func plain(value string) bool {
	for i := range len(value) {
		c := value[i]
		if c != '-' && c != '.' && c != ':' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return value != ""
}

// mark notes a literal and returns what stands for it in paths. Literals that are spelt alike get the
// same mark, since field sets cannot tell them apart.
func (d *diff) mark(key, value string) uint64 {
	l := literalOf(key, value)
	at := slices.IndexFunc(d.literals, func(o literal) bool { return bytes.Equal(o, l) })
	if at < 0 {
		at = len(d.literals)
		d.literals = append(d.literals, l)
	}
	return mix(0x6c69746572616c, uint64(at)) // far from any hash of a real key
}

var keyStart = []byte("k:{")

// nextLiteral finds the first of the literals in raw.
func nextLiteral(raw []byte, literals []literal) (at, which int) {
	for from := 0; ; {
		at := bytes.Index(raw[from:], keyStart)
		if at < 0 {
			return -1, -1
		}
		at += from
		for i, l := range literals {
			if bytes.HasPrefix(raw[at:], l) {
				return at, i
			}
		}
		from = at + len(keyStart)
	}
}

// hashMarked hashes a field set with marks in the place of literals.
func hashMarked(raw []byte, literals []literal) uint64 {
	if len(literals) == 0 {
		return maphash.Bytes(seed, raw)
	}
	var h maphash.Hash
	h.SetSeed(seed)
	for {
		at, which := nextLiteral(raw, literals)
		if at < 0 {
			h.Write(raw)
			return h.Sum64()
		}
		h.Write(raw[:at])
		h.Write([]byte{0, byte(which)})
		raw = raw[at+len(literals[which]):]
	}
}

// form is a field set with holes for literals: piece, hole, piece, and so on.
type form struct {
	pieces [][]byte
	holes  []int
	size   int
}

// formOf cuts the literals out of a field set; nil when there are none in it.
func formOf(raw []byte, literals []literal) *form {
	f := &form{}
	for rest := raw; ; {
		at, which := nextLiteral(rest, literals)
		if at < 0 {
			f.pieces = append(f.pieces, bytes.Clone(rest))
			break
		}
		f.pieces = append(f.pieces, bytes.Clone(rest[:at]))
		f.holes = append(f.holes, which)
		rest = rest[at+len(literals[which]):]
	}
	if len(f.holes) == 0 {
		return nil
	}
	for _, p := range f.pieces {
		f.size += len(p)
	}
	return f
}

// fill puts literals into the holes.
func (f *form) fill(literals []literal) *metav1.FieldsV1 {
	size := f.size
	for _, which := range f.holes {
		size += len(literals[which])
	}
	raw := append(make([]byte, 0, size), f.pieces[0]...)
	for i, which := range f.holes {
		raw = append(append(raw, literals[which]...), f.pieces[i+1]...)
	}
	return &metav1.FieldsV1{Raw: raw}
}
