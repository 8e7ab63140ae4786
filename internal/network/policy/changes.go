package policy

import (
	"slices"
	"strings"
)

// changes remembers how what has been touched was when the last delta was taken.
type changes struct {
	sets     map[string]bool // whether it was there
	elements map[string]map[Element]bool
	chains   map[string]bool
	members  map[Member]string
}

func newChanges() changes {
	return changes{map[string]bool{}, map[string]map[Element]bool{}, map[string]bool{}, map[Member]string{}}
}

func first[K comparable, V any](m map[K]V, k K, was V) {
	if _, known := m[k]; !known {
		m[k] = was
	}
}

func (c *changes) set(id string, was bool)     { first(c.sets, id, was) }
func (c *changes) chain(name string, was bool) { first(c.chains, name, was) }
func (c *changes) member(m Member, was string) { first(c.members, m, was) }
func (c *changes) element(id string, e Element, was bool) {
	if c.elements[id] == nil {
		c.elements[id] = map[Element]bool{}
	}
	first(c.elements[id], e, was)
}

// Take returns what has changed since it was called last.
func (b *Book) Take() Delta {
	t := b.touched
	b.touched = newChanges()
	d := Delta{Chains: map[string]Chain{}, Members: map[Member]string{}}
	for id, was := range t.sets {
		switch s := b.sets[id]; {
		case s == nil && was:
			d.GoneSets = append(d.GoneSets, id)
		case s != nil && !was:
			d.Sets = append(d.Sets, s.change(id, nil))
		}
	}
	for id, before := range t.elements {
		s := b.sets[id]
		was, touched := t.sets[id]
		if s == nil || touched && !was {
			continue // gone, or told whole
		}
		if c := s.change(id, before); len(c.Add)+len(c.Remove) > 0 {
			d.Sets = append(d.Sets, c)
		}
	}
	for name, was := range t.chains {
		switch c := b.chains[name]; {
		case c == nil && was:
			d.GoneChains = append(d.GoneChains, name)
		case c != nil && !was:
			d.Chains[name] = c.rules
		}
	}
	for m, was := range t.members {
		if now := b.member(m); now != was {
			d.Members[m] = now
		}
	}
	slices.SortFunc(d.Sets, func(a, b SetChange) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(d.GoneSets)
	slices.Sort(d.GoneChains)
	return d
}

// change returns how a set differs from what its touched elements were; before is nil for a new one.
func (s *set) change(id string, before map[Element]bool) SetChange {
	c := SetChange{Name: id, Shape: s.shape, New: before == nil}
	if before == nil {
		for e := range s.elements {
			c.Add = append(c.Add, e)
		}
	}
	for e, was := range before {
		switch now := s.elements[e] > 0; {
		case now && !was:
			c.Add = append(c.Add, e)
		case was && !now:
			c.Remove = append(c.Remove, e)
		}
	}
	slices.SortFunc(c.Add, order)
	slices.SortFunc(c.Remove, order)
	return c
}

func order(a, b Element) int {
	if c := a.First.Compare(b.First); c != 0 {
		return c
	}
	return int(a.Port) - int(b.Port)
}

// member returns the chain that an address is under.
func (b *Book) member(m Member) string {
	if all := b.members[m]; len(all) > 0 {
		return all[len(all)-1].chains[m.Direction]
	}
	return ""
}

// Table returns the whole, as it is now.
func (b *Book) Table() Table {
	t := Table{Sets: map[string]Set{}, Chains: map[string]Chain{}, Members: map[Member]string{}}
	for id, s := range b.sets {
		whole := Set{s.shape, map[Element]bool{}}
		for e := range s.elements {
			whole.Elements[e] = true
		}
		t.Sets[id] = whole
	}
	for name, c := range b.chains {
		t.Chains[name] = c.rules
	}
	for m := range b.members {
		t.Members[m] = b.member(m)
	}
	return t
}
