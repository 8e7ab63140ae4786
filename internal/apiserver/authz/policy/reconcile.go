package policy

import (
	"errors"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
)

// Change is what is to be done to an object.
type Change string

// The changes.
const (
	None Change = ""
	// Update replaces the object.
	Update Change = "update"
	// Recreate deletes it and makes it anew: a binding cannot be made one to another role.
	Recreate Change = "recreate"
)

// Reconcile compares a stored role or binding with what the cluster should have. What is missing is added, and what there is
// more is kept, as upstream does at each start; an object that is annotated
// rbac.authorization.kubernetes.io/autoupdate=false is left alone. Neither is changed; the result is the caller's.
func Reconcile(stored, want runtime.Object) (Change, runtime.Object, error) {
	if held, want, ok := pair[rbacv1.ClusterRole](stored, want); ok {
		if equality.Semantic.DeepEqual(held.Rules, want.Rules) && equality.Semantic.DeepEqual(held.AggregationRule, want.AggregationRule) &&
			has(held.Annotations, want.Annotations) && has(held.Labels, want.Labels) {
			return None, nil, nil // as always but after an upgrade: the comparison below takes a millisecond for some
		}
		if want.AggregationRule != nil {
			want = want.DeepCopy()
			want.Rules = nil // they are the parts', which may be more by now
		}
		return compareRoles(reconciliation.ClusterRoleRuleOwner{ClusterRole: held}, reconciliation.ClusterRoleRuleOwner{ClusterRole: want})
	}
	if held, want, ok := pair[rbacv1.Role](stored, want); ok {
		return compareRoles(reconciliation.RoleRuleOwner{Role: held}, reconciliation.RoleRuleOwner{Role: want})
	}
	if held, want, ok := pair[rbacv1.ClusterRoleBinding](stored, want); ok {
		return compareBindings(reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: held},
			reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: want})
	}
	if held, want, ok := pair[rbacv1.RoleBinding](stored, want); ok {
		return compareBindings(reconciliation.RoleBindingAdapter{RoleBinding: held}, reconciliation.RoleBindingAdapter{RoleBinding: want})
	}
	return None, nil, fmt.Errorf("%T and %T are no roles or bindings of a kind", stored, want)
}

func pair[T any](stored, want runtime.Object) (held, wanted *T, ok bool) {
	held, ok = any(stored).(*T)
	if ok {
		wanted, ok = any(want).(*T)
	}
	return held, wanted, ok
}

func has(all, some map[string]string) bool {
	for k, v := range some {
		if held, ok := all[k]; !ok || held != v {
			return false
		}
	}
	return true
}

// errOnlyRead is for writes that are not asked for: without Confirm, reconciliation only compares.
var errOnlyRead = errors.New("a comparison writes nothing")

// storedRole is the one role that a comparison reads.
type storedRole struct{ reconciliation.RuleOwner }

func (s storedRole) Get(string, string) (reconciliation.RuleOwner, error) { return s.RuleOwner, nil }

func (storedRole) Create(reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	return nil, errOnlyRead
}

func (storedRole) Update(reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	return nil, errOnlyRead
}

func compareRoles(held, want reconciliation.RuleOwner) (Change, runtime.Object, error) {
	result, err := (&reconciliation.ReconcileRoleOptions{Role: want, Client: storedRole{held}}).Run()
	if err != nil || result.Protected || result.Operation != reconciliation.ReconcileUpdate {
		return None, nil, err
	}
	return Update, result.Role.GetObject(), nil
}

// storedBinding is the one binding that a comparison reads.
type storedBinding struct{ reconciliation.RoleBinding }

func (s storedBinding) Get(string, string) (reconciliation.RoleBinding, error) {
	return s.RoleBinding, nil
}

func (storedBinding) Create(reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	return nil, errOnlyRead
}

func (storedBinding) Update(reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	return nil, errOnlyRead
}

func (storedBinding) Delete(string, string, types.UID) error { return errOnlyRead }

func compareBindings(held, want reconciliation.RoleBinding) (Change, runtime.Object, error) {
	result, err := (&reconciliation.ReconcileRoleBindingOptions{RoleBinding: want, Client: storedBinding{held}}).Run()
	if err != nil || result.Protected {
		return None, nil, err
	}
	switch result.Operation {
	case reconciliation.ReconcileUpdate:
		return Update, result.RoleBinding.GetObject(), nil
	case reconciliation.ReconcileRecreate:
		return Recreate, want.GetObject(), nil
	}
	return None, nil, nil
}
