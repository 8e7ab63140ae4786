package revision

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/succession"
)

// History is an owner's revisions at one instant.
type History struct {
	// Owned are the owner's revisions, oldest first: by number, then creation, then name.
	Owned []*appsv1.ControllerRevision
	// Present is the revision that holds the owner's present template; nil until it is recorded.
	Present *appsv1.ControllerRevision
	// Duplicates are older revisions that hold the present template too. They come from
	// adoption. Pods labelled with one of them are up to date.
	Duplicates []*appsv1.ControllerRevision
	// Actions bring the record up to date. As long as there are any, a planner carries out these
	// alone, and decides about pods on the next pass, from a history that exists.
	Actions []plan.Action
	// Collisions is the collision count to put into the status together with the Actions; nil to
	// leave it.
	Collisions *int32
}

// Read finds an owner's history in the world and decides how to bring it up to date: it adopts
// matching revisions that nobody controls, releases those that stopped matching, records a new
// template under the next number, and moves a template that came back (a rollback) to the newest
// number. A name that other content has taken counts as a collision. For an owner that is being
// deleted nothing is planned.
//
// present, when not empty, names the revision that is known to hold the present template, which
// spares the encoding: a StatefulSet whose observedGeneration is current names it in its status.
func Read(r object.Reader, o Owner, present string) (History, error) {
	h := owned(r, o)
	if known := h.newest(); present != "" && known != nil && known.Name == present && len(h.Actions) == 0 {
		h.Present = known
		return h, nil
	}
	patch, err := Patch(o.Template)
	if err != nil {
		return h, err
	}
	h.findPresent(patch)
	if o.Object.GetDeletionTimestamp() != nil || len(h.Actions) > 0 {
		return h, nil // an adopted revision must be stored before it is written again
	}
	switch next := h.maxNumber() + 1; {
	case h.Present == nil:
		h.record(r, o, patch, next)
	case h.Present != h.newest():
		moved := h.Present.DeepCopy()
		moved.Revision = next
		if moved.Annotations == nil {
			moved.Annotations = make(map[string]string, 1)
		}
		moved.Annotations[SinceAnnotation] = o.Now.UTC().Format(time.RFC3339)
		h.Actions = append(h.Actions, plan.Update{
			Object:  moved,
			Because: fmt.Sprintf("the template of revision %d is the present one again", h.Present.Revision),
		})
	}
	return h, nil
}

// owned lists the revisions of an owner and plans adoption and release.
func owned(r object.Reader, o Owner) History {
	var h History
	mine, edits := claim.Objects(r, resource.ControllerRevisions, claim.Owner{Object: o.Object, Selector: o.Selector}, nil)
	h.Actions = edits
	for _, obj := range mine {
		if rev, ok := obj.(*appsv1.ControllerRevision); ok {
			h.Owned = append(h.Owned, rev)
		}
	}
	slices.SortFunc(h.Owned, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(
			cmp.Compare(a.Revision, b.Revision),
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.Name, b.Name),
		)
	})
	return h
}

func (h *History) newest() *appsv1.ControllerRevision {
	if len(h.Owned) == 0 {
		return nil
	}
	return h.Owned[len(h.Owned)-1]
}

func (h *History) maxNumber() int64 {
	if last := h.newest(); last != nil {
		return last.Revision
	}
	return 0
}

// findPresent sets Present to the newest revision that holds the patch, and Duplicates to the
// older ones. Equality in meaning counts when no bytes are equal: a history that was exported and
// applied again may be spelled differently.
func (h *History) findPresent(patch []byte) {
	for i := len(h.Owned) - 1; i >= 0; i-- {
		if !bytes.Equal(h.Owned[i].Data.Raw, patch) {
			continue
		}
		if h.Present == nil {
			h.Present = h.Owned[i]
		} else {
			h.Duplicates = append(h.Duplicates, h.Owned[i])
		}
	}
	for i := len(h.Owned) - 1; i >= 0 && h.Present == nil; i-- {
		if sameMeaning(h.Owned[i].Data.Raw, patch) {
			h.Present = h.Owned[i]
		}
	}
}

func sameMeaning(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// mostCollisions bounds the search for a free name. Each try hashes to another of 2^32 names.
const mostCollisions = 100

// record plans the creation of the present revision under a free name.
func (h *History) record(r object.Reader, o Owner, patch []byte, number int64) {
	count := o.Collisions
	for range mostCollisions {
		rev := build(o, patch, number, count)
		taken, exists := r.Get(resource.ControllerRevisions, rev.Namespace, rev.Name)
		if !exists {
			h.Actions = append(h.Actions, plan.Create{Object: rev, Because: fmt.Sprintf("the template changed: revision %d", number)})
			return
		}
		if free, ok := taken.(*appsv1.ControllerRevision); ok && bytes.Equal(free.Data.Raw, patch) &&
			free.DeletionTimestamp == nil && metav1.GetControllerOf(free) == nil {
			taken := free.DeepCopy()
			taken.OwnerReferences = append(taken.OwnerReferences, claim.Reference(o.Object))
			if taken.Labels == nil {
				taken.Labels = make(map[string]string, len(rev.Labels))
			}
			maps.Copy(taken.Labels, rev.Labels) // else it would be released again at once
			h.Actions = append(h.Actions, plan.Update{Object: taken, When: []plan.Guard{plan.Alive{Ref: object.RefOf(o.Object)}}, Because: "it holds the present template and nobody controls it"})
			return
		}
		next := int32(1)
		if count != nil {
			next = *count + 1
		}
		count, h.Collisions = &next, &next
	}
}

// JustFreed says whether the present revision has to wait before it is recorded, because somebody else has just deleted
// one of its name, until when, and why: see succession.Hold.
func (h *History) JustFreed(in plan.Input, by string, owner object.Object, existed bool) (w plan.Wait, until time.Time, held bool) {
	for _, a := range h.Actions {
		if c, ok := a.(plan.Create); ok {
			return succession.Hold(in, by, resource.ControllerRevisions, object.KeyOf(c.Object), owner, existed)
		}
	}
	return plan.Wait{}, time.Time{}, false
}

// Named returns the owned revision of a name, or nil.
func (h *History) Named(name string) *appsv1.ControllerRevision {
	if name == "" {
		return nil
	}
	for _, rev := range h.Owned {
		if rev.Name == name {
			return rev
		}
	}
	return nil
}

// Forget plans the deletion of the oldest revisions above a limit (spec.revisionHistoryLimit). A
// live revision (present, or of some pod) is never forgotten. countLive says whether live ones
// that are not the present take up room in the limit: a DaemonSet counts them, a StatefulSet does
// not. A negative limit forgets nothing.
func (h *History) Forget(limit int, countLive bool, live func(*appsv1.ControllerRevision) bool) []plan.Action {
	if limit < 0 || len(h.Owned) <= limit {
		return nil
	}
	var old []*appsv1.ControllerRevision
	total := 0
	for _, rev := range h.Owned {
		if rev == h.Present {
			continue
		}
		switch {
		case !live(rev):
			old = append(old, rev)
			total++
		case countLive:
			total++
		}
	}
	var actions []plan.Action
	for _, rev := range old {
		if total-len(actions) <= limit {
			break
		}
		if rev.DeletionTimestamp != nil {
			total--
			continue
		}
		actions = append(actions, plan.Delete{
			Object:  object.RefOf(rev),
			Because: fmt.Sprintf("revision %d is older than the %d to keep", rev.Revision, limit),
		})
	}
	return actions
}
