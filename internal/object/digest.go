package object

import "coracle/internal/resource"

// Digest is what decisions about one object need of the many others that it depends on, of several kinds, without
// looking at each: an Account for each object, which whoever keeps the snapshot carries on with every change. Where a
// Summary is of one kind and knows nothing but the objects that it counts, an Account is made for its object and may
// set kinds against each other, such as pods against nodes.
type Digest struct {
	// For is the kind whose objects have an Account each.
	For  resource.Resource
	Name string
	// Follows are the kinds that an Account depends on, besides its object.
	Follows []Follow
	// New makes the Account of an object from what a Reader shows.
	New func(r Reader, of Object) Account
}

// Follow says on whose Accounts the changes of a kind bear. It may ask for single objects only: the Reader is in the
// midst of a change. Either of before and after may be nil. Of that nobody asks twice: an Account that is told of an
// object looks at what there is of it.
type Follow struct {
	Resource resource.Resource
	// Keys are the objects whose Accounts a change bears on; all means each of the kind.
	Keys func(r Reader, before, after Object) (keys []Key, all bool)
}

// Account depends on its object and on what there is, never on the way there: one that was carried on answers as one
// that was made anew does.
type Account interface {
	// Fits says whether the Account is that of this state of its object, and can be carried on.
	Fits(of Object) bool
	// Look takes into account what a Reader shows of one object of a kind that is followed: it came, changed or went.
	Look(r Reader, res resource.Resource, k Key)
	// Len is how many objects have been taken into account, about.
	Len() int
}

// Digested returns the Account of an object. It belongs to the Reader, holds for as long as the snapshot stands still,
// and must not be changed. It is false with a Reader that keeps none: whoever asks then looks at each object.
func Digested(r Reader, d *Digest, of Object) (Account, bool) {
	if accounts, ok := r.(interface {
		Account(d *Digest, of Object) (Account, bool)
	}); ok {
		return accounts.Account(d, of)
	}
	return nil, false
}
