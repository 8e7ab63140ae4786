package sim

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client/fake"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/succession"
)

// heirs are the kinds that a controller makes again under names that went.
var heirs = map[string][]resource.Resource{
	"statefulset-controller": {resource.Pods, resource.PersistentVolumeClaims, resource.ControllerRevisions},
	"daemonset-controller":   {resource.ControllerRevisions},
	"deployment-controller":  {resource.ReplicaSets},
}

// ends keeps account of whose hand ended what, for the promise that a name which somebody else freed stays free for a
// while.
type ends struct {
	// hands says who began to end an object. A controller that asks for the end of what another has ended a moment
	// before, which its snapshot does not show yet, cannot know that it was not the first.
	hands map[types.UID]map[string]bool
	freed map[object.Ref]freed
	// restarted is when the server's memory begins.
	restarted time.Time
}

type freed struct {
	at    time.Time
	hands map[string]bool
	// owner is whose the object was.
	owner types.UID
}

func newEnds() ends {
	return ends{hands: map[types.UID]map[string]bool{}, freed: map[object.Ref]freed{}}
}

func ownerOf(o object.Object) types.UID {
	if ref := claim.Controller(o); ref != nil {
		return ref.UID
	}
	return ""
}

// hand notes that somebody ends an object.
func (e *ends) hand(uid types.UID, actor string) {
	if e.hands[uid] == nil {
		e.hands[uid] = map[string]bool{}
	}
	e.hands[uid][actor] = true
}

// written notes an end, and holds a beginning against the promise.
func (e *ends) written(entry fake.Entry, actor string, now time.Time) error {
	ref := object.Ref{Resource: entry.Resource, Key: object.KeyOf(entry.Object)}
	before := entry.Before
	switch {
	case before == nil:
		old, known := e.freed[ref]
		if known && !old.at.After(e.restarted) && old.owner != ownerOf(entry.Object) {
			return nil // a server that has begun since knows nothing of it, and its owner has never made one of this name
		}
		for _, res := range heirs[actor] {
			if known && res == entry.Resource && !old.hands[actor] && now.Sub(old.at) < succession.Pause {
				return fmt.Errorf("successor: %s makes %s %s after it was deleted by %v", actor, ref, now.Sub(old.at), old.hands)
			}
		}
	case entry.Type == "DELETED":
		if before.GetDeletionTimestamp() == nil {
			e.hand(before.GetUID(), actor)
		}
		e.freed[ref] = freed{now, e.hands[before.GetUID()], ownerOf(before)}
		delete(e.hands, before.GetUID())
	case before.GetDeletionTimestamp() == nil && entry.Object.GetDeletionTimestamp() != nil:
		e.hand(before.GetUID(), actor)
	}
	return nil
}
