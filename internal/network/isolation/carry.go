package isolation

import (
	"errors"
	"fmt"
	"net/netip"

	"coracle/internal/network/conntrack"
	"coracle/internal/network/nft"
	"coracle/internal/network/policy"
)

// held is what the kernel holds of the table.
type held struct {
	// there says whether there is a table at all.
	there   bool
	members map[policy.Member]string
	// found is the whole, when it was read and not yet brought in line.
	found *policy.Table
}

// nothing is what a kernel without the table holds.
func nothing() *held { return &held{members: map[policy.Member]string{}, found: &policy.Table{}} }

// errDamaged: the table is not as an agent leaves it.
var errDamaged = errors.New("the table is not as an agent leaves it")

// maxBatch is how many bytes one transaction has at most that only adds what nothing refers to yet: while the kernel takes one,
// nobody else can change any table.
const maxBatch = 4 << 20

// carryOut has the kernel hold the book. It returns whether it does: not before the node's pods are known, where that would
// cut off those that are not.
func (i *Isolation) carryOut() (stands bool, err error) {
	s := &i.state
	if !s.whole {
		return false, nil
	}
	i.keep()
	if s.held == nil || !s.settled { // what is kept for pods that are not known yet is in no book
		if s.held, err = i.read(); err != nil {
			return false, err
		}
	}
	switch {
	case !s.book.Governs():
		return true, i.open()
	case !s.held.there && !s.settled:
		return false, nil
	}
	d := s.book.Take()
	if s.held.found != nil {
		d = s.catchUp()
	}
	if d.Empty() && s.held.there {
		s.held.found = nil
		return true, nil
	}
	if err := i.forgetConnections(i.newcomers(&d)); err != nil {
		return false, err
	}
	if err := i.write(&d); err != nil {
		return false, err
	}
	s.held.there, s.held.found, s.damaged = true, nil, false
	for m, name := range d.Members {
		if s.held.members[m] = name; name == "" {
			delete(s.held.members, m)
		}
	}
	return true, nil
}

// catchUp is what makes the table that was found what it shall be. Until all of the node's pods are known, those that
// are not keep what they have.
func (s *state) catchUp() policy.Delta {
	found := *s.held.found
	d := policy.Diff(found, s.book.Table())
	if s.settled {
		return d
	}
	d.GoneChains, d.GoneSets = nil, nil
	for m, name := range d.Members {
		if name == "" {
			delete(d.Members, m)
		}
	}
	return d
}

// newcomers are the addresses that begin to be a pod's.
func (i *Isolation) newcomers(d *policy.Delta) map[netip.Addr]bool {
	s, out := &i.state, map[netip.Addr]bool{}
	for m, name := range d.Members {
		if name != "" && i.wire.has(m.Addr) && s.held.there && s.held.members[policy.Member{Direction: policy.Ingress, Addr: m.Addr}] == "" {
			out[m.Addr] = true
		}
	}
	return out
}

// keep writes down what has changed of the policies.
func (i *Isolation) keep() {
	if !i.unkept {
		return
	}
	if err := i.known.write(&i.state); err != nil {
		i.cfg.Log.Warn("an agent that starts without a server will go by older policies", "err", err)
		return
	}
	i.unkept = false
}

// open removes the table: there are no policies.
func (i *Isolation) open() error {
	i.book.Take()
	if !i.held.there && !i.damaged {
		return nil
	}
	b := nft.NewBatch(i.cfg.table())
	b.AddTable(nil) // so that there is one to delete
	b.DeleteTable()
	if err := i.socket.Commit(b); err != nil {
		return err
	}
	i.held, i.damaged = nothing(), false
	return nil
}

// read finds out what the kernel holds. A table that is damaged counts as none, and is written anew.
func (i *Isolation) read() (*held, error) {
	none := nothing()
	note, there, err := i.socket.Note(i.cfg.table())
	if err != nil || !there {
		return none, err
	}
	if string(note) != string(i.cfg.note()) || i.damaged {
		i.damaged = true
		i.cfg.Log.Warn("the table of network policies is not as this agent left it: writing it anew", "table", i.cfg.Table)
		return none, nil
	}
	const attempts = 5
	for n := range attempts {
		found, err := i.load()
		switch {
		case errors.Is(err, nft.ErrChanged) && n < attempts-1:
			continue
		case errors.Is(err, errDamaged):
			i.damaged = true
			i.cfg.Log.Warn("the table of network policies is damaged: writing it anew", "table", i.cfg.Table, "err", err)
			return none, nil
		case err != nil:
			return nil, err
		}
		return &held{there: true, members: found.Members, found: found}, nil
	}
	return nil, nft.ErrChanged
}

// load reads the table. Of chains it learns the names of those that are led to: there are no others.
func (i *Isolation) load() (*policy.Table, error) {
	t := &policy.Table{Sets: map[string]policy.Set{}, Chains: map[string]policy.Chain{}, Members: map[policy.Member]string{}}
	names, err := i.socket.Sets(i.cfg.table())
	if err != nil {
		return nil, err
	}
	always := 0
	for _, name := range names {
		if name == setEgress || name == setIngress || name == setSelf {
			always++
			continue
		}
		shape, ok := policy.ShapeOf(name)
		if !ok {
			return nil, fmt.Errorf("set %s: %w", name, errDamaged)
		}
		set := policy.Set{Shape: shape, Elements: map[policy.Element]bool{}}
		if shape != policy.Ranges {
			err = i.socket.Elements(i.cfg.table(), name, func(e nft.Element) error {
				el, err := i.wire.elementOf(shape, e)
				set.Elements[el] = true
				return err
			})
		}
		if err != nil {
			return nil, err
		}
		t.Sets[name] = set
	}
	if always != 3 {
		return nil, fmt.Errorf("of its sets some are missing: %w", errDamaged)
	}
	for d, set := range membersOf {
		err := i.socket.Elements(i.cfg.table(), set, func(e nft.Element) error {
			at, ok := netip.AddrFromSlice(e.Key)
			if of, known := policy.DirectionOf(e.Goto); !ok || !known || of != d {
				return fmt.Errorf("%s of set %s leads to %q: %w", at, set, e.Goto, errDamaged)
			}
			t.Members[policy.Member{Direction: d, Addr: at}] = e.Goto
			t.Chains[e.Goto] = nil
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

// forgetConnections has the kernel forget the connections of addresses that are to be pods': they were others', who had the
// addresses before, and what belongs to a connection is let through. A kernel that does not say lets no pod begin: what it
// remembers would be let past the policies.
func (i *Isolation) forgetConnections(of map[netip.Addr]bool) error {
	if len(of) == 0 {
		return nil
	}
	// The kernel looks through its whole table for each question.
	const fewQuestions = 8
	var about []conntrack.Among
	for ip := range of {
		if about = append(about, conntrack.With(ip)...); len(about) > fewQuestions {
			about = []conntrack.Among{{IPv6: i.cfg.IPv6}}
			break
		}
	}
	_, _, err := i.connections.Forget(about, func(f *conntrack.Flow) bool { return f.Names(func(a netip.Addr) bool { return of[a] }) })
	if err != nil {
		return fmt.Errorf("forget the connections of those who had a pod's address before (nf_conntrack_netlink): %w", err)
	}
	return nil
}
