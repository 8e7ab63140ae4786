// Package policy holds the roles and bindings that every cluster has, and says what becomes of those that are there
// already.
//
// They are upstream's bootstrap policy (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings),
// less the roles of its controllers: those run within the server here and need none. It owns values and a comparison; it
// refuses to store.
package policy

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
)

// The metadata by which upstream knows these objects again.
const (
	bootstrapping = "kubernetes.io/bootstrapping"
	defaults      = "rbac-defaults"
	aggregateTo   = "rbac.authorization.k8s.io/aggregate-to-"
)

// Sets of verbs.
const (
	read   = "get,list,watch"
	follow = "list,watch"
	write  = "create,delete,deletecollection,patch,update"
	all    = read + "," + write
)

// API groups.
const (
	core           = ""
	apps           = "apps"
	authentication = "authentication.k8s.io"
	authorization  = "authorization.k8s.io"
	autoscaling    = "autoscaling"
	batch          = "batch"
	certificates   = "certificates.k8s.io"
	coordination   = "coordination.k8s.io"
	discovery      = "discovery.k8s.io"
	events         = "events.k8s.io"
	extensions     = "extensions"
	networking     = "networking.k8s.io"
	node           = "node.k8s.io"
	disruption     = "policy"
	access         = "rbac.authorization.k8s.io"
	storage        = "storage.k8s.io"
)

// can is a rule about resources; all three are lists with commas.
func can(verbs, groups, resources string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: sorted(verbs), APIGroups: sorted(groups), Resources: sorted(resources)}
}

// only narrows a rule to objects of some names.
func only(r rbacv1.PolicyRule, names ...string) rbacv1.PolicyRule {
	r.ResourceNames = names
	return r
}

// mayGet is a rule about paths that are no resources.
func mayGet(paths ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: paths}
}

func sorted(list string) []string {
	out := strings.Split(list, ",")
	slices.Sort(out)
	return out
}

// tell is what whoever reports events needs.
func tell() rbacv1.PolicyRule { return can("create,patch,update", core+","+events, "events") }

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels:      map[string]string{bootstrapping: defaults},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func role(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: meta("", name), Rules: rules}
}

// part is a role whose rules become others' as well.
func part(of, name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	r := role(name, rules...)
	r.Labels[aggregateTo+of] = "true"
	return r
}

// sum makes a role one whose rules are those of its parts. They are filled in by ClusterRoles, and kept by
// cluster/aggregation.
func sum(r *rbacv1.ClusterRole) *rbacv1.ClusterRole {
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{aggregateTo + r.Name: "true"}},
	}}
	return r
}

// ClusterRoles returns the roles of the whole cluster. They are the caller's.
func ClusterRoles() []*rbacv1.ClusterRole {
	roles := slices.Concat(userRoles(), everybodysRoles(), componentRoles())
	for _, name := range []string{"view", "edit", "admin"} { // each is a part of the next
		i := slices.IndexFunc(roles, func(r *rbacv1.ClusterRole) bool { return r.Name == name })
		fill(roles[i], roles)
	}
	return roles
}

// fill gives a sum the rules of its parts, as cluster/aggregation would: by name, each rule once.
func fill(total *rbacv1.ClusterRole, roles []*rbacv1.ClusterRole) {
	parts := slices.DeleteFunc(slices.Clone(roles), func(r *rbacv1.ClusterRole) bool {
		return r == total || !labels.Set(r.Labels).Has(aggregateTo+total.Name)
	})
	slices.SortFunc(parts, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	for _, r := range parts {
		total.Rules = append(total.Rules, r.DeepCopy().Rules...)
	}
}

func subjects(kind string, names ...string) []rbacv1.Subject {
	var out []rbacv1.Subject
	for _, name := range names {
		s := rbacv1.Subject{Kind: kind, Name: name, APIGroup: rbacv1.GroupName}
		if kind == rbacv1.ServiceAccountKind {
			s.APIGroup, s.Namespace = "", metav1.NamespaceSystem
		}
		out = append(out, s)
	}
	return out
}

func binding(role string, who []rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta("", role), Subjects: who,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	}
}

