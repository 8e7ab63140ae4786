package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Loader makes a Table of what the kernel holds, element by element.
type Loader struct {
	table   *Table
	hairpin map[Address]bool
	chains  map[Number]Class
}

// NewLoader begins.
func NewLoader(f Family, pods netip.Prefix) *Loader {
	return &Loader{table: NewTable(f, pods), hairpin: map[Address]bool{}, chains: map[Number]Class{}}
}

// Loaded are the sets to be read, in this order: what a class is before who is of it, and a destination before what belongs
// to it.
var Loaded = []Set{Classes, Services, Endpoints, ServicesOutside, EndpointsOutside, Masquerade, Hairpin, Sources, SourcesOutside}

var errForeign = errors.New("an element that is not ours")

// Element takes one that is in a set.
func (l *Loader) Element(set Set, key, end, data []byte, chain string) error {
	switch set {
	case Classes:
		n, err := parseNumber(key)
		if err != nil || n < firstNumber {
			return err // one of those that are there always
		}
		l.chains[n], err = parseChain(chain)
		return err
	case Hairpin:
		n := l.table.family.Size()
		if len(key) != 2*n || !bytes.Equal(key[:n], key[n:]) {
			return errForeign
		}
		var a Address
		copy(a[:], key[:n])
		l.hairpin[a] = true
		return nil
	}
	d, rest, err := l.table.family.parseDestination(key)
	if err != nil {
		return err
	}
	d.Outside = set == ServicesOutside || set == EndpointsOutside || set == SourcesOutside
	if set == d.services() {
		return l.service(d, data)
	}
	e := l.table.routes[d]
	if e == nil {
		return fmt.Errorf("%s: of a destination that is not in %s: %w", set, Services, errForeign)
	}
	return l.belonging(set, e, rest, end, data)
}

func (l *Loader) service(d Destination, data []byte) error {
	n, err := parseNumber(data)
	if err != nil {
		return err
	}
	c, known := l.chains[n]
	switch {
	case known:
		l.table.classes[c]++
	case n == Dropped:
		c.Drop = true
	case n != Refused:
		return fmt.Errorf("%s: class %d has no chain: %w", Services, n, errForeign)
	}
	l.table.routes[d] = &entry{class: c, order: make([]Endpoint, c.Endpoints)}
	return nil
}

func (l *Loader) belonging(set Set, e *entry, rest, end, data []byte) error {
	switch set {
	case Masquerade:
		e.masquerade = true
	case Endpoints, EndpointsOutside:
		ep, err := l.table.family.parseEndpoint(data)
		if err != nil {
			return err
		}
		if len(rest) != 4 {
			return errForeign
		}
		n := binary.NativeEndian.Uint32(rest)
		if n >= uint32(len(e.order)) {
			return fmt.Errorf("%s: a number beyond what its class has: %w", set, errForeign)
		}
		e.order[n] = ep
	case Sources, SourcesOutside:
		f := l.table.family
		if len(rest) != f.Size() || len(end) != f.destinationSize()+f.Size() {
			return errForeign
		}
		p, ok := f.rangeOf(rest, end[f.destinationSize():])
		if !ok {
			return errForeign
		}
		e.sources = append(e.sources, p)
	}
	return nil
}

// rangeOf is the range between two addresses.
func (f Family) rangeOf(from, to []byte) (netip.Prefix, bool) {
	at, _ := netip.AddrFromSlice(from)
	for bits := 0; bits <= 8*f.Size(); bits++ {
		p := netip.PrefixFrom(at, bits)
		_, last := f.appendRange(nil, p)
		if p.Masked() == p && bytes.Equal(last, to) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Table returns the table, if what was read hangs together. What only depends on the rest is emitted where it is not right.
func (l *Loader) Table(to Emitter) (*Table, error) {
	t := l.table
	for _, e := range t.routes {
		for _, ep := range e.order {
			if ep.Port == 0 {
				return nil, errors.New("an endpoint is missing")
			}
			if t.pods.Contains(t.family.Addr(ep.Address)) {
				t.hairpin[ep.Address]++
			}
		}
	}
	for n, c := range l.chains {
		if t.classes[c] == 0 || t.numbers[c] != 0 || n < firstNumber {
			return nil, fmt.Errorf("class %s is of no destination, or has two numbers", c.Chain())
		}
		t.numbers[c], t.next = n, max(t.next, n+1)
	}
	for a := range l.hairpin {
		if t.hairpin[a] == 0 {
			to.Element(Op{Set: Hairpin, Delete: true, Key: t.family.pair(nil, a)})
		}
	}
	for a := range t.hairpin {
		if !l.hairpin[a] {
			to.Element(Op{Set: Hairpin, Key: t.family.pair(nil, a)})
		}
	}
	return t, nil
}

// ParseSticky reads an element of StickySet: of which destination a client stays with which endpoint.
func (f Family) ParseSticky(key, data []byte) (d Destination, to Endpoint, err error) {
	if len(key) != f.Size()+f.destinationSize() {
		return d, to, errForeign
	}
	if d, _, err = f.parseDestination(key[f.Size():]); err != nil {
		return d, to, err
	}
	to, err = f.parseEndpoint(data)
	return d, to, err
}
