package garbage

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// orphan lets go of every dependent, then of the owner.
func (g *graph) orphan(r object.Reader, o object.Object) plan.Plan {
	var p plan.Plan
	g.dependents(r, o, func(d object.Object) bool {
		next := d.DeepCopyObject().(object.Object)
		next.SetOwnerReferences(slices.DeleteFunc(next.GetOwnerReferences(), func(ref metav1.OwnerReference) bool {
			return ref.UID == o.GetUID()
		}))
		p.Actions = append(p.Actions, plan.Update{Object: next, Because: "its owner " + object.RefOf(o).String() + " is deleted with the orphan policy"})
		return true
	})
	p.Actions = append(p.Actions, g.withoutFinalizer(o, metav1.FinalizerOrphanDependents, "its dependents are orphans now",
		func(metav1.OwnerReference) bool { return true }))
	p.Why = plan.Why{State: plan.Progressing, Next: "let its dependents go, then be deleted"}
	return p
}

// withoutFinalizer lets an owner go, if the API too knows of no dependent that the finalizer is for: a snapshot may lack one
// that was made a moment ago, which would then be collected. When the snapshot shows it, the owner is decided about again.
func (g *graph) withoutFinalizer(o object.Object, finalizer, because string, keeps func(metav1.OwnerReference) bool) plan.Action {
	next := o.DeepCopyObject().(object.Object)
	next.SetFinalizers(slices.DeleteFunc(next.GetFinalizers(), func(f string) bool { return f == finalizer }))
	none := plan.Empty{Namespace: o.GetNamespace(), Match: func(d object.Object) bool {
		return slices.ContainsFunc(d.GetOwnerReferences(), func(ref metav1.OwnerReference) bool { return ref.UID == o.GetUID() && keeps(ref) })
	}}
	for _, res := range g.kinds {
		if res.Namespaced || o.GetNamespace() == "" {
			none.Kinds = append(none.Kinds, res)
		}
	}
	return plan.Update{Object: next, When: []plan.Guard{none}, Because: because}
}

// waitsShown bounds the dependents that an explanation names.
const waitsShown = 5

// foreground waits until no dependent that blocks is left. The dependents delete themselves:
// each is the primary of a decision of its own.
func (g *graph) foreground(r object.Reader, o object.Object) plan.Plan {
	var waits []plan.Wait
	g.dependents(r, o, func(d object.Object) bool {
		for _, ref := range d.GetOwnerReferences() {
			if ref.UID == o.GetUID() && blocks(ref) {
				waits = append(waits, plan.Wait{
					Reason: "DependentExists", On: object.RefOf(d), Since: o.GetDeletionTimestamp().Time,
					Message: fmt.Sprintf("%s must be gone before its owner", object.RefOf(d)),
				})
			}
		}
		return len(waits) < waitsShown
	})
	if len(waits) > 0 {
		return plan.Plan{Why: plan.Why{State: plan.Waiting, Next: "be deleted after its dependents", Waits: waits}}
	}
	return plan.Plan{Actions: []plan.Action{
		g.withoutFinalizer(o, metav1.FinalizerDeleteDependents, "no dependent blocks its deletion any longer", blocks),
	}}
}

// owners sorts an object's owner references by what became of the owners.
type owners struct {
	// solid exist, or cannot be judged; waiting wait for their dependents to go; dangling are
	// gone as far as the snapshot shows.
	solid, waiting, dangling []metav1.OwnerReference
	absent                   []object.Ref
	invalid                  []metav1.OwnerReference
}

func (g *graph) classify(r object.Reader, o object.Object) owners {
	var out owners
	for _, ref := range o.GetOwnerReferences() {
		res, known := resource.ByKind(ref.APIVersion, ref.Kind)
		if !known || !slices.Contains(g.kinds, res) {
			out.solid = append(out.solid, ref)
			continue
		}
		if res.Namespaced && o.GetNamespace() == "" {
			// Which namespace's owner is meant cannot be said: nothing is deleted for it.
			out.solid = append(out.solid, ref)
			out.invalid = append(out.invalid, ref)
			continue
		}
		owner, ok := lookup(r, o, ref, res)
		switch {
		case !ok:
			out.dangling = append(out.dangling, ref)
			absent := object.Ref{Resource: res, Key: object.Key{Name: ref.Name}, UID: ref.UID}
			if res.Namespaced {
				absent.Namespace = o.GetNamespace()
			}
			out.absent = append(out.absent, absent)
		case deletingWith(owner, metav1.FinalizerDeleteDependents):
			out.waiting = append(out.waiting, ref)
		default:
			out.solid = append(out.solid, ref)
		}
	}
	return out
}

