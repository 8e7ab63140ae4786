package plan

import (
	"slices"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// Guard is a condition on an action. Whoever carries the action out asks the API itself just before, because a Reader may
// show one kind before it shows another, and passes the action over as done where a guard does not hold. The set is
// closed: Alive, Absent, Empty.
type Guard interface{ guard() }

// Alive holds while this very object exists and is not being deleted. Adoption uses it, so that a dying owner never takes
// an orphan.
type Alive struct{ object.Ref }

// Absent holds while no such object exists, or, of a Ref with a UID, while that very object does not. A Reader's word
// that an owner is gone is not enough to delete on.
type Absent struct{ object.Ref }

// Empty holds while a namespace has no object of these kinds.
type Empty struct {
	Namespace string
	Kinds     []resource.Resource
	// Match narrows it to some objects; nil means all. It is pure.
	Match func(object.Object) bool
}

func (Alive) guard()  {}
func (Absent) guard() {}
func (Empty) guard()  {}

// AllAbsent is a guard for each of the objects.
func AllAbsent(refs ...object.Ref) []Guard {
	guards := make([]Guard, len(refs))
	for i, ref := range refs {
		guards[i] = Absent{ref}
	}
	return guards
}

// HasGuard says whether a guard of this sort is among them.
func HasGuard[G Guard](guards []Guard) bool {
	return slices.ContainsFunc(guards, func(g Guard) bool {
		_, ok := g.(G)
		return ok
	})
}

// Lookup asks the API for what there is now.
type Lookup interface {
	// Find returns an object, or nil where there is none.
	Find(res resource.Resource, key object.Key) (object.Object, error)
	// All returns every object of a kind in a namespace, or everywhere when namespace is empty.
	All(res resource.Resource, namespace string) ([]object.Object, error)
}

// Hold says whether every guard holds. An error is one of the Lookup.
func Hold(api Lookup, guards []Guard) (bool, error) {
	for _, g := range guards {
		if ok, err := holds(api, g); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func holds(api Lookup, g Guard) (bool, error) {
	switch g := g.(type) {
	case Alive:
		o, err := api.Find(g.Resource, g.Key)
		return o != nil && o.GetUID() == g.UID && o.GetDeletionTimestamp() == nil, err
	case Absent:
		o, err := api.Find(g.Resource, g.Key)
		return err == nil && (o == nil || g.UID != "" && o.GetUID() != g.UID), err
	case Empty:
		for _, res := range g.Kinds {
			items, err := api.All(res, g.Namespace)
			if err != nil || slices.ContainsFunc(items, func(o object.Object) bool { return g.Match == nil || g.Match(o) }) {
				return false, err
			}
		}
	}
	return true, nil
}
