package plan

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// Sign is what a kind's objects show of whoever keeps writing them: a heartbeat.
type Sign struct {
	Resource resource.Resource
	// Given says whether a change to an object is a sign; before is nil when it is new.
	Given func(before, after object.Object) bool
}

// Witness is what whoever decides has seen with its own eyes, on its own clock. It is no object's timestamp, which some
// other machine's clock wrote: clocks that differ, or are set, do not matter to it. The zero Witness has seen nothing
// and has been awake for no time at all, so that nobody is silent to it.
type Witness struct {
	// Now is the instant of the decision on a steady clock, which no setting of the time moves. Its zero is arbitrary.
	Now time.Duration
	// Awake is since when the witness has watched without a gap: its start, or when it woke from its last absence.
	Awake time.Duration
	// Signs are those seen so far; nil are none.
	Signs Signs
	// Partings are those seen of late; nil when nobody looks out for them.
	Partings Partings
}

// Signs tell when an object was last seen to give a sign.
type Signs interface {
	Last(res resource.Resource, key object.Key) (at time.Duration, seen bool)
}

// Last is when an object gave a sign last, or else when the witness woke: before that it could not have seen one.
func (w Witness) Last(res resource.Resource, key object.Key) time.Duration {
	if w.Signs != nil {
		if at, seen := w.Signs.Last(res, key); seen {
			return max(at, w.Awake)
		}
	}
	return w.Awake
}

// Succession is a kind of which a controller makes successors under the names of objects that went.
type Succession struct {
	Resource resource.Resource
	// Of says whether an object is one that the controller might have made; nil means that each is.
	Of func(object.Object) bool
}

// Parting is how an object went whose name may be given again.
type Parting struct {
	UID types.UID
	// At is when it was seen to be gone, on the witness's clock.
	At time.Duration
	// By names the controller that had that very object deleted. It is empty when somebody else did: a user, an
	// eviction, a controller that looks out for no successors.
	By string
}

// Recall is how long a parting is remembered.
const Recall = 10 * time.Second

// Partings tell how the last object of a name went, if it went within Recall.
type Partings interface {
	Parted(res resource.Resource, key object.Key) (Parting, bool)
}
