// Package aggregation keeps the rules of ClusterRoles that gather those of others (rbac/v1 AggregationRule).
//
// It owns a pure planner. It refuses to say who may make such a role: that is the API server's.
package aggregation

import (
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// gathering files the roles that gather others' rules under one value: they are few.
const gathering = "gathering"

// Controller returns the planner.
func Controller() plan.Controller {
	return plan.Controller{
		Name: "clusterrole-aggregation-controller", For: resource.ClusterRoles, Plan: planRole,
		Cares: func(before, after object.Object) bool { return gathers(before) || gathers(after) },
		Indexes: []object.Index{{Resource: resource.ClusterRoles, Name: gathering, Values: func(o object.Object) []string {
			if gathers(o) {
				return []string{gathering}
			}
			return nil
		}}},
		Watches: []plan.Watch{{Resource: resource.ClusterRoles, Keys: gatherers}},
	}
}

func gathers(o object.Object) bool {
	r, ok := o.(*rbacv1.ClusterRole)
	return ok && r != nil && r.AggregationRule != nil
}

// gatherers asks for the roles that gather a role's rules, by its labels of before or after.
func gatherers(r object.Reader, before, after object.Object) []object.Key {
	if before != nil && after != nil && equality.Semantic.DeepEqual(before.GetLabels(), after.GetLabels()) &&
		equality.Semantic.DeepEqual(before.(*rbacv1.ClusterRole).Rules, after.(*rbacv1.ClusterRole).Rules) {
		return nil
	}
	var keys []object.Key
	for _, o := range r.Indexed(resource.ClusterRoles, gathering, gathering) {
		for _, selector := range selectors(o.(*rbacv1.ClusterRole)) {
			if before != nil && selector.Matches(labels.Set(before.GetLabels())) || after != nil && selector.Matches(labels.Set(after.GetLabels())) {
				keys = append(keys, object.KeyOf(o))
				break
			}
		}
	}
	return keys
}

// selectors are what a role gathers by. One that cannot be read finds nothing: validation lets none be stored.
func selectors(r *rbacv1.ClusterRole) []labels.Selector {
	var out []labels.Selector
	for i := range r.AggregationRule.ClusterRoleSelectors {
		if selector, err := metav1.LabelSelectorAsSelector(&r.AggregationRule.ClusterRoleSelectors[i]); err == nil {
			out = append(out, selector)
		}
	}
	return out
}

func planRole(in plan.Input) plan.Plan {
	o, ok := in.Reader.Get(resource.ClusterRoles, "", in.Key.Name)
	if !ok || !gathers(o) {
		return plan.Plan{}
	}
	role := o.(*rbacv1.ClusterRole)
	rules, parts := gathered(in.Reader, role)
	if equality.Semantic.DeepEqual(rules, role.Rules) {
		return plan.Plan{Why: plan.Why{State: plan.Steady}}
	}
	next := role.DeepCopy()
	next.Rules = rules
	return plan.Plan{
		Actions: []plan.Action{plan.Update{Object: next, Because: fmt.Sprintf("its rules are those of %d other roles", parts)}},
		Why:     plan.Why{State: plan.Progressing, Next: "gather the rules of the roles that its aggregationRule selects"},
	}
}

// gathered returns the rules of the roles that a role selects, by their names and selector by selector, each once, and how
// many roles those are. A role does not gather its own.
func gathered(r object.Reader, role *rbacv1.ClusterRole) ([]rbacv1.PolicyRule, int) {
	var rules []rbacv1.PolicyRule
	seen := map[string]bool{}
	all := r.List(resource.ClusterRoles, "")
	for _, selector := range selectors(role) {
		for _, o := range all {
			if o.GetName() == role.Name || !selector.Matches(labels.Set(o.GetLabels())) {
				continue
			}
			seen[o.GetName()] = true
			for _, rule := range o.(*rbacv1.ClusterRole).Rules {
				if !has(rules, rule) {
					rules = append(rules, *rule.DeepCopy())
				}
			}
		}
	}
	return rules, len(seen)
}

func has(rules []rbacv1.PolicyRule, rule rbacv1.PolicyRule) bool {
	for _, r := range rules {
		if equality.Semantic.DeepEqual(r, rule) {
			return true
		}
	}
	return false
}