// ClusterRoleBindings returns who has these roles from the beginning. They are the caller's.
func ClusterRoleBindings() []*rbacv1.ClusterRoleBinding {
	groups := func(names ...string) []rbacv1.Subject { return subjects(rbacv1.GroupKind, names...) }
	users := func(names ...string) []rbacv1.Subject { return subjects(rbacv1.UserKind, names...) }
	return []*rbacv1.ClusterRoleBinding{
		binding("cluster-admin", groups(user.SystemPrivilegedGroup)),
		binding("system:monitoring", groups(user.MonitoringGroup)),
		binding("system:discovery", groups(user.AllAuthenticated)),
		binding("system:basic-user", groups(user.AllAuthenticated)),
		binding("system:public-info-viewer", groups(user.AllAuthenticated, user.AllUnauthenticated)),
		binding("system:service-account-issuer-discovery", groups("system:serviceaccounts")),
		binding("system:node-proxier", users(user.KubeProxy)),
		binding("system:kube-controller-manager", users(user.KubeControllerManager)),
		binding("system:kube-scheduler", users(user.KubeScheduler)),
		binding("system:volume-scheduler", users(user.KubeScheduler)),
		binding("system:kube-dns", subjects(rbacv1.ServiceAccountKind, "kube-dns")),
		binding("system:node", nil), // nodes have their rights by what they run, not by this role
	}
}

func nsRole(namespace, name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: meta(namespace, name), Rules: rules}
}

// Roles returns the roles of the system's namespaces. They are the caller's.
func Roles() []*rbacv1.Role {
	locking := func(component string) *rbacv1.Role {
		return nsRole(metav1.NamespaceSystem, "system::leader-locking-"+component,
			can("create,get,list,update,watch", coordination, "leases"),
			can("create,get,list,update,watch", coordination, "leasecandidates"))
	}
	return []*rbacv1.Role{
		nsRole(metav1.NamespaceSystem, "extension-apiserver-authentication-reader",
			only(can(read, core, "configmaps"), "extension-apiserver-authentication")),
		locking("kube-controller-manager"),
		locking("kube-scheduler"),
		nsRole(metav1.NamespaceSystem, "system:controller:bootstrap-signer", can(read, core, "secrets")),
		nsRole(metav1.NamespaceSystem, "system:controller:cloud-provider", can("create,get,list,watch", core, "configmaps")),
		nsRole(metav1.NamespaceSystem, "system:controller:token-cleaner", can("delete,get,list,watch", core, "secrets"), tell()),
		nsRole(metav1.NamespacePublic, "system:controller:bootstrap-signer",
			can(read, core, "configmaps"), only(can("update", core, "configmaps"), "cluster-info"), tell()),
	}
}

// RoleBindings returns who has those from the beginning. They are the caller's.
func RoleBindings() []*rbacv1.RoleBinding {
	bind := func(namespace, name, role string, who ...rbacv1.Subject) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{
			ObjectMeta: meta(namespace, name), Subjects: who,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
		}
	}
	system := func(name, role string, who ...rbacv1.Subject) *rbacv1.RoleBinding {
		return bind(metav1.NamespaceSystem, name, role, who...)
	}
	users := func(names ...string) []rbacv1.Subject { return subjects(rbacv1.UserKind, names...) }
	accounts := func(names ...string) []rbacv1.Subject { return subjects(rbacv1.ServiceAccountKind, names...) }
	manager, scheduler := "system::leader-locking-kube-controller-manager", "system::leader-locking-kube-scheduler"
	return []*rbacv1.RoleBinding{
		system("system::extension-apiserver-authentication-reader", "extension-apiserver-authentication-reader",
			users(user.KubeControllerManager, user.KubeScheduler)...),
		system(manager, manager, append(users(user.KubeControllerManager), accounts("kube-controller-manager", "leader-election-controller")...)...),
		system(scheduler, scheduler, append(users(user.KubeScheduler), accounts("kube-scheduler")...)...),
		system("system:controller:bootstrap-signer", "system:controller:bootstrap-signer", accounts("bootstrap-signer")...),
		system("system:controller:cloud-provider", "system:controller:cloud-provider", accounts("cloud-provider")...),
		system("system:controller:token-cleaner", "system:controller:token-cleaner", accounts("token-cleaner")...),
		bind(metav1.NamespacePublic, "system:controller:bootstrap-signer", "system:controller:bootstrap-signer", accounts("bootstrap-signer")...),
	}
}
