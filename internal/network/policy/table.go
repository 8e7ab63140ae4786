package policy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Table is what a kernel looks connections up in. A packet that begins a connection is looked up in the members of Egress by
// its source and in those of Ingress by its destination, after services have been resolved. While there is any policy every
// pod of the node is a member; those that none selects are under a chain that allows everything.
type Table struct {
	Sets    map[string]Set
	Chains  map[string]Chain
	Members map[Member]string // the chain's name
}

// Member is a governed address.
type Member struct {
	Direction Direction
	Addr      netip.Addr
}

// Shape is what the elements of a set are.
type Shape uint8

// The shapes of sets.
const (
	Addresses Shape = iota // single addresses: First is Last
	Ranges                 // ranges of addresses that do not overlap
	Endpoints              // an address and a port each
)

// Element is one of a set.
type Element struct {
	First, Last netip.Addr
	Port        uint16
}

// Set holds the far ends of rules.
type Set struct {
	Shape    Shape
	Elements map[Element]bool
}

// Chain is a list of rules, shared by all pods for which it is the same. What none allows is dropped.
type Chain []Allow

// Allow is a rule: it holds for packets whose far end is in the set, at these ports.
type Allow struct {
	// Set names it; empty is everybody. Of a set of Endpoints the connection's target and port must be an element.
	Set string
	// Ports is nil for all, of all protocols. For Endpoints it names the protocol alone.
	Ports *Ports
}

// Delta is what has changed of a table. It is carried out in this order: sets and their elements, chains, members, and last
// of all the removal of chains and sets, which nothing refers to then.
type Delta struct {
	Sets    []SetChange
	Chains  map[string]Chain
	Members map[Member]string // empty: no longer a member
	// GoneChains and GoneSets are names.
	GoneChains, GoneSets []string
}

// Empty says that nothing has changed.
func (d *Delta) Empty() bool {
	return len(d.Sets)+len(d.Chains)+len(d.Members)+len(d.GoneChains)+len(d.GoneSets) == 0
}

// SetChange is of one set. New sets begin empty.
type SetChange struct {
	Name   string
	Shape  Shape
	New    bool
	Add    []Element
	Remove []Element
}

// ranges returns a block without its exceptions, as ranges in order. Of an alias it has both addresses or none.
func (b *block) ranges(aliases []Alias) []Element {
	if !b.cidr.IsValid() {
		return nil
	}
	out := []Element{span(b.cidr)}
	for _, e := range b.except {
		if e.Addr().BitLen() == b.cidr.Addr().BitLen() {
			out = without(out, span(e))
		}
	}
	for _, a := range aliases {
		one := Element{First: a.Real, Last: a.Real}
		out = without(out, one)
		if b.holds(a.Shown) {
			out = append(out, one)
		}
	}
	slices.SortFunc(out, order)
	return out
}

func span(p netip.Prefix) Element {
	last := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	to, _ := netip.AddrFromSlice(last)
	return Element{First: p.Masked().Addr(), Last: to}
}

func without(in []Element, hole Element) []Element {
	var out []Element
	for _, e := range in {
		if e.Last.Less(hole.First) || hole.Last.Less(e.First) {
			out = append(out, e)
			continue
		}
		if e.First.Less(hole.First) {
			out = append(out, Element{First: e.First, Last: hole.First.Prev()})
		}
		if hole.Last.Less(e.Last) {
			out = append(out, Element{First: hole.Last.Next(), Last: e.Last})
		}
	}
	return out
}

// endpoints returns the addresses of a pod, with each port that it calls by the name.
func (p *pod) endpoints(name string, protocol corev1.Protocol) []Element {
	var out []Element
	for _, n := range p.numbers(name, protocol) {
		for _, a := range p.addrs {
			out = append(out, Element{a, a, n})
		}
	}
	return out
}

func (p *pod) addresses() []Element {
	var out []Element
	for _, a := range p.addrs {
		out = append(out, Element{First: a, Last: a})
	}
	return out
}
