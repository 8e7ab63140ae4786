package view

import (
	"sync"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// digest keeps the accounts of the objects of a kind. A change only notes what is to be looked at: an account is
// brought up to date when it is asked for, so that a burst of changes to one object costs one look.
type digest struct {
	object.Digest
	// mu is for readers, of which there may be several; a change has the view to itself.
	mu       sync.Mutex
	accounts map[object.Key]*account
}

// account is one that somebody asked for, and what has changed since.
type account struct {
	object.Account
	changed []part
	noted   map[part]struct{}
}

// part is an object of a kind that is followed.
type part struct {
	res resource.Resource
	key object.Key
}

// AddDigests declares digests. A second declaration of a name changes nothing.
func (v *View) AddDigests(digests ...object.Digest) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, d := range digests {
		t := v.table(d.For)
		if t.digest(d.Name) != nil {
			continue
		}
		kept := &digest{Digest: d, accounts: map[object.Key]*account{}}
		t.digests = append(t.digests, kept)
		for i := range d.Follows {
			of := v.table(d.Follows[i].Resource)
			of.followed = append(of.followed, followed{kept, d.Follows[i]})
		}
	}
}

// followed is a digest that depends on the objects of a table.
type followed struct {
	*digest
	object.Follow
}

func (t *table) digest(name string) *digest {
	for _, d := range t.digests {
		if d.Name == name {
			return d
		}
	}
	return nil
}

// note has the accounts that depend on an object know of its change, and lets go of the accounts of one that went.
func (t *table) note(r object.Reader, k object.Key, before, after object.Object) {
	for _, d := range t.digests {
		if after == nil {
			delete(d.accounts, k)
		}
	}
	for _, f := range t.followed {
		if len(f.accounts) == 0 {
			continue
		}
		keys, all := f.Keys(r, before, after)
		if all {
			for of := range f.accounts {
				f.note(of, part{t.res, k})
			}
			continue
		}
		for _, of := range keys {
			f.note(of, part{t.res, k})
		}
	}
}

// slack is how many changes an account that nobody asks for has noted at least before it is given up.
const slack = 64

func (d *digest) note(of object.Key, p part) {
	a := d.accounts[of]
	if a == nil {
		return
	}
	if _, noted := a.noted[p]; noted {
		return
	}
	if len(a.changed) >= slack+a.Len() {
		delete(d.accounts, of) // made anew, should anybody ask
		return
	}
	a.changed = append(a.changed, p)
	a.noted[p] = struct{}{}
}

// Account is what object.Digested asks for.
func (s still) Account(d *object.Digest, of object.Object) (object.Account, bool) {
	t := s.v.tables[d.For]
	if t == nil {
		return nil, false
	}
	kept := t.digest(d.Name)
	if kept == nil {
		return nil, false
	}
	kept.mu.Lock()
	defer kept.mu.Unlock()
	k := object.KeyOf(of)
	a := kept.accounts[k]
	if a == nil || !a.Fits(of) {
		a = &account{Account: d.New(s, of), noted: map[part]struct{}{}}
		kept.accounts[k] = a
		return a.Account, true
	}
	for _, p := range a.changed {
		a.Look(s, p.res, p.key)
	}
	if len(a.changed) > slack {
		a.changed, a.noted = nil, map[part]struct{}{}
	}
	a.changed = a.changed[:0]
	clear(a.noted)
	return a.Account, true
}