// collect decides about an object that nobody deleted: keep it, free it of owners that go, or
// delete it with them.
func (g *graph) collect(r object.Reader, o object.Object) plan.Plan {
	by := g.classify(r, o)
	p := plan.Plan{Events: invalidOwners(o, by.invalid)}
	switch {
	case len(by.waiting) == 0 && len(by.dangling) == 0:
	case len(by.solid) > 0:
		p.Actions = []plan.Action{disown(o, by)}
	case len(by.waiting) > 0:
		p.Actions = g.withOwner(r, o, by)
	default:
		p.Actions = []plan.Action{deletion(o, by, policyOf(o), "its owner "+name(by.dangling[0])+" is gone")}
	}
	return p
}

func name(ref metav1.OwnerReference) string { return ref.Kind + " " + ref.Name }

func invalidOwners(o object.Object, refs []metav1.OwnerReference) []plan.Event {
	var out []plan.Event
	for _, ref := range refs {
		out = append(out, plan.Event{
			Regarding: object.RefOf(o), Type: corev1.EventTypeWarning, Reason: "OwnerRefInvalidNamespace",
			Message: fmt.Sprintf("ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
				ref.APIVersion, ref.Kind, o.GetNamespace(), ref.Name, ref.UID, o.GetNamespace()),
		})
	}
	return out
}

// disown drops the references to owners that go, because another one stays.
func disown(o object.Object, by owners) plan.Action {
	next := o.DeepCopyObject().(object.Object)
	next.SetOwnerReferences(slices.DeleteFunc(next.GetOwnerReferences(), func(ref metav1.OwnerReference) bool {
		return contains(by.dangling, ref) || contains(by.waiting, ref)
	}))
	return plan.Update{Object: next, When: plan.AllAbsent(by.absent...), Because: "it has another owner, " + name(by.solid[0])}
}

func contains(refs []metav1.OwnerReference, ref metav1.OwnerReference) bool {
	return slices.ContainsFunc(refs, func(other metav1.OwnerReference) bool { return other.UID == ref.UID })
}

// withOwner deletes an object along with the owner that waits for it: its own dependents first,
// when it has any.
func (g *graph) withOwner(r object.Reader, o object.Object, by owners) []plan.Action {
	var actions []plan.Action
	policy := policyOf(o)
	g.dependents(r, o, func(d object.Object) bool {
		policy = metav1.DeletePropagationForeground
		if deletingWith(d, metav1.FinalizerDeleteDependents) {
			// The two wait for each other: unless the circle is cut, neither goes.
			actions = append(actions, unblock(d, o))
		}
		return true
	})
	return append(actions, deletion(o, by, policy, "its owner "+name(by.waiting[0])+" is deleted with its dependents first"))
}

func unblock(dependent, owner object.Object) plan.Action {
	next := dependent.DeepCopyObject().(object.Object)
	refs := next.GetOwnerReferences()
	no := false
	for i := range refs {
		if refs[i].UID == owner.GetUID() {
			refs[i].BlockOwnerDeletion = &no
		}
	}
	next.SetOwnerReferences(refs)
	return plan.Update{Object: next, Because: "it and its owner wait for each other"}
}

func deletion(o object.Object, by owners, policy metav1.DeletionPropagation, because string) plan.Action {
	return plan.Delete{
		Object: object.RefOf(o), ResourceVersion: o.GetResourceVersion(), Propagation: policy, When: plan.AllAbsent(by.absent...), Because: because,
	}
}

// policyOf keeps to the policy that a finalizer set beforehand asks for.
func policyOf(o object.Object) metav1.DeletionPropagation {
	switch {
	case slices.Contains(o.GetFinalizers(), metav1.FinalizerOrphanDependents):
		return metav1.DeletePropagationOrphan
	case slices.Contains(o.GetFinalizers(), metav1.FinalizerDeleteDependents):
		return metav1.DeletePropagationForeground
	}
	return metav1.DeletePropagationBackground
}
