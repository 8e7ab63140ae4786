package kind

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/amount"
	"coracle/internal/kind/check"
	"coracle/internal/resource"
)

var resourceQuotas = Kind{
	Resource: resource.ResourceQuotas, Singular: "resourcequota", ShortNames: []string{"quota"},
	New:     func() runtime.Object { return &corev1.ResourceQuota{} },
	NewList: func() runtime.Object { return &corev1.ResourceQuotaList{} },
	Default: func(o runtime.Object) {
		q := o.(*corev1.ResourceQuota)
		amount.Round(q.Spec.Hard)
		amount.Round(q.Status.Hard)
		amount.Round(q.Status.Used)
	},
	Strategy: newStrategy(resource.ResourceQuotas, rules[*corev1.ResourceQuota]{
		prepareCreate: func(q *corev1.ResourceQuota) { q.Status = corev1.ResourceQuotaStatus{} },
		prepareUpdate: func(q, old *corev1.ResourceQuota) { q.Status = old.Status },
		validate: func(q *corev1.ResourceQuota) field.ErrorList {
			return append(validMeta(&q.ObjectMeta, true, validation.NameIsDNSSubdomain), validateQuotaSpec(&q.Spec)...)
		},
		validateUpdate: func(q, old *corev1.ResourceQuota) field.ErrorList {
			errs := validateQuotaSpec(&q.Spec)
			if !sameScopes(q.Spec.Scopes, old.Spec.Scopes) {
				errs = append(errs, field.Invalid(specPath.Child("scopes"), q.Spec.Scopes, check.Immutable))
			}
			return errs
		},
		resets: []string{"status"},
	}),
	Status: newStrategy(resource.ResourceQuotas, rules[*corev1.ResourceQuota]{
		prepareUpdate: func(q, old *corev1.ResourceQuota) { q.Spec = old.Spec },
		validateUpdate: func(q, old *corev1.ResourceQuota) field.ErrorList {
			errs := check.Required(field.NewPath("resourceVersion"), q.ResourceVersion)
			errs = append(errs, amount.ValidateQuota(q.Status.Hard, statusPath.Child("hard"))...)
			return append(errs, amount.ValidateQuota(q.Status.Used, statusPath.Child("used"))...)
		},
		resets: []string{"spec"},
	}),
	Columns: newTable(func(q *corev1.ResourceQuota, now time.Time) []any {
		var requests, limits []string
		for _, name := range slices.Sorted(maps.Keys(q.Status.Hard)) {
			used, hard := q.Status.Used[name], q.Status.Hard[name]
			cell := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
			if strings.HasPrefix(string(name), "limits") {
				limits = append(limits, cell)
			} else {
				requests = append(requests, cell)
			}
		}
		return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), age(q.CreationTimestamp, now)}
	}, nameColumn(),
		col("Request", "string", "What is used of what may be requested or counted."),
		col("Limit", "string", "What is used of what limits may come to."),
		ageColumn()),
	GetAttrs:         attrsOf(resource.ResourceQuotas, selectable[*corev1.ResourceQuota]{}),
	SelectableFields: metaFields(resource.ResourceQuotas),
}

func sameScopes(a, b []corev1.ResourceQuotaScope) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

func validateQuotaSpec(s *corev1.ResourceQuotaSpec) field.ErrorList {
	errs := amount.ValidateQuota(s.Hard, specPath.Child("hard"))
	at := specPath.Child("scopes")
	for _, scope := range s.Scopes {
		errs = append(errs, validateScope(scope, s, at, at, s.Scopes)...)
	}
	if conflicting(s.Scopes) {
		errs = append(errs, field.Invalid(at, s.Scopes, "conflicting scopes"))
	}
	if s.ScopeSelector == nil {
		return errs
	}
	at = specPath.Child("scopeSelector", "matchExpressions")
	var named []corev1.ResourceQuotaScope
	for i := range s.ScopeSelector.MatchExpressions {
		e := &s.ScopeSelector.MatchExpressions[i]
		named = append(named, e.ScopeName)
		errs = append(errs, validateScope(e.ScopeName, s, at.Child("scopeName"), at, s.ScopeSelector)...)
		errs = append(errs, validateScopeExpression(e, at)...)
	}
	if conflicting(named) {
		errs = append(errs, field.Invalid(at, s.Scopes, "conflicting scopes"))
	}
	return errs
}

func validateScopeExpression(e *corev1.ScopedResourceSelectorRequirement, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if e.ScopeName != corev1.ResourceQuotaScopePriorityClass && e.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass &&
		e.Operator != corev1.ScopeSelectorOpExists {
		errs = append(errs, field.Invalid(at.Child("operator"), e.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, "+
			"ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
	}
	switch e.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(e.Values) == 0 {
			errs = append(errs, field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(e.Values) > 0 {
			errs = append(errs, field.Invalid(at.Child("values"), e.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), e.Operator, "not a valid selector operator"))
	}
	return errs
}

func validateScope(scope corev1.ResourceQuotaScope, s *corev1.ResourceQuotaSpec, nameAt, at *field.Path, value any) field.ErrorList {
	var errs field.ErrorList
	switch scope {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
		corev1.ResourceQuotaScopeVolumeAttributesClass:
	default:
		errs = append(errs, field.Invalid(nameAt, value, "unsupported scope"))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Hard)) {
		if !scopeCovers(scope, name) {
			errs = append(errs, field.Invalid(at, value, "unsupported scope applied to resource"))
		}
	}
	return errs
}

// scopeCovers says whether a scope means anything for a resource: pods are counted by all of
// them, what containers ask for by those that leave them something to ask.
func scopeCovers(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods || !amount.Native(name)
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage || !amount.Native(name)
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		switch name {
		case corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
			corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
			corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage:
			return true
		}
		return !amount.Native(name) || strings.Contains(string(name), corev1.ResourceHugePagesPrefix)
	}
	return true
}

func conflicting(scopes []corev1.ResourceQuotaScope) bool {
	has := func(s corev1.ResourceQuotaScope) bool { return slices.Contains(scopes, s) }
	return has(corev1.ResourceQuotaScopeBestEffort) && has(corev1.ResourceQuotaScopeNotBestEffort) ||
		has(corev1.ResourceQuotaScopeTerminating) && has(corev1.ResourceQuotaScopeNotTerminating)
}
