package rbac

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Allows says whether a user may do what a asks. The reason is upstream's: the binding that allows it, or what hinders
// bindings of his from saying anything; else it is empty.
func (x *Index) Allows(u user.Info, a authorizer.Attributes) (allowed bool, reason string) {
	q := requestOf(a)
	found := x.subjects[subject{name: u.GetName()}].find(&q)
	for _, group := range u.GetGroups() {
		if found != nil {
			break
		}
		found = x.subjects[subject{group: true, name: group}].find(&q)
	}
	if found != nil {
		return true, found.String()
	}
	if err := x.lacking(u, q.namespace, notFound); err != nil {
		return false, "RBAC: " + err.Error()
	}
	return false, ""
}

// find returns a grant that allows a request, or nil.
func (g *grants) find(q *request) *grant {
	if g == nil {
		return nil
	}
	for i := range g.everywhere {
		if g.everywhere[i].role.allows(q) {
			return &g.everywhere[i]
		}
	}
	if q.namespace == "" {
		return nil
	}
	local := g.in[q.namespace]
	for i := range local {
		if local[i].role.allows(q) {
			return &local[i]
		}
	}
	return nil
}

func (r *role) allows(q *request) bool {
	rules := r.urls
	if q.resources {
		rules = r.rules
	}
	for i := range rules {
		if rules[i].allows(q) {
			return true
		}
	}
	return false
}

// each calls visit for what a user was given everywhere and in a namespace, himself and by his groups, until it says false.
// What he was given by several names is visited as often.
func (x *Index) each(u user.Info, namespace string, visit func(*grant) bool) {
	if !x.visit(subject{name: u.GetName()}, namespace, visit) {
		return
	}
	for _, group := range u.GetGroups() {
		if !x.visit(subject{group: true, name: group}, namespace, visit) {
			return
		}
	}
}

func (x *Index) visit(who subject, namespace string, visit func(*grant) bool) bool {
	g := x.subjects[who]
	if g == nil {
		return true
	}
	for i := range g.everywhere {
		if !visit(&g.everywhere[i]) {
			return false
		}
	}
	if namespace == "" {
		return true
	}
	local := g.in[namespace]
	for i := range local {
		if !visit(&local[i]) {
			return false
		}
	}
	return true
}

// eachOnce is each, with every binding once.
func (x *Index) eachOnce(u user.Info, namespace string, visit func(*grant)) {
	seen := map[*binding]bool{}
	x.each(u, namespace, func(g *grant) bool {
		if !seen[g.binding] {
			seen[g.binding] = true
			visit(g)
		}
		return true
	})
}

// lacking says which roles a user's bindings refer to that are not there.
func (x *Index) lacking(u user.Info, namespace string, tell func(rbacv1.RoleRef) error) error {
	var errs []error
	x.each(u, namespace, func(g *grant) bool {
		if !g.role.exists {
			errs = append(errs, tell(g.ref))
		}
		return true
	})
	return utilerrors.NewAggregate(errs)
}

// notFound names a role as upstream's authorizer does, notStored as its registry does.
func notFound(ref rbacv1.RoleRef) error {
	return apierrors.NewNotFound(rbacv1.Resource(strings.ToLower(ref.Kind)), ref.Name)
}

func notStored(ref rbacv1.RoleRef) error {
	return apierrors.NewNotFound(rbacv1.Resource(strings.ToLower(ref.Kind)+"s"), ref.Name)
}

// Rules returns the rules that apply to a user in a namespace, or everywhere when it is empty, and an error that tells of
// roles which are not there. The rules are shared and must not be changed.
func (x *Index) Rules(u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	x.eachOnce(u, namespace, func(g *grant) { rules = append(rules, g.role.policy...) })
	return rules, x.lacking(u, namespace, notFound)
}

// RoleRules returns the rules of the role that a binding of a namespace refers to, shared, or that it is not there.
func (x *Index) RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	if k, ok := roleKey(ref, namespace); ok {
		if r := x.roles[k]; r != nil && r.exists {
			return r.policy, nil
		}
	}
	return nil, notStored(ref)
}

// String tells what allowed a request, in upstream's words.
func (g *grant) String() string {
	kind, of, as := "ClusterRoleBinding", g.name, g.as.Name
	if g.namespace != "" {
		kind, of = "RoleBinding", g.name+"/"+g.namespace
	}
	if g.as.Kind == rbacv1.ServiceAccountKind {
		namespace := g.as.Namespace
		if namespace == "" {
			namespace = g.namespace
		}
		as += "/" + namespace
	}
	return "RBAC: allowed by " + kind + ` "` + of + `" of ` + g.ref.Kind + ` "` + g.ref.Name + `" to ` + g.as.Kind + ` "` + as + `"`
}
