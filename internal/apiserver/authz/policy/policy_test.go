package policy

import (
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// everything is the whole policy.
func everything() []runtime.Object {
	var out []runtime.Object
	for _, o := range ClusterRoles() {
		out = append(out, o)
	}
	for _, o := range ClusterRoleBindings() {
		out = append(out, o)
	}
	for _, o := range Roles() {
		out = append(out, o)
	}
	for _, o := range RoleBindings() {
		out = append(out, o)
	}
	return out
}

// TestBindingsHaveRoles: every binding is to a role of the policy, and each name is there once.
func TestBindingsHaveRoles(t *testing.T) {
	known := map[string]bool{}
	for _, r := range ClusterRoles() {
		if known[r.Name] {
			t.Errorf("role %s is there twice", r.Name)
		}
		known[r.Name] = true
		if len(r.Rules) == 0 {
			t.Errorf("role %s gives nothing", r.Name)
		}
	}
	for _, r := range Roles() {
		known[r.Namespace+"/"+r.Name] = true
	}
	for _, b := range ClusterRoleBindings() {
		if !known[b.RoleRef.Name] {
			t.Errorf("binding %s is to no role", b.Name)
		}
	}
	for _, b := range RoleBindings() {
		if !known[b.Namespace+"/"+b.RoleRef.Name] {
			t.Errorf("binding %s/%s is to no role", b.Namespace, b.Name)
		}
	}
}

// TestSums: admin may all that edit may, and that all that view may; none of them may give more rights to somebody outside
// of the namespace, and view sees no secret and opens no terminal.
func TestSums(t *testing.T) {
	roles := map[string]*rbacv1.ClusterRole{}
	for _, r := range ClusterRoles() {
		roles[r.Name] = r
	}
	says := func(role, resource, verb string) bool {
		return slices.ContainsFunc(roles[role].Rules, func(r rbacv1.PolicyRule) bool {
			return slices.Contains(r.Resources, resource) && slices.Contains(r.Verbs, verb)
		})
	}
	for _, c := range []struct {
		resource, verb    string
		view, edit, admin bool
	}{
		{"pods", "list", true, true, true}, {"pods/log", "get", true, true, true}, {"pods", "create", false, true, true},
		{"secrets", "get", false, true, true}, {"pods/exec", "create", false, true, true}, {"roles", "create", false, false, true},
		{"rolebindings", "get", false, false, true}, {"clusterroles", "get", false, false, false}, {"nodes", "list", false, false, false},
		{"resourcequotas", "update", false, false, false}, {"networkpolicies", "create", false, true, true},
	} {
		for role, want := range map[string]bool{"view": c.view, "edit": c.edit, "admin": c.admin} {
			if says(role, c.resource, c.verb) != want {
				t.Errorf("%s: %s %s is %v", role, c.verb, c.resource, !want)
			}
		}
	}
}

// TestReconcile: what is missing is added, what there is more is kept, and who wants to be left alone is.
func TestReconcile(t *testing.T) {
	for _, o := range everything() {
		if change, _, err := Reconcile(o.DeepCopyObject(), o); change != None || err != nil {
			t.Errorf("%T as it should be: %q %v", o, change, err)
		}
	}
	find := func(name string) *rbacv1.ClusterRole {
		i := slices.IndexFunc(ClusterRoles(), func(r *rbacv1.ClusterRole) bool { return r.Name == name })
		return ClusterRoles()[i]
	}
	want := find("system:basic-user")
	held := want.DeepCopy()
	held.Labels, held.Annotations = map[string]string{"mine": "a"}, nil
	held.Rules = []rbacv1.PolicyRule{want.Rules[0], can("get", core, "pods")}
	change, next, err := Reconcile(held, want)
	if change != Update || err != nil {
		t.Fatalf("a rule is missing: %q %v", change, err)
	}
	got := next.(*rbacv1.ClusterRole)
	if d := cmp.Diff([]rbacv1.PolicyRule{want.Rules[0], can("get", core, "pods"), want.Rules[1]}, got.Rules); d != "" {
		t.Error(d)
	}
	if got.Labels["mine"] != "a" || got.Labels[bootstrapping] != defaults || got.Annotations[rbacv1.AutoUpdateAnnotationKey] != "true" {
		t.Errorf("labels %v, annotations %v", got.Labels, got.Annotations)
	}
	held.Annotations = map[string]string{rbacv1.AutoUpdateAnnotationKey: "false"}
	if change, _, _ := Reconcile(held, want); change != None {
		t.Error("a role that wants to be left alone is not")
	}
	// A sum has the rules of what else its selectors find.
	view := find("view")
	more := view.DeepCopy()
	more.Rules = append([]rbacv1.PolicyRule{can("get", core, "widgets")}, more.Rules[1:]...)
	if change, _, err := Reconcile(more, view); change != None || err != nil {
		t.Errorf("a sum of other parts: %q %v", change, err)
	}
	more.AggregationRule = nil
	if change, next, _ := Reconcile(more, view); change != Update || !reflect.DeepEqual(next.(*rbacv1.ClusterRole).AggregationRule, view.AggregationRule) {
		t.Errorf("a sum without its selectors: %q", change)
	}
	binding := ClusterRoleBindings()[2]
	without := binding.DeepCopy()
	without.Subjects = subjects(rbacv1.UserKind, "jane")
	change, next, _ = Reconcile(without, binding)
	if change != Update || len(next.(*rbacv1.ClusterRoleBinding).Subjects) != 2 {
		t.Errorf("a subject is missing: %q", change)
	}
	without.RoleRef.Name = "other"
	if change, _, _ := Reconcile(without, binding); change != Recreate {
		t.Errorf("another role: %q", change)
	}
	without.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
	if change, _, _ := Reconcile(without, binding); change != None {
		t.Errorf("a binding that wants to be left alone: %q", change)
	}
}
