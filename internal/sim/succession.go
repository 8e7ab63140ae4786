package sim

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client/fake"
	"coracle/internal/object"
	"coracle/internal/resource"
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
	// before, which its picture does not show yet, cannot know that it was not the first.
	hands map[types.UID]map[string]bool
	freed map[object.Ref]freed
}

type freed struct {
	at    time.Time
	hands map[string]bool
}

func newEnds() ends { return ends{map[types.UID]map[string]bool{}, map[object.Ref]freed{}} }

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
		for _, res := range heirs[actor] {
			if known && res == entry.Resource && !old.hands[actor] && now.Sub(old.at) < succession.Pause {
				return fmt.Errorf("successor: %s makes %s %s after it was deleted by %v", actor, ref, now.Sub(old.at), old.hands)
			}
		}
	case entry.Type == "DELETED":
		if before.GetDeletionTimestamp() == nil {
			e.hand(before.GetUID(), actor)
		}
		e.freed[ref] = freed{now, e.hands[before.GetUID()]}
		delete(e.hands, before.GetUID())
	case before.GetDeletionTimestamp() == nil && entry.Object.GetDeletionTimestamp() != nil:
		e.hand(before.GetUID(), actor)
	}
	return nil
}
