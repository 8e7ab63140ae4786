package kind

import (
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/resource"
)

// roles are rights within one namespace. Who has them is a binding's to say; whether whoever writes one may give what it
// gives is checked where the API server knows its rights (package authz).
var roles = Kind{
	Resource: resource.Roles, Singular: "role",
	New:     func() runtime.Object { return &rbacv1.Role{} },
	NewList: func() runtime.Object { return &rbacv1.RoleList{} },
	Strategy: newStrategy(resource.Roles, rules[*rbacv1.Role]{
		validate:       validateRole,
		validateUpdate: func(r, _ *rbacv1.Role) field.ErrorList { return validateRole(r) },
		createOnUpdate: true,
	}),
	Columns: newTable(func(r *rbacv1.Role, _ time.Time) []any {
		return []any{r.Name, r.CreationTimestamp.UTC().Format(time.RFC3339)}
	}, nameColumn(), createdAtColumn()),
	GetAttrs:         attrsOf(resource.Roles, selectable[*rbacv1.Role]{}),
	SelectableFields: metaFields(resource.Roles),
}

// clusterRoles are rights in every namespace, or in the one of the RoleBinding that refers to them, and on what is in no
// namespace or no resource. The rules of one with an aggregationRule are kept by cluster/aggregation.
var clusterRoles = Kind{
	Resource: resource.ClusterRoles, Singular: "clusterrole",
	New:     func() runtime.Object { return &rbacv1.ClusterRole{} },
	NewList: func() runtime.Object { return &rbacv1.ClusterRoleList{} },
	Strategy: newStrategy(resource.ClusterRoles, rules[*rbacv1.ClusterRole]{
		validate:       validateClusterRole,
		validateUpdate: func(r, _ *rbacv1.ClusterRole) field.ErrorList { return validateClusterRole(r) },
		createOnUpdate: true,
	}),
	Columns: newTable(func(r *rbacv1.ClusterRole, _ time.Time) []any {
		return []any{r.Name, r.CreationTimestamp.UTC().Format(time.RFC3339)}
	}, nameColumn(), createdAtColumn()),
	GetAttrs:         attrsOf(resource.ClusterRoles, selectable[*rbacv1.ClusterRole]{}),
	SelectableFields: metaFields(resource.ClusterRoles),
}

func createdAtColumn() column { return col("Created At", "date", "When the object was created.") }

// anyPathSegment lets a role or a binding have any name that a URL can hold, such as system:node.
func anyPathSegment(name string, _ bool) []string { return content.IsPathSegmentName(name) }

func validateRole(r *rbacv1.Role) field.ErrorList {
	errs := validMeta(&r.ObjectMeta, true, anyPathSegment)
	for i := range r.Rules {
		errs = append(errs, validatePolicyRule(&r.Rules[i], true, field.NewPath("rules").Index(i))...)
	}
	return errs
}

func validateClusterRole(r *rbacv1.ClusterRole) field.ErrorList {
	errs := validMeta(&r.ObjectMeta, false, anyPathSegment)
	for i := range r.Rules {
		errs = append(errs, validatePolicyRule(&r.Rules[i], false, field.NewPath("rules").Index(i))...)
	}
	if r.AggregationRule == nil {
		return errs
	}
	at := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(r.AggregationRule.ClusterRoleSelectors) == 0 {
		errs = append(errs, field.Required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		selector := &r.AggregationRule.ClusterRoleSelectors[i]
		errs = append(errs, metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, at.Index(i))...)
		if _, err := metav1.LabelSelectorAsSelector(selector); err != nil {
			errs = append(errs, field.Invalid(at.Index(i), selector, err.Error()))
		}
	}
	return errs
}

// validatePolicyRule checks one rule: it is about resources or about other URLs, and a namespace has none of the latter.
func validatePolicyRule(r *rbacv1.PolicyRule, namespaced bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Verbs) == 0 {
		errs = append(errs, field.Required(at.Child("verbs"), "verbs must contain at least one value"))
	}
	if len(r.NonResourceURLs) > 0 {
		if namespaced {
			errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
		}
		if len(r.APIGroups) > 0 || len(r.Resources) > 0 || len(r.ResourceNames) > 0 {
			errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs,
				"rules cannot apply to both regular resources and non-resource URLs"))
		}
		return errs
	}
	if len(r.APIGroups) == 0 {
		errs = append(errs, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
	}
	if len(r.Resources) == 0 {
		errs = append(errs, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
	}
	return errs
}
