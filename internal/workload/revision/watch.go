package revision

import (
	"bytes"
	"slices"

	appsv1 "k8s.io/api/apps/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
)

// Watch asks for the owners that a revision bears on. One that is made beside another of equal content asks for nobody: a
// planner never makes such a one, so it is somebody else's, and it changes nothing that runs. The history is put in order
// when its owner is next decided.
func Watch(owners resource.Resource, selector claim.Selector) plan.Watch {
	watch := claim.Watch(resource.ControllerRevisions, owners, selector, nil)
	keys := watch.Keys
	watch.Keys = func(r object.Reader, before, after object.Object) []object.Key {
		all := keys(r, before, after)
		made, ok := after.(*appsv1.ControllerRevision)
		if before != nil || !ok {
			return all
		}
		return slices.DeleteFunc(all, func(k object.Key) bool { return duplicates(r, owners, k, made) })
	}
	return watch
}

// duplicates says whether an owner has a revision of the same content already.
func duplicates(r object.Reader, owners resource.Resource, key object.Key, made *appsv1.ControllerRevision) bool {
	owner, ok := r.Get(owners, key.Namespace, key.Name)
	if !ok {
		return false
	}
	mine := r.Indexed(resource.ControllerRevisions, object.ByController, string(owner.GetUID()))
	return slices.ContainsFunc(mine, func(o object.Object) bool {
		other, ok := o.(*appsv1.ControllerRevision)
		return ok && other.UID != made.UID &&
			(bytes.Equal(other.Data.Raw, made.Data.Raw) || sameMeaning(other.Data.Raw, made.Data.Raw))
	})
}
