package claim

import (
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Watch says which owners of kind owners a change to an object of kind owned bears on: those that
// control it before or after, and for an orphan those whose selector matches it. An owner whose selector cannot be
// read selects nothing; alike, when not nil, says that a change makes no difference.
func Watch(owned, owners resource.Resource, selector Selector, alike func(a, b object.Object) bool) plan.Watch {
	return plan.Watch{Resource: owned, Keys: func(r object.Reader, before, after object.Object) []object.Key {
		if before != nil && after != nil && alike != nil && alike(before, after) {
			return nil
		}
		var keys []object.Key
		for _, o := range []object.Object{before, after} {
			if o == nil {
				continue
			}
			ref := Controller(o)
			if ref == nil || ref.Kind != owners.Kind {
				continue
			}
			key := object.Key{Namespace: o.GetNamespace(), Name: ref.Name}
			owner, ok := r.Get(owners, key.Namespace, key.Name)
			if ok && owner.GetUID() == ref.UID && (len(keys) == 0 || keys[0] != key) {
				keys = append(keys, key)
			}
		}
		if after != nil && after.GetDeletionTimestamp() == nil && Controller(after) == nil {
			keys = append(keys, matching(r, owners, after, selector)...)
		}
		return keys
	}}
}

func matching(r object.Reader, owners resource.Resource, orphan object.Object, selector Selector) []object.Key {
	set := labels.Set(orphan.GetLabels())
	var keys []object.Key
	for _, owner := range r.List(owners, orphan.GetNamespace()) {
		if s, err := selector(owner); err == nil && !s.Empty() && s.Matches(set) {
			keys = append(keys, object.KeyOf(owner))
		}
	}
	return keys
}
