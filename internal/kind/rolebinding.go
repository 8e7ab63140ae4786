package kind

import (
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/resource"
)

// roleBindings give the rights of a Role, or of a ClusterRole within the namespace, to subjects.
var roleBindings = Kind{
	Resource: resource.RoleBindings, Singular: "rolebinding",
	New:     func() runtime.Object { return &rbacv1.RoleBinding{} },
	NewList: func() runtime.Object { return &rbacv1.RoleBindingList{} },
	Default: func(o runtime.Object) {
		b := o.(*rbacv1.RoleBinding)
		defaultBinding(&b.RoleRef, b.Subjects)
	},
	Strategy: newStrategy(resource.RoleBindings, rules[*rbacv1.RoleBinding]{
		validate: validateRoleBinding,
		validateUpdate: func(b, old *rbacv1.RoleBinding) field.ErrorList {
			return append(validateRoleBinding(b), sameRole(b.RoleRef, old.RoleRef)...)
		},
		createOnUpdate: true,
	}),
	Columns: newTable(func(b *rbacv1.RoleBinding, now time.Time) []any {
		return bindingRow(b.Name, b.RoleRef, b.Subjects, age(b.CreationTimestamp, now))
	}, bindingColumns()...),
	GetAttrs:         attrsOf(resource.RoleBindings, selectable[*rbacv1.RoleBinding]{}),
	SelectableFields: metaFields(resource.RoleBindings),
}

// clusterRoleBindings give the rights of a ClusterRole everywhere.
var clusterRoleBindings = Kind{
	Resource: resource.ClusterRoleBindings, Singular: "clusterrolebinding",
	New:     func() runtime.Object { return &rbacv1.ClusterRoleBinding{} },
	NewList: func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} },
	Default: func(o runtime.Object) {
		b := o.(*rbacv1.ClusterRoleBinding)
		defaultBinding(&b.RoleRef, b.Subjects)
	},
	Strategy: newStrategy(resource.ClusterRoleBindings, rules[*rbacv1.ClusterRoleBinding]{
		validate: validateClusterRoleBinding,
		validateUpdate: func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
			return append(validateClusterRoleBinding(b), sameRole(b.RoleRef, old.RoleRef)...)
		},
		createOnUpdate: true,
	}),
	Columns: newTable(func(b *rbacv1.ClusterRoleBinding, now time.Time) []any {
		return bindingRow(b.Name, b.RoleRef, b.Subjects, age(b.CreationTimestamp, now))
	}, bindingColumns()...),
	GetAttrs:         attrsOf(resource.ClusterRoleBindings, selectable[*rbacv1.ClusterRoleBinding]{}),
	SelectableFields: metaFields(resource.ClusterRoleBindings),
}

// The kinds of role that a binding can refer to.
const (
	roleKind        = "Role"
	clusterRoleKind = "ClusterRole"
)

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	if ref.APIGroup == "" {
		ref.APIGroup = rbacv1.GroupName
	}
	for i := range subjects {
		if s := &subjects[i]; s.APIGroup == "" && (s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind) {
			s.APIGroup = rbacv1.GroupName
		}
	}
}

func bindingColumns() []column {
	return []column{
		nameColumn(),
		col("Role", "string", "The role whose rights are given."),
		ageColumn(),
		wide("Users", "string", "The users that have them."),
		wide("Groups", "string", "The groups that have them."),
		wide("ServiceAccounts", "string", "The service accounts that have them."),
	}
}

func bindingRow(name string, ref rbacv1.RoleRef, subjects []rbacv1.Subject, age string) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []any{
		name, ref.Kind + "/" + ref.Name, age,
		strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", "),
	}
}

func validateRoleBinding(b *rbacv1.RoleBinding) field.ErrorList {
	errs := validMeta(&b.ObjectMeta, true, anyPathSegment)
	errs = append(errs, validateRoleRef(b.RoleRef, roleKind, clusterRoleKind)...)
	return append(errs, validateSubjects(b.Subjects, true)...)
}

func validateClusterRoleBinding(b *rbacv1.ClusterRoleBinding) field.ErrorList {
	errs := validMeta(&b.ObjectMeta, false, anyPathSegment)
	errs = append(errs, validateRoleRef(b.RoleRef, clusterRoleKind)...)
	return append(errs, validateSubjects(b.Subjects, false)...)
}

func validateRoleRef(ref rbacv1.RoleRef, kinds ...string) field.ErrorList {
	at := field.NewPath("roleRef")
	var errs field.ErrorList
	if ref.APIGroup != rbacv1.GroupName {
		errs = append(errs, field.NotSupported(at.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	known := false
	for _, kind := range kinds {
		known = known || ref.Kind == kind
	}
	if !known {
		errs = append(errs, field.NotSupported(at.Child("kind"), ref.Kind, kinds))
	}
	if ref.Name == "" {
		return append(errs, field.Required(at.Child("name"), ""))
	}
	for _, msg := range anyPathSegment(ref.Name, false) {
		errs = append(errs, field.Invalid(at.Child("name"), ref.Name, msg))
	}
	return errs
}

func validateSubjects(subjects []rbacv1.Subject, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i := range subjects {
		errs = append(errs, validateSubject(&subjects[i], namespaced, field.NewPath("subjects").Index(i))...)
	}
	return errs
}

func validateSubject(s *rbacv1.Subject, namespaced bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	person := func(empty string) {
		if s.Name == "" {
			errs = append(errs, field.Invalid(at.Child("name"), s.Name, empty))
		}
		if s.APIGroup != rbacv1.GroupName {
			errs = append(errs, field.NotSupported(at.Child("apiGroup"), s.APIGroup, []string{rbacv1.GroupName}))
		}
	}
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			for _, msg := range validation.ValidateServiceAccountName(s.Name, false) {
				errs = append(errs, field.Invalid(at.Child("name"), s.Name, msg))
			}
		}
		if s.APIGroup != "" {
			errs = append(errs, field.NotSupported(at.Child("apiGroup"), s.APIGroup, []string{""}))
		}
		if !namespaced && s.Namespace == "" {
			errs = append(errs, field.Required(at.Child("namespace"), ""))
		}
	case rbacv1.UserKind:
		person("user name cannot be empty")
	case rbacv1.GroupKind:
		person("group name cannot be empty")
	default:
		errs = append(errs, field.NotSupported(at.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
	}
	return errs
}

// sameRole refuses to make a binding one to another role: whoever may hand a role on need not be whoever chose it.
func sameRole(ref, old rbacv1.RoleRef) field.ErrorList {
	if ref == old {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("roleRef"), ref, "cannot change roleRef")}
}
