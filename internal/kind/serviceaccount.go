package kind

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/resource"
)

var serviceAccounts = Kind{
	Resource: resource.ServiceAccounts, Singular: "serviceaccount", ShortNames: []string{"sa"},
	New:     func() runtime.Object { return &corev1.ServiceAccount{} },
	NewList: func() runtime.Object { return &corev1.ServiceAccountList{} },
	Default: func(o runtime.Object) { nameSecretsOnly(o.(*corev1.ServiceAccount)) },
	Strategy: newStrategy(resource.ServiceAccounts, rules[*corev1.ServiceAccount]{
		prepareCreate: nameSecretsOnly,
		prepareUpdate: func(a, _ *corev1.ServiceAccount) { nameSecretsOnly(a) },
		validate: func(a *corev1.ServiceAccount) field.ErrorList {
			return validMeta(&a.ObjectMeta, true, validation.ValidateServiceAccountName)
		},
	}),
	Columns: newTable(func(a *corev1.ServiceAccount, now time.Time) []any {
		return []any{a.Name, int64(len(a.Secrets)), age(a.CreationTimestamp, now)}
	}, nameColumn(), col("Secrets", "string", "Number of secrets it may use."), ageColumn()),
	GetAttrs:         attrsOf(resource.ServiceAccounts, selectable[*corev1.ServiceAccount]{}),
	SelectableFields: metaFields(resource.ServiceAccounts),
}

// nameSecretsOnly drops what a reference to a secret of the same namespace need not say.
func nameSecretsOnly(a *corev1.ServiceAccount) {
	for i := range a.Secrets {
		a.Secrets[i] = corev1.ObjectReference{Name: a.Secrets[i].Name}
	}
}
