// Package rbac says what roles and bindings allow (rbac.authorization.k8s.io/v1).
//
// It owns an index from subjects to what they were given, so that a decision looks at the asker's own bindings and at
// nobody else's; a change of a role or a binding costs what that one says. It also says what a rule covers, for those who
// hand rights on. It refuses storage, locks and identity: it is told of each change, and its caller keeps readers and
// writers apart.
package rbac

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// Index holds every role and binding.
type Index struct {
	roles    map[key]*role
	bindings map[key]*binding
	subjects map[subject]*grants
}

// New returns an index of nothing.
func New() *Index {
	return &Index{roles: map[key]*role{}, bindings: map[key]*binding{}, subjects: map[subject]*grants{}}
}

// key names a role or a binding; those of the whole cluster have no namespace.
type key struct{ namespace, name string }

// subject is somebody who asks: a user by name, service accounts included, or a group.
type subject struct {
	group bool
	name  string
}

// role is what bindings refer to. It is there as soon as a binding names it, and is told when its rules come and go, so
// that a change of a role touches no binding.
type role struct {
	key
	exists   bool
	policy   []rbacv1.PolicyRule
	rules    []rule // about resources
	urls     []rule // about other URLs
	bindings int
}

// binding gives a role to subjects; namespace "" means everywhere.
type binding struct {
	key
	ref   rbacv1.RoleRef
	role  *role
	given []subject
}

// grant is a binding as one subject sees it. As is how the binding names the subject.
type grant struct {
	*binding
	as rbacv1.Subject
}

// grants are what one subject was given.
type grants struct {
	everywhere []grant
	in         map[string][]grant // by namespace
}

// Change replaces one role or binding by another version of it. Either of before and after may be nil: made, gone.
func (x *Index) Change(before, after runtime.Object) {
	o := after
	if o == nil {
		o = before
	}
	switch o.(type) {
	case *rbacv1.Role:
		old, _ := before.(*rbacv1.Role)
		if r, ok := after.(*rbacv1.Role); ok {
			x.setRole(key{r.Namespace, r.Name}, r.Rules)
		} else {
			x.dropRole(key{old.Namespace, old.Name})
		}
	case *rbacv1.ClusterRole:
		old, _ := before.(*rbacv1.ClusterRole)
		if r, ok := after.(*rbacv1.ClusterRole); ok {
			x.setRole(key{"", r.Name}, r.Rules)
		} else {
			x.dropRole(key{"", old.Name})
		}
	case *rbacv1.RoleBinding:
		if old, ok := before.(*rbacv1.RoleBinding); ok {
			x.unbind(key{old.Namespace, old.Name})
		}
		if b, ok := after.(*rbacv1.RoleBinding); ok {
			x.bind(key{b.Namespace, b.Name}, b.RoleRef, b.Subjects)
		}
	case *rbacv1.ClusterRoleBinding:
		if old, ok := before.(*rbacv1.ClusterRoleBinding); ok {
			x.unbind(key{"", old.Name})
		}
		if b, ok := after.(*rbacv1.ClusterRoleBinding); ok {
			x.bind(key{"", b.Name}, b.RoleRef, b.Subjects)
		}
	}
}

func (x *Index) setRole(k key, policy []rbacv1.PolicyRule) {
	r := x.roleOf(k)
	r.exists, r.policy, r.rules, r.urls = true, policy, nil, nil
	for i := range policy {
		if c := compile(&policy[i]); len(policy[i].NonResourceURLs) > 0 {
			r.urls = append(r.urls, c)
		} else {
			r.rules = append(r.rules, c)
		}
	}
}

func (x *Index) dropRole(k key) {
	r := x.roleOf(k)
	r.exists, r.policy, r.rules, r.urls = false, nil, nil, nil
	x.forget(r)
}

func (x *Index) roleOf(k key) *role {
	r := x.roles[k]
	if r == nil {
		r = &role{key: k}
		x.roles[k] = r
	}
	return r
}

// forget drops what nobody refers to and is not there.
func (x *Index) forget(r *role) {
	if !r.exists && r.bindings == 0 {
		delete(x.roles, r.key)
	}
}

// roleKey names the role that a binding of a namespace refers to.
func roleKey(ref rbacv1.RoleRef, namespace string) (key, bool) {
	switch {
	case ref.Kind == "ClusterRole":
		return key{"", ref.Name}, true
	case ref.Kind == "Role" && namespace != "":
		return key{namespace, ref.Name}, true
	}
	return key{}, false
}

func (x *Index) bind(k key, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
	named, ok := roleKey(ref, k.namespace)
	if !ok {
		return
	}
	b := &binding{key: k, ref: ref, role: x.roleOf(named)}
	b.role.bindings++
	x.bindings[k] = b
	for _, s := range subjects {
		who, ok := subjectOf(s, k.namespace)
		if !ok || slices.Contains(b.given, who) {
			continue
		}
		b.given = append(b.given, who)
		g := x.subjects[who]
		if g == nil {
			g = &grants{}
			x.subjects[who] = g
		}
		if k.namespace == "" {
			g.everywhere = append(g.everywhere, grant{b, s})
			continue
		}
		if g.in == nil {
			g.in = map[string][]grant{}
		}
		g.in[k.namespace] = append(g.in[k.namespace], grant{b, s})
	}
}

func (x *Index) unbind(k key) {
	b := x.bindings[k]
	if b == nil {
		return
	}
	delete(x.bindings, k)
	of := func(g grant) bool { return g.binding == b }
	for _, who := range b.given {
		g := x.subjects[who]
		if k.namespace == "" {
			g.everywhere = slices.DeleteFunc(g.everywhere, of)
		} else if rest := slices.DeleteFunc(g.in[k.namespace], of); len(rest) > 0 {
			g.in[k.namespace] = rest
		} else {
			delete(g.in, k.namespace)
		}
		if len(g.everywhere) == 0 && len(g.in) == 0 {
			delete(x.subjects, who)
		}
	}
	b.role.bindings--
	x.forget(b.role)
}

// subjectOf returns who a binding's subject is; an account without a namespace is one of the binding's.
func subjectOf(s rbacv1.Subject, namespace string) (subject, bool) {
	switch s.Kind {
	case rbacv1.UserKind:
		return subject{name: s.Name}, true
	case rbacv1.GroupKind:
		return subject{group: true, name: s.Name}, true
	case rbacv1.ServiceAccountKind:
		if s.Namespace != "" {
			namespace = s.Namespace
		}
		return subject{name: serviceaccount.MakeUsername(namespace, s.Name)}, namespace != ""
	}
	return subject{}, false
}
