package proxy

import (
	"cmp"
	"slices"
	"strings"
)

// Claimant is a service that wants destinations.
type Claimant struct {
	Namespace, Name string
	// Created is when, in seconds of Unix time: of two that want one destination the elder has it.
	Created int64
}

// before says whether c has a destination rather than o.
func (c Claimant) before(o Claimant) bool {
	return cmp.Or(cmp.Compare(c.Created, o.Created), strings.Compare(c.Namespace, o.Namespace), strings.Compare(c.Name, o.Name)) < 0
}

// Change is a new route to a destination; none when it is nil.
type Change struct {
	Destination
	Route *Route
}

// Book knows which service has which destination.
type Book struct {
	of      map[[2]string]held
	owner   map[Destination]Claimant
	waiting map[Destination][]Claimant
}

type held struct {
	Claimant
	wants []Destination
}

// NewBook returns an empty one.
func NewBook() *Book {
	return &Book{of: map[[2]string]held{}, owner: map[Destination]Claimant{}, waiting: map[Destination][]Claimant{}}
}

// Claim says what a service wants now; nothing, if it is gone. It returns what changes by that, and the services that
// must claim again: they have got what it gave up.
func (b *Book) Claim(c Claimant, wants []Frontend) (changes []Change, again []Claimant) {
	name := [2]string{c.Namespace, c.Name}
	was := b.of[name]
	if was.Claimant != c {
		// Made anew under its name, it is another.
		for _, d := range was.wants {
			again = b.release(d, was.Claimant, again)
			if _, taken := b.owner[d]; !taken {
				changes = append(changes, Change{Destination: d})
			}
		}
		was.wants = nil
	}
	now := make([]Destination, 0, len(wants))
	for i := range wants {
		d := wants[i].Destination
		if slices.Contains(now, d) {
			continue // its own doing: the first holds
		}
		now = append(now, d)
		if b.take(d, c) {
			changes = append(changes, Change{d, &wants[i].Route})
		}
	}
	for _, d := range was.wants {
		if slices.Contains(now, d) {
			continue
		}
		mine := b.owner[d] == c
		again = b.release(d, c, again)
		if mine {
			changes = append(changes, Change{Destination: d})
		}
	}
	if len(now) == 0 {
		delete(b.of, name)
	} else {
		b.of[name] = held{c, now}
	}
	return changes, again
}

// take gives a destination to a service, unless an elder has it.
func (b *Book) take(d Destination, c Claimant) bool {
	owner, owned := b.owner[d]
	switch {
	case !owned:
		b.owner[d] = c
		b.unwait(d, c)
	case owner == c:
	case c.before(owner):
		b.wait(d, owner)
		b.unwait(d, c)
		b.owner[d] = c
	default:
		b.wait(d, c)
		return false
	}
	return true
}

// release takes a destination, or the wish for it, from a service.
func (b *Book) release(d Destination, c Claimant, again []Claimant) []Claimant {
	b.unwait(d, c)
	if b.owner[d] != c {
		return again
	}
	delete(b.owner, d)
	if line := b.waiting[d]; len(line) > 0 {
		return append(again, slices.MinFunc(line, func(x, y Claimant) int {
			if x.before(y) {
				return -1
			}
			return 1
		}))
	}
	return again
}

func (b *Book) wait(d Destination, c Claimant) {
	if !slices.Contains(b.waiting[d], c) {
		b.waiting[d] = append(b.waiting[d], c)
	}
}

func (b *Book) unwait(d Destination, c Claimant) {
	line := slices.DeleteFunc(b.waiting[d], func(o Claimant) bool { return o == c })
	if len(line) == 0 {
		delete(b.waiting, d)
	} else {
		b.waiting[d] = line
	}
}

// Owner is the service that has a destination.
func (b *Book) Owner(d Destination) (Claimant, bool) {
	c, ok := b.owner[d]
	return c, ok
}
