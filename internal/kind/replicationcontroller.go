package kind

import (
	"maps"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/kind/check"
	"coracle/internal/kind/podspec"
	"coracle/internal/resource"
)

var controllerFields = selectable[*corev1.ReplicationController]{
	names: []string{"status.replicas"},
	fill: func(r *corev1.ReplicationController, set fields.Set) {
		set["status.replicas"] = strconv.Itoa(int(r.Status.Replicas))
	},
}

var replicationControllers = Kind{
	Resource: resource.ReplicationControllers, Singular: "replicationcontroller", ShortNames: []string{"rc"}, Categories: categoryAll,
	New:     func() runtime.Object { return &corev1.ReplicationController{} },
	NewList: func() runtime.Object { return &corev1.ReplicationControllerList{} },
	Default: func(o runtime.Object) { defaultController(o.(*corev1.ReplicationController)) },
	Strategy: newStrategy(resource.ReplicationControllers, rules[*corev1.ReplicationController]{
		prepareCreate: func(r *corev1.ReplicationController) {
			r.Status, r.Generation = corev1.ReplicationControllerStatus{}, 1
		},
		prepareUpdate: func(r, old *corev1.ReplicationController) {
			r.Status = old.Status
			bump(r, !equality.Semantic.DeepEqual(&r.Spec, &old.Spec))
		},
		validate: func(r *corev1.ReplicationController) field.ErrorList {
			return append(validMeta(&r.ObjectMeta, true, validation.NameIsDNSSubdomain), validateControllerSpec(&r.Spec)...)
		},
		validateUpdate: func(r, old *corev1.ReplicationController) field.ErrorList {
			return validateControllerSpec(&r.Spec)
		},
		warn: func(r, old *corev1.ReplicationController) []string {
			if r.Spec.Template == nil {
				return nil
			}
			return warnTemplate(r.Name, r.Spec.Template, old == nil, old != nil && r.Generation != old.Generation)
		},
		// v1 has orphaned the pods of a deleted controller since before garbage collection.
		gc:     rest.OrphanDependents,
		resets: []string{"status"},
	}),
	Status: newStrategy(resource.ReplicationControllers, rules[*corev1.ReplicationController]{
		prepareUpdate: func(r, old *corev1.ReplicationController) { r.Spec = old.Spec },
		validateUpdate: func(r, old *corev1.ReplicationController) field.ErrorList {
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
		func(r *corev1.ReplicationController) (*int32, int32, *metav1.LabelSelector) {
			return r.Spec.Replicas, r.Status.Replicas, &metav1.LabelSelector{MatchLabels: r.Spec.Selector}
		},
		func(r *corev1.ReplicationController, n *int32) { r.Spec.Replicas = n }),
	Columns: newTable(func(r *corev1.ReplicationController, now time.Time) []any {
		var names, images string
		if r.Spec.Template != nil {
			names, images = containerCells(r.Spec.Template)
		}
		return []any{r.Name, int64(deref(r.Spec.Replicas)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas),
			age(r.CreationTimestamp, now), names, images, labels.FormatLabels(r.Spec.Selector)}
	}, replicaColumns()...),
	GetAttrs:         attrsOf(resource.ReplicationControllers, controllerFields),
	SelectableFields: append(metaFields(resource.ReplicationControllers), controllerFields.names...),
}

// defaultController: a controller without a selector selects what its template makes, and
// without labels is labelled like it.
func defaultController(r *corev1.ReplicationController) {
	if t := r.Spec.Template; t != nil {
		if len(t.Labels) > 0 {
			if len(r.Spec.Selector) == 0 {
				r.Spec.Selector = maps.Clone(t.Labels)
			}
			if len(r.Labels) == 0 {
				r.Labels = maps.Clone(t.Labels)
			}
		}
		podspec.DefaultTemplate(&t.Spec)
	}
	orOne(&r.Spec.Replicas)
}

func validateControllerSpec(s *corev1.ReplicationControllerSpec) field.ErrorList {
	errs := check.NonNegative(specPath.Child("minReadySeconds"), int64(s.MinReadySeconds))
	if len(s.Selector) == 0 {
		errs = append(errs, field.Required(specPath.Child("selector"), ""))
	}
	errs = append(errs, check.NonNegative(specPath.Child("replicas"), int64(deref(s.Replicas)))...)
	if s.Template == nil {
		return append(errs, field.Required(specPath.Child("template"), ""))
	}
	matches := labels.SelectorFromSet(s.Selector).Matches(labels.Set(s.Template.Labels))
	return append(errs, podspec.ValidateWorkloadTemplate(s.Template, matches, "ReplicationController", specPath.Child("template"))...)
}
