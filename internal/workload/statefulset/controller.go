// Package statefulset decides how a StatefulSet comes to its pods: which identities exist, in which
// order they come and go, at which revision each is, which claims they hold, and what the status
// says.
//
// It owns those decisions as one pure function of a snapshot (see Controller). It refuses to create
// a second pod for an identity while the first still has an object, whatever became of its node;
// it refuses deletion of claims, which only owner references and the garbage collector do.
//
// Behaviour is that of Kubernetes v1.37 (apps/v1 API documentation; KEP-961 maxUnavailable,
// KEP-1847 claim retention, KEP-3335 start ordinal), with additions by annotation. docs/design lists the deliberate differences.
package statefulset

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/diagnose"
	"coracle/internal/workload/refusal"
	"coracle/internal/workload/revision"
	"coracle/internal/workload/routed"
	"coracle/internal/workload/succession"
)

// ReserveOrdinals is the annotation that lists ordinals which get no pod, such as "1,3". The set
// still has spec.replicas pods: it skips the reserved ones and goes further up. The other
// annotation of this planner is progress.Annotation.
const ReserveOrdinals = "coracle.io/reserve-ordinals"

const controllerName = "statefulset-controller"

var controllerKind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

// Controller returns the StatefulSet planner.
func Controller() plan.Controller {
	return plan.Controller{
		Name: controllerName,
		For:  resource.StatefulSets,
		Watches: append([]plan.Watch{
			{Resource: resource.Pods, Keys: podKeys},
			{Resource: resource.PersistentVolumeClaims, Keys: claimKeys},
			{Resource: resource.StorageClasses, Keys: classKeys},
			revisions,
		}, append(refusal.Watches(resource.StatefulSets, lacks), routed.Watches(controllerKind.Kind)...)...),
		Indexes: append(diagnose.Indexes(), routed.Indexes()...),
		Successions: []plan.Succession{
			{Resource: resource.Pods, Of: succession.Of(controllerKind.Kind)},
			{Resource: resource.PersistentVolumeClaims, Of: func(o object.Object) bool { _, _, ok := split(o.GetName()); return ok }},
			{Resource: resource.ControllerRevisions, Of: succession.Of(controllerKind.Kind)},
		},
		Plan: Plan,
	}
}

// lacks says that a set has fewer pods than asked for, or waits to grow its claims, by its status.
func lacks(o object.Object) bool {
	set, ok := o.(*appsv1.StatefulSet)
	return ok && (set.Spec.Replicas == nil || set.Status.Replicas < *set.Spec.Replicas || set.Status.ObservedGeneration < set.Generation ||
		slices.ContainsFunc(set.Status.Conditions, func(c appsv1.StatefulSetCondition) bool {
			return c.Type == ClaimsResized && c.Status != corev1.ConditionTrue
		}))
}

// podKeys: a pod bears on its controller, or as an orphan on the sets that might adopt it; and any
// pod on the set whose identity its name occupies.
func podKeys(r object.Reader, before, after object.Object) []object.Key {
	if alike(before, after) {
		return nil
	}
	keys := members.Keys(r, before, after)
	o := after
	if o == nil {
		o = before
	}
	if parent, _, ok := split(o.GetName()); ok {
		if _, exists := r.Get(resource.StatefulSets, o.GetNamespace(), parent); exists {
			keys = with(keys, object.Key{Namespace: o.GetNamespace(), Name: parent})
		}
	}
	return keys
}

var (
	members   = claim.Watch(resource.Pods, resource.StatefulSets, Selector, nil)
	revisions = revision.Watch(resource.StatefulSets, Selector)
)

func alike(before, after object.Object) bool {
	a, ok1 := before.(*corev1.Pod)
	b, ok2 := after.(*corev1.Pod)
	return ok1 && ok2 && podstate.Alike(a, b) && neverServed(a) == neverServed(b)
}

// Selector reads which pods a StatefulSet calls its own.
func Selector(o object.Object) (labels.Selector, error) {
	return metav1.LabelSelectorAsSelector(o.(*appsv1.StatefulSet).Spec.Selector)
}

// claimKeys: a claim bears on the sets whose identities use it. Its name does not say where the
// template's name ends and the set's begins, so every split is looked up.
func claimKeys(r object.Reader, before, after object.Object) []object.Key {
	o := after
	if o == nil {
		o = before
	}
	if before != nil && after != nil && !claimChanged(before, after) {
		return nil
	}
	rest, _, ok := split(o.GetName())
	if !ok {
		return nil
	}
	var keys []object.Key
	for i := strings.IndexByte(rest, '-'); i >= 0; {
		if _, exists := r.Get(resource.StatefulSets, o.GetNamespace(), rest[i+1:]); exists {
			keys = append(keys, object.Key{Namespace: o.GetNamespace(), Name: rest[i+1:]})
		}
		next := strings.IndexByte(rest[i+1:], '-')
		if next < 0 {
			break
		}
		i += 1 + next
	}
	return keys
}

// classKeys: a storage class bears on the sets that wait for leave to grow their claims.
func classKeys(r object.Reader, before, after object.Object) []object.Key {
	old, _ := before.(*storagev1.StorageClass)
	class, _ := after.(*storagev1.StorageClass)
	if class == nil || old != nil && allowsGrowth(old) == allowsGrowth(class) {
		return nil
	}
	var keys []object.Key
	for _, o := range r.List(resource.StatefulSets, "") {
		set, ok := o.(*appsv1.StatefulSet)
		if !ok || len(set.Spec.VolumeClaimTemplates) == 0 {
			continue
		}
		for i := range set.Status.Conditions {
			if set.Status.Conditions[i].Type == ClaimsResized {
				keys = append(keys, object.KeyOf(set))
			}
		}
	}
	return keys
}

func allowsGrowth(class *storagev1.StorageClass) bool {
	return class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion
}

// claimChanged says whether an update of a claim can change a decision: its owners, its end, its
// phase or its size.
func claimChanged(before, after object.Object) bool {
	a, ok1 := before.(*corev1.PersistentVolumeClaim)
	b, ok2 := after.(*corev1.PersistentVolumeClaim)
	if !ok1 || !ok2 || a.UID != b.UID || a.Status.Phase != b.Status.Phase ||
		(a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) ||
		len(a.OwnerReferences) != len(b.OwnerReferences) {
		return true
	}
	for i := range a.OwnerReferences {
		if a.OwnerReferences[i].UID != b.OwnerReferences[i].UID {
			return true
		}
	}
	return !a.Spec.Resources.Requests.Storage().Equal(*b.Spec.Resources.Requests.Storage())
}

func with(keys []object.Key, k object.Key) []object.Key {
	for _, have := range keys {
		if have == k {
			return keys
		}
	}
	return append(keys, k)
}
