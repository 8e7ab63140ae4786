// Package garbage collects objects whose owners are gone, and sees owners off that wait for their
// dependents: background, foreground and orphaning deletion, as the garbage collector of
// Kubernetes does (kubernetes.io/docs/concepts/architecture/garbage-collection).
//
// It owns one pure planner for each kind; the graph of owners is the Reader's owner index, so a
// decision costs what changed and not what the cluster holds. A snapshot may show a dependent
// before its owner, so every deletion for want of an owner is conditional on the API's own word
// (plan.Absent), and an owner goes only when the API knows of no dependent that it waits for (plan.Empty). It refuses to judge owners of kinds the cluster does not serve.
package garbage

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Name is the field manager and event source.
const Name = "generic-garbage-collector"

// Controllers returns the collectors for the kinds given, which are each other's owners and
// dependents.
func Controllers(kinds []resource.Resource) []plan.Controller {
	g := &graph{kinds: kinds}
	out := make([]plan.Controller, len(kinds))
	for i, res := range kinds {
		ctl := plan.Controller{
			Name: Name, For: res, Cares: cares,
			Plan: func(in plan.Input) plan.Plan { return g.plan(res, in) },
		}
		for _, other := range kinds {
			ctl.Watches = append(ctl.Watches, plan.Watch{Resource: other, Keys: g.related(res)})
		}
		out[i] = ctl
	}
	return out
}

type graph struct{ kinds []resource.Resource }

// cares leaves out the many changes that have nothing to do with ownership.
func cares(before, after object.Object) bool {
	switch {
	case after == nil:
		return false
	case before == nil:
		return len(after.GetOwnerReferences()) > 0 || after.GetDeletionTimestamp() != nil && len(after.GetFinalizers()) > 0
	}
	return (before.GetDeletionTimestamp() == nil) != (after.GetDeletionTimestamp() == nil) ||
		!slices.Equal(before.GetFinalizers(), after.GetFinalizers()) ||
		!sameOwners(before, after)
}

func sameOwners(a, b object.Object) bool {
	return slices.EqualFunc(a.GetOwnerReferences(), b.GetOwnerReferences(), func(x, y metav1.OwnerReference) bool {
		return x.UID == y.UID && blocks(x) == blocks(y)
	})
}

func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

func deletingWith(o object.Object, finalizer string) bool {
	return o != nil && o.GetDeletionTimestamp() != nil && slices.Contains(o.GetFinalizers(), finalizer)
}

// related says which objects of res a change to another object bears on: the dependents of an
// owner that goes, and the owner that waits for a dependent.
func (g *graph) related(res resource.Resource) func(object.Reader, object.Object, object.Object) []object.Key {
	return func(r object.Reader, before, after object.Object) []object.Key {
		var keys []object.Key
		const foreground = metav1.FinalizerDeleteDependents
		switch {
		case after == nil:
			keys = keysOf(keys, r.Indexed(res, object.ByOwner, string(before.GetUID())))
		case deletingWith(after, foreground) && !deletingWith(before, foreground):
			keys = keysOf(keys, r.Indexed(res, object.ByOwner, string(after.GetUID())))
		}
		if before != nil && after != nil && sameOwners(before, after) {
			return keys
		}
		if after != nil {
			for _, ref := range after.GetOwnerReferences() {
				if owner, ok := lookup(r, after, ref, res); ok && deletingWith(owner, metav1.FinalizerOrphanDependents) {
					keys = append(keys, object.KeyOf(owner)) // it was to be let go, too
				}
			}
		}
		if before == nil {
			return keys
		}
		for _, ref := range before.GetOwnerReferences() {
			if owner, ok := lookup(r, before, ref, res); ok && deletingWith(owner, foreground) {
				keys = append(keys, object.KeyOf(owner))
			}
		}
		return keys
	}
}

func keysOf(keys []object.Key, objects []object.Object) []object.Key {
	for _, o := range objects {
		keys = append(keys, object.KeyOf(o))
	}
	return keys
}

// lookup finds the owner that ref names in the snapshot, when it is of kind res.
func lookup(r object.Reader, dependent object.Object, ref metav1.OwnerReference, res resource.Resource) (object.Object, bool) {
	if ref.Kind != res.Kind {
		return nil, false
	}
	if named, ok := resource.ByKind(ref.APIVersion, ref.Kind); !ok || named != res {
		return nil, false
	}
	namespace := ""
	if res.Namespaced {
		namespace = dependent.GetNamespace()
	}
	owner, ok := r.Get(res, namespace, ref.Name)
	if !ok || owner.GetUID() != ref.UID {
		return nil, false
	}
	return owner, true
}

// dependents visits the objects of every kind that name uid as an owner, until visit says no.
func (g *graph) dependents(r object.Reader, o object.Object, visit func(object.Object) bool) {
	for _, res := range g.kinds {
		for _, d := range r.Indexed(res, object.ByOwner, string(o.GetUID())) {
			if !visit(d) {
				return
			}
		}
	}
}

func (g *graph) plan(res resource.Resource, in plan.Input) plan.Plan {
	o, ok := in.Reader.Get(res, in.Key.Namespace, in.Key.Name)
	if !ok {
		return plan.Plan{}
	}
	switch {
	case deletingWith(o, metav1.FinalizerOrphanDependents):
		return g.orphan(in.Reader, o)
	case deletingWith(o, metav1.FinalizerDeleteDependents):
		return g.foreground(in.Reader, o)
	case o.GetDeletionTimestamp() != nil:
		return plan.Plan{}
	}
	return g.collect(in.Reader, o)
}
