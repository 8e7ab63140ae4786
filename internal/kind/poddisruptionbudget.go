package kind

import (
	"time"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
	"coracle/internal/resource"
)

var podDisruptionBudgets = Kind{
	Resource: resource.PodDisruptionBudgets, Singular: "poddisruptionbudget", ShortNames: []string{"pdb"},
	New:     func() runtime.Object { return &policyv1.PodDisruptionBudget{} },
	NewList: func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} },
	Strategy: newStrategy(resource.PodDisruptionBudgets, rules[*policyv1.PodDisruptionBudget]{
		prepareCreate: func(b *policyv1.PodDisruptionBudget) {
			b.Status, b.Generation = policyv1.PodDisruptionBudgetStatus{}, 1
		},
		prepareUpdate: func(b, old *policyv1.PodDisruptionBudget) {
			b.Status = old.Status
			bump(b, !equality.Semantic.DeepEqual(&b.Spec, &old.Spec))
		},
		validate: func(b *policyv1.PodDisruptionBudget) field.ErrorList {
			return append(validMeta(&b.ObjectMeta, true, validation.NameIsDNSSubdomain), validateBudget(&b.Spec)...)
		},
		validateUpdate: func(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
			return validateBudget(&b.Spec)
		},
		needsVersion: true,
		resets:       []string{"status"},
	}),
	Status: newStrategy(resource.PodDisruptionBudgets, rules[*policyv1.PodDisruptionBudget]{
		prepareUpdate:  func(b, old *policyv1.PodDisruptionBudget) { b.Spec = old.Spec },
		validateUpdate: validateBudgetStatus,
		needsVersion:   true,
		resets:         []string{"spec"},
	}),
	Columns: newTable(func(b *policyv1.PodDisruptionBudget, now time.Time) []any {
		return []any{b.Name, orNA(b.Spec.MinAvailable), orNA(b.Spec.MaxUnavailable), int64(b.Status.DisruptionsAllowed), age(b.CreationTimestamp, now)}
	}, nameColumn(),
		col("Min Available", "string", "Pods that must stay available."),
		col("Max Unavailable", "string", "Pods that may be unavailable."),
		col("Allowed Disruptions", "integer", "Pods that may be evicted now."),
		ageColumn()),
	GetAttrs:         attrsOf(resource.PodDisruptionBudgets, selectable[*policyv1.PodDisruptionBudget]{}),
	SelectableFields: metaFields(resource.PodDisruptionBudgets),
}

func orNA(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}

func validateBudget(s *policyv1.PodDisruptionBudgetSpec) field.ErrorList {
	var errs field.ErrorList
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(specPath, s, "minAvailable and maxUnavailable cannot be both set"))
	}
	for _, f := range [...]struct {
		name  string
		value *intstr.IntOrString
	}{{"minAvailable", s.MinAvailable}, {"maxUnavailable", s.MaxUnavailable}} {
		errs = append(errs, validateShare(f.value, specPath.Child(f.name))...)
		errs = append(errs, atMostAll(f.value, specPath.Child(f.name))...)
	}
	errs = append(errs, metav1validation.ValidateLabelSelector(s.Selector, metav1validation.LabelSelectorValidationOptions{}, specPath.Child("selector"))...)
	if p := s.UnhealthyPodEvictionPolicy; p != nil {
		errs = append(errs, check.Among(specPath.Child("unhealthyPodEvictionPolicy"), *p, policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}

func validateBudgetStatus(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
	s := &b.Status
	errs := metav1validation.ValidateConditions(s.Conditions, statusPath.Child("conditions"))
	for _, f := range [...]struct {
		name  string
		value int32
	}{
		{"disruptionsAllowed", s.DisruptionsAllowed}, {"currentHealthy", s.CurrentHealthy},
		{"desiredHealthy", s.DesiredHealthy}, {"expectedPods", s.ExpectedPods},
	} {
		errs = append(errs, check.NonNegative(statusPath.Child(f.name), int64(f.value))...)
	}
	return errs
}
