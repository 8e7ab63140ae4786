package kind

import (
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
	"coracle/internal/kind/podspec"
	"coracle/internal/resource"
)

var replicaSetFields = selectable[*appsv1.ReplicaSet]{
	names: []string{"status.replicas"},
	fill: func(r *appsv1.ReplicaSet, set fields.Set) {
		set["status.replicas"] = strconv.Itoa(int(r.Status.Replicas))
	},
}

var replicaSets = Kind{
	Resource: resource.ReplicaSets, Singular: "replicaset", ShortNames: []string{"rs"}, Categories: categoryAll,
	New:     func() runtime.Object { return &appsv1.ReplicaSet{} },
	NewList: func() runtime.Object { return &appsv1.ReplicaSetList{} },
	Default: func(o runtime.Object) {
		r := o.(*appsv1.ReplicaSet)
		orOne(&r.Spec.Replicas)
		podspec.DefaultTemplate(&r.Spec.Template.Spec)
	},
	Strategy: newStrategy(resource.ReplicaSets, rules[*appsv1.ReplicaSet]{
		prepareCreate: func(r *appsv1.ReplicaSet) {
			r.Status, r.Generation = appsv1.ReplicaSetStatus{}, 1
		},
		prepareUpdate: func(r, old *appsv1.ReplicaSet) {
			r.Status = old.Status
			bump(r, !equality.Semantic.DeepEqual(&r.Spec, &old.Spec))
		},
		validate: func(r *appsv1.ReplicaSet) field.ErrorList {
			return append(validMeta(&r.ObjectMeta, true, validation.NameIsDNSSubdomain), validateReplicaSetSpec(&r.Spec)...)
		},
		validateUpdate: func(r, old *appsv1.ReplicaSet) field.ErrorList {
			errs := validateReplicaSetSpec(&r.Spec)
			return append(errs, check.Unchanged(specPath.Child("selector"), r.Spec.Selector, old.Spec.Selector)...)
		},
		warn: func(r, old *appsv1.ReplicaSet) []string {
			return warnTemplate(r.Name, &r.Spec.Template, old == nil, old != nil && r.Generation != old.Generation)
		},
		resets: []string{"status"},
	}),
	Status: newStrategy(resource.ReplicaSets, rules[*appsv1.ReplicaSet]{
		prepareUpdate: func(r, old *appsv1.ReplicaSet) { r.Spec = old.Spec },
		validateUpdate: func(r, old *appsv1.ReplicaSet) field.ErrorList {
			s := &r.Status
			var errs field.ErrorList
			errs = append(errs, validateCounts(s.Replicas, statusPath, count{"fullyLabeledReplicas", s.FullyLabeledReplicas},
				count{"readyReplicas", s.ReadyReplicas}, count{"availableReplicas", s.AvailableReplicas})...)
			errs = append(errs, availableIsReady(s.AvailableReplicas, s.ReadyReplicas, statusPath)...)
			return append(errs, check.NonNegative(statusPath.Child("observedGeneration"), s.ObservedGeneration)...)
		},
		resets: []string{"spec"},
	}),
	Scale: scaling(
		func(r *appsv1.ReplicaSet) (*int32, int32, *metav1.LabelSelector) {
			return r.Spec.Replicas, r.Status.Replicas, r.Spec.Selector
		},
		func(r *appsv1.ReplicaSet, n *int32) { r.Spec.Replicas = n }),
	Columns: newTable(func(r *appsv1.ReplicaSet, now time.Time) []any {
		names, images := containerCells(&r.Spec.Template)
		return []any{r.Name, int64(deref(r.Spec.Replicas)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas),
			age(r.CreationTimestamp, now), names, images, metav1.FormatLabelSelector(r.Spec.Selector)}
	}, replicaColumns()...),
	GetAttrs:         attrsOf(resource.ReplicaSets, replicaSetFields),
	SelectableFields: append(metaFields(resource.ReplicaSets), replicaSetFields.names...),
}

// replicaColumns are those of ReplicaSets and ReplicationControllers.
func replicaColumns() []column {
	return append([]column{
		nameColumn(),
		col("Desired", "integer", "Replicas asked for."),
		col("Current", "integer", "Replicas there are."),
		col("Ready", "integer", "Replicas that are ready."),
		ageColumn(),
	}, append(containerColumns(), selectorColumn())...)
}

func validateReplicaSetSpec(s *appsv1.ReplicaSetSpec) field.ErrorList {
	errs := check.NonNegative(specPath.Child("replicas"), int64(deref(s.Replicas)))
	errs = append(errs, check.NonNegative(specPath.Child("minReadySeconds"), int64(s.MinReadySeconds))...)
	// The wording says deployment upstream, too.
	errs = append(errs, validateSelector(s.Selector, "empty selector is invalid for deployment", specPath.Child("selector"))...)
	return append(errs, validateTemplate(&s.Template, s.Selector, "ReplicaSet", specPath)...)
}
