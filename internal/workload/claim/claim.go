// Package claim decides which objects belong to a workload: those it controls, orphans it should
// adopt, and those it must let go because their labels no longer match.
//
// It owns the rules of controller references (never two controllers for one object, identity by
// UID, no adoption by or of what is being deleted). It refuses to say what happens to the
// objects afterwards.
package claim

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Selector reads which objects an owner calls its own; an error says what is wrong with the field. Each kind of owner
// has one.
type Selector func(owner object.Object) (labels.Selector, error)

// Owner is a workload that claims objects in its namespace.
type Owner struct {
	Object   object.Object
	Selector labels.Selector
}

// Objects returns the owner's objects of one kind, and the edits of owner references that make it so:
// adoption of matching orphans (while the owner is alive) and release of objects that
// stopped matching. Adopted objects are among mine already, as the edit leaves them; released ones are not.
// adoptable, when not nil, narrows what may be adopted; an owner that is being deleted neither adopts nor
// releases.
func Objects(r object.Reader, res resource.Resource, owner Owner, adoptable func(object.Object) bool) (mine []object.Object, edits []plan.Action) {
	dying := owner.Object.GetDeletionTimestamp() != nil
	held := r.Indexed(res, object.ByController, string(owner.Object.GetUID()))
	mine = make([]object.Object, 0, len(held))
	for _, o := range held {
		switch {
		case o.GetNamespace() != owner.Object.GetNamespace():
		case owner.Selector.Matches(labels.Set(o.GetLabels())):
			mine = append(mine, o)
		case !dying:
			edits = append(edits, release(o, owner.Object))
		}
	}
	if dying || owner.Selector.Empty() {
		return mine, edits
	}
	for _, o := range r.Indexed(res, object.ByOrphan, owner.Object.GetNamespace()) {
		if o.GetDeletionTimestamp() != nil || !owner.Selector.Matches(labels.Set(o.GetLabels())) ||
			(adoptable != nil && !adoptable(o)) {
			continue
		}
		taken, edit := adopt(o, owner.Object)
		mine, edits = append(mine, taken), append(edits, edit)
	}
	return mine, edits
}

// Reference is the owner reference by which owner controls an object.
func Reference(owner object.Object) metav1.OwnerReference {
	gvk := resource.Of(owner).GVK()
	yes := true
	return metav1.OwnerReference{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind,
		Name: owner.GetName(), UID: owner.GetUID(), Controller: &yes, BlockOwnerDeletion: &yes}
}

// Controller returns the controlling owner reference of an object, or nil. The result is part of
// the object and must not be changed.
func Controller(o metav1.Object) *metav1.OwnerReference {
	refs := o.GetOwnerReferences()
	for i := range refs {
		if refs[i].Controller != nil && *refs[i].Controller {
			return &refs[i]
		}
	}
	return nil
}

// ControlledBy reports whether the object with this UID controls o.
func ControlledBy(o metav1.Object, uid types.UID) bool {
	ref := Controller(o)
	return ref != nil && ref.UID == uid
}

func adopt(o, owner object.Object) (object.Object, plan.Action) {
	taken := o.DeepCopyObject().(object.Object)
	ref := Reference(owner)
	refs := slices.DeleteFunc(taken.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == ref.UID })
	taken.SetOwnerReferences(append(refs, ref))
	return taken, plan.Update{Object: taken, When: []plan.Guard{plan.Alive{Ref: object.RefOf(owner)}},
		Because: fmt.Sprintf("it has no controller and its labels match the selector of %s %q", ref.Kind, owner.GetName())}
}

func release(o, owner object.Object) plan.Action {
	let := o.DeepCopyObject().(object.Object)
	let.SetOwnerReferences(slices.DeleteFunc(let.GetOwnerReferences(), func(r metav1.OwnerReference) bool {
		return r.UID == owner.GetUID()
	}))
	return plan.Update{Object: let,
		Because: fmt.Sprintf("its labels no longer match the selector of %s %q", resource.Of(owner).Kind, owner.GetName())}
}
