package proxy

import (
	"maps"
	"net/netip"
	"slices"
)

// Op is a change of one element. Its bytes are valid during the call that tells of it.
type Op struct {
	Set       Set
	Delete    bool
	Key, Data []byte
	// End is the last key of a range.
	End []byte
}

// Emitter is told what is to be written, in order.
type Emitter interface {
	Element(Op)
	// AddClass and DropClass make and remove the chain of a class, with its element in Classes.
	AddClass(Class, Number)
	DropClass(Class, Number)
}

// Table is what the kernel holds once all that was emitted is written.
type Table struct {
	family  Family
	pods    netip.Prefix
	routes  map[Destination]*entry
	classes map[Class]int
	numbers map[Class]Number
	next    Number
	hairpin map[Address]int
	// moved are the classes whose count has changed since the last Settle, with what it was.
	moved   map[Class]int
	key     [48]byte
	data    [24]byte
	flipped map[Address]int
}

type entry struct {
	class      Class
	masquerade bool
	sources    []netip.Prefix
	// order is which endpoint has which number.
	order []Endpoint
}

// NewTable returns the table of a family of a node whose pods' range is given, as it is when new.
func NewTable(f Family, pods netip.Prefix) *Table {
	return &Table{
		family: f, pods: pods, routes: map[Destination]*entry{}, classes: map[Class]int{}, numbers: map[Class]Number{}, next: firstNumber, hairpin: map[Address]int{},
		moved: map[Class]int{}, flipped: map[Address]int{},
	}
}

// Len is how many destinations it has.
func (t *Table) Len() int { return len(t.routes) }

// Destinations are all it has.
func (t *Table) Destinations() []Destination { return slices.Collect(maps.Keys(t.routes)) }

// Leads says whether a destination is known, and whether it leads to an endpoint.
func (t *Table) Leads(d Destination, to Endpoint) (known, leads bool) {
	e := t.routes[d]
	return e != nil, e != nil && slices.Contains(e.order, to)
}

// Refuses says whether a destination is known, and leads nowhere.
func (t *Table) Refuses(d Destination) bool {
	e := t.routes[d]
	return e != nil && len(e.order) == 0
}

// Apply makes a change, and emits the elements that it takes: as many as endpoints have come, gone or, for one that left a
// gap, moved. Between Apply and Settle, classes may lack their chains.
func (t *Table) Apply(c Change, to Emitter) (strays bool) {
	old := t.routes[c.Destination]
	if c.Route == nil {
		if old != nil {
			t.remove(c.Destination, old, to)
		}
		return old != nil
	}
	next := ClassOf(c.Destination, c.Route)
	if old == nil {
		old = &entry{class: next, masquerade: c.Route.Masquerade, sources: c.Route.Sources}
		t.routes[c.Destination] = old
		t.count(next, 1)
		t.place(c.Destination, old, c.Route.Endpoints, to)
		t.emit(to, c.services(), false, c.Destination, t.number(next).Bytes())
		t.flags(c.Destination, &entry{}, old, to)
		return true
	}
	was := *old
	strays = t.place(c.Destination, old, c.Route.Endpoints, to)
	if was.class != next {
		t.count(was.class, -1)
		t.count(next, 1)
		old.class = next
		t.emit(to, c.services(), true, c.Destination, nil)
		t.emit(to, c.services(), false, c.Destination, t.number(next).Bytes())
	}
	old.masquerade, old.sources = c.Route.Masquerade, c.Route.Sources
	t.flags(c.Destination, &was, old, to)
	return strays
}

func (t *Table) remove(d Destination, e *entry, to Emitter) {
	t.emit(to, d.services(), true, d, nil)
	t.place(d, e, nil, to)
	t.flags(d, e, &entry{}, to)
	t.count(e.class, -1)
	delete(t.routes, d)
}

// flags writes what differs in masquerading and sources.
func (t *Table) flags(d Destination, was, is *entry, to Emitter) {
	if was.masquerade != is.masquerade {
		t.emit(to, Masquerade, was.masquerade, d, nil)
	}
	for _, p := range was.sources {
		if !slices.Contains(is.sources, p) {
			t.source(to, true, d, p)
		}
	}
	for _, p := range is.sources {
		if !slices.Contains(was.sources, p) {
			t.source(to, false, d, p)
		}
	}
}

