package aggregation_test

import (
	"fmt"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"coracle/internal/apiserver/authz/policy"
	"coracle/internal/cluster/aggregation"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scenario"
	"coracle/internal/scenario/model"
)

func TestScenarios(t *testing.T) { scenario.Run(t, "testdata", aggregation.Controller()) }

// TestPolicyIsWhole: the roles that a cluster begins with have gathered what they gather.
func TestPolicyIsWhole(t *testing.T) {
	ctl := aggregation.Controller()
	w := model.New(scenario.Epoch, ctl)
	for _, r := range policy.ClusterRoles() {
		w.Put(r)
	}
	for _, r := range policy.ClusterRoles() {
		if p := ctl.Plan(plan.Input{Reader: w, Key: object.KeyOf(r), Now: w.Now}); len(p.Actions) > 0 {
			t.Errorf("%s: %s", r.Name, p.Actions[0].Reason())
		}
	}
}

// TestRulesAreTheParts: whatever roles come, change and go, each change asks for the roles that it bears on, and planning
// those until nobody asks leaves every role with the rules of what it selects, sums of sums included.
func TestRulesAreTheParts(t *testing.T) {
	ctl := aggregation.Controller()
	rapid.Check(t, func(t *rapid.T) {
		w := model.New(scenario.Epoch, ctl)
		names := []string{"a", "b", "c", "d", "e"}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			name := rapid.SampledFrom(names).Draw(t, "name")
			before, _ := w.Get(resource.ClusterRoles, "", name)
			var after object.Object
			if rapid.IntRange(0, 3).Draw(t, "goes") == 0 {
				w.Remove(resource.ClusterRoles, "", name)
			} else {
				after = w.Put(role(t, name, names))
			}
			if before != nil || after != nil {
				carryOut(t, w, ctl, before, after)
			}
		}
		for _, o := range w.List(resource.ClusterRoles, "") {
			if p := ctl.Plan(plan.Input{Reader: w, Key: object.KeyOf(o), Now: w.Now}); len(p.Actions) > 0 {
				t.Fatalf("nobody asked for %s, whose rules are not its parts'", o.GetName())
			}
		}
	})
}

// role is a role of one rule, or one that gathers roles of later names: circles would gather for ever, in upstream too.
func role(t *rapid.T, name string, names []string) *rbacv1.ClusterRole {
	label := rapid.SampledFrom(names).Draw(t, "label")
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"for": label}}}
	if rapid.Bool().Draw(t, "gathers") {
		r.AggregationRule = &rbacv1.AggregationRule{}
		for _, of := range names {
			if of > name && rapid.Bool().Draw(t, "of") {
				r.AggregationRule.ClusterRoleSelectors = append(r.AggregationRule.ClusterRoleSelectors, metav1.LabelSelector{MatchLabels: map[string]string{"for": of}})
			}
		}
		r.Labels["for"] = name
		return r
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "rules") {
		r.Rules = append(r.Rules, rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{fmt.Sprint(name, i)}})
	}
	return r
}

// carryOut plans what a change asks for, and what that asks for in turn.
func carryOut(t *rapid.T, w *model.World, ctl plan.Controller, before, after object.Object) {
	type change struct{ before, after object.Object }
	changes := []change{{before, after}}
	for n := 0; len(changes) > 0; n++ {
		if n > 100 {
			t.Fatal("it does not come to an end")
		}
		c := changes[0]
		changes = changes[1:]
		keys := ctl.Watches[0].Keys(w, c.before, c.after)
		if ctl.Cares(c.before, c.after) {
			o := c.after
			if o == nil {
				o = c.before
			}
			keys = append(keys, object.KeyOf(o))
		}
		for _, k := range keys {
			was, ok := w.Get(resource.ClusterRoles, "", k.Name)
			p := ctl.Plan(plan.Input{Reader: w, Key: k, Now: w.Now})
			if len(p.Actions) == 0 {
				continue
			}
			w.Apply(p)
			is, _ := w.Get(resource.ClusterRoles, "", k.Name)
			if !ok || equality.Semantic.DeepEqual(was.(*rbacv1.ClusterRole).Rules, is.(*rbacv1.ClusterRole).Rules) {
				t.Fatalf("the plan for %s changed nothing", k)
			}
			changes = append(changes, change{was, is})
		}
	}
}
