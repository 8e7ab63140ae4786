package kind

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
	"coracle/internal/resource"
)

var namespaceFields = selectable[*corev1.Namespace]{
	names: []string{"status.phase"},
	fill:  func(n *corev1.Namespace, set fields.Set) { set["status.phase"] = string(n.Status.Phase) },
}

var namespaces = Kind{
	Resource: resource.Namespaces, Singular: "namespace", ShortNames: []string{"ns"},
	New:     func() runtime.Object { return &corev1.Namespace{} },
	NewList: func() runtime.Object { return &corev1.NamespaceList{} },
	Default: func(o runtime.Object) { defaultNamespace(o.(*corev1.Namespace)) },
	Strategy: newStrategy(resource.Namespaces, rules[*corev1.Namespace]{
		prepareCreate: prepareNamespace,
		prepareUpdate: func(n, old *corev1.Namespace) {
			n.Spec.Finalizers = old.Spec.Finalizers
			n.Status = old.Status
		},
		validate: validateNamespace,
		resets:   []string{"status"},
	}),
	Status: newStrategy(resource.Namespaces, rules[*corev1.Namespace]{
		prepareUpdate: func(n, old *corev1.Namespace) { n.Spec = old.Spec },
		validateUpdate: func(n, old *corev1.Namespace) field.ErrorList {
			return validNamespacePhase(n)
		},
		resets: []string{"spec"},
	}),
	Subresources: map[string]Strategy{
		"finalize": newStrategy(resource.Namespaces, rules[*corev1.Namespace]{
			prepareUpdate:  func(n, old *corev1.Namespace) { n.Status = old.Status },
			validateUpdate: validateNamespaceFinalize,
			resets:         []string{"status"},
		}),
	},
	Columns: newTable(func(n *corev1.Namespace, now time.Time) []any {
		return []any{n.Name, string(n.Status.Phase), age(n.CreationTimestamp, now)}
	}, nameColumn(), col("Status", "string", "Active, or Terminating while its contents are removed."), ageColumn()),
	DeletedByUpdate: func(o, old runtime.Object) bool {
		ns := o.(*corev1.Namespace)
		return len(ns.Spec.Finalizers) == 0 && len(ns.Finalizers) == 0 && old.(*corev1.Namespace).DeletionTimestamp != nil
	},
	GetAttrs:         attrsOf(resource.Namespaces, namespaceFields),
	SelectableFields: append(metaFields(resource.Namespaces), namespaceFields.names...),
}

// defaultNamespace gives a namespace the label that says its name (KEP-2161).
func defaultNamespace(n *corev1.Namespace) {
	if n.Name != "" {
		if n.Labels == nil {
			n.Labels = map[string]string{}
		}
		n.Labels[corev1.LabelMetadataName] = n.Name
	}
	if n.Status.Phase == "" {
		n.Status.Phase = corev1.NamespaceActive
	}
}

func prepareNamespace(n *corev1.Namespace) {
	n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
		n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
	// A generated name was not known when the object was decoded.
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	if n.Name != "" {
		n.Labels[corev1.LabelMetadataName] = n.Name
	}
}

func validateNamespace(n *corev1.Namespace) field.ErrorList {
	errs := validMeta(&n.ObjectMeta, false, validation.ValidateNamespaceName)
	for i, f := range n.Spec.Finalizers {
		errs = append(errs, validFinalizer(string(f), specPath.Child("finalizers").Index(i))...)
	}
	return errs
}

func validNamespacePhase(n *corev1.Namespace) field.ErrorList {
	path := statusPath.Child("Phase")
	switch terminating := n.Status.Phase == corev1.NamespaceTerminating; {
	case n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceActive:
		return field.ErrorList{field.Invalid(path, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	case !n.DeletionTimestamp.IsZero() && !terminating:
		return field.ErrorList{field.Invalid(path, n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}

func validateNamespaceFinalize(n, old *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for i, f := range n.Spec.Finalizers {
		errs = append(errs, validFinalizer(string(f), specPath.Child("finalizers").Index(i))...)
	}
	return errs
}

// validFinalizer checks the name of a finalizer: qualified, or one of the standard ones.
func validFinalizer(name string, path *field.Path) field.ErrorList {
	errs := check.Qualified(path, name)
	if len(errs) == 0 && !standardFinalizer(name) {
		errs = append(errs, field.Invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified"))
	}
	return errs
}