func (t *Table) source(to Emitter, del bool, d Destination, p netip.Prefix) {
	first, last := t.family.appendRange(t.family.destination(t.key[:0], d), p)
	to.Element(Op{Set: d.sources(), Delete: del, Key: first, End: last})
}

// place gives the endpoints their numbers: those that stay keep theirs, new ones fill the gaps, and what is left of the
// gaps is filled from the end. It says whether any has gone.
func (t *Table) place(d Destination, e *entry, want []Endpoint, to Emitter) (gone bool) {
	var gaps []int
	have := make(map[Endpoint]bool, len(e.order))
	for i, ep := range e.order {
		if _, stays := slices.BinarySearchFunc(want, ep, Endpoint.Compare); stays {
			have[ep] = true
			continue
		}
		gaps = append(gaps, i)
		t.numbered(to, true, d, i, ep)
		t.member(ep, -1)
	}
	order := e.order
	gone = len(gaps) > 0
	for _, ep := range want {
		if have[ep] {
			continue
		}
		at := len(order)
		if len(gaps) > 0 {
			at, gaps = gaps[0], gaps[1:]
			order[at] = ep
		} else {
			order = append(order, ep)
		}
		t.numbered(to, false, d, at, ep)
		t.member(ep, 1)
	}
	for len(gaps) > 0 {
		last := len(order) - 1
		if gap := gaps[len(gaps)-1]; gap == last {
			gaps = gaps[:len(gaps)-1]
		} else {
			t.numbered(to, true, d, last, order[last])
			order[gaps[0]] = order[last]
			t.numbered(to, false, d, gaps[0], order[last])
			gaps = gaps[1:]
		}
		order = order[:last]
	}
	e.order = order
	return gone
}

func (t *Table) numbered(to Emitter, del bool, d Destination, n int, ep Endpoint) {
	key := appendNumber(t.family.destination(t.key[:0], d), uint32(n))
	if del {
		to.Element(Op{Set: d.endpoints(), Delete: true, Key: key})
		return
	}
	to.Element(Op{Set: d.endpoints(), Key: key, Data: t.family.endpoint(t.data[:0], ep)})
}

// member counts an endpoint that has come or gone, if it is a pod of the node.
func (t *Table) member(ep Endpoint, by int) {
	if !t.pods.Contains(t.family.Addr(ep.Address)) {
		return
	}
	if _, known := t.flipped[ep.Address]; !known {
		t.flipped[ep.Address] = t.hairpin[ep.Address]
	}
	t.hairpin[ep.Address] += by
}

func (t *Table) emit(to Emitter, set Set, del bool, d Destination, data []byte) {
	to.Element(Op{Set: set, Delete: del, Key: t.family.destination(t.key[:0], d), Data: data})
}

func (t *Table) count(c Class, by int) {
	if c.Endpoints == 0 {
		return // refused by a rule that is there always
	}
	if _, known := t.moved[c]; !known {
		t.moved[c] = t.classes[c]
	}
	if t.classes[c] += by; t.classes[c] == 0 {
		delete(t.classes, c)
	}
	if t.numbers[c] == 0 {
		t.numbers[c] = t.next
		t.next++
	}
}

func (t *Table) number(c Class) Number {
	switch {
	case c.Endpoints > 0:
		return t.numbers[c]
	case c.Drop:
		return Dropped
	}
	return Refused
}

// Settle emits what is shared: the classes and pods that are used now and were not, or the other way round. It comes
// before the end of each transaction.
func (t *Table) Settle(to Emitter) {
	for c, was := range t.moved {
		switch is := t.classes[c]; {
		case was == 0 && is > 0:
			to.AddClass(c, t.numbers[c])
		case was > 0 && is == 0:
			to.DropClass(c, t.numbers[c])
		}
		if t.classes[c] == 0 {
			delete(t.numbers, c)
		}
	}
	clear(t.moved)
	for a, was := range t.flipped {
		is := t.hairpin[a]
		if is == 0 {
			delete(t.hairpin, a)
		}
		if (was > 0) != (is > 0) {
			key := t.family.pair(t.key[:0], a)
			to.Element(Op{Set: Hairpin, Delete: is == 0, Key: key})
		}
	}
	clear(t.flipped)
}
