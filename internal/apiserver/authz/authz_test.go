package authz

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"coracle/internal/apiserver/authz/policy"
	"coracle/internal/reclaim"
)

// bindings is a cluster of given pods and volumes.
type bindings struct {
	pods    []*corev1.Pod
	volumes []*corev1.PersistentVolume
}

func (b bindings) Pod(namespace, name string) *corev1.Pod {
	for _, p := range b.pods {
		if p.Namespace == namespace && p.Name == name {
			return p
		}
	}
	return nil
}

func (b bindings) AnyPodOn(node string, match func(*corev1.Pod) bool) bool {
	return slices.ContainsFunc(b.pods, func(p *corev1.Pod) bool { return p.Spec.NodeName == node && match(p) })
}

func (b bindings) Volume(name string) *corev1.PersistentVolume {
	for _, v := range b.volumes {
		if v.Name == name {
			return v
		}
	}
	return nil
}

func (b bindings) AnyVolumeFor(namespace, claim string, match func(*corev1.PersistentVolume) bool) bool {
	return slices.ContainsFunc(b.volumes, func(v *corev1.PersistentVolume) bool {
		ref := v.Spec.ClaimRef
		return ref != nil && ref.Namespace == namespace && ref.Name == claim && match(v)
	})
}

// volumes are one in use by a pod of x, one that x is to reclaim, one that y is, and one of nobody's.
func volumes() []*corev1.PersistentVolume {
	of := func(name, claim, reclaimer string) *corev1.PersistentVolume {
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{reclaim.DataFinalizer}}}
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "n", Name: claim}
		if reclaimer != "" {
			v.Labels = map[string]string{reclaim.By: reclaimer}
		}
		return v
	}
	unheld := of("unheld", "", "")
	unheld.Spec.ClaimRef = nil
	return []*corev1.PersistentVolume{of("used", "claim", ""), of("mine", "former", "x"), of("other", "others", "y"), unheld}
}

// mirror is a pod that the node x made itself.
func mirror() *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "mirror", Namespace: "n", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "y"}}}
	p.Spec.NodeName, p.Spec.ServiceAccountName = "x", "coveted"
	p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "coveted"}}}}
	return p
}

// elsewhere is a pod of another node.
func elsewhere() *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "q", Namespace: "n"}}
	p.Spec.NodeName, p.Spec.ServiceAccountName = "y", "others"
	p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "other"}}}}
	return p
}

// everyPlace refers to one secret and one configmap from each place a pod can.
func everyPlace() []*corev1.Pod {
	selector := corev1.LocalObjectReference{Name: ""}
	secret := func(name string) corev1.LocalObjectReference { selector.Name = name; return selector }
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}}
	p.Spec.NodeName, p.Spec.ServiceAccountName = "x", "robot"
	p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	p.Spec.Volumes = []corev1.Volume{
		{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "volume"}}},
		{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: secret("volume")}}},
		{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{Secret: &corev1.SecretProjection{LocalObjectReference: secret("projected")}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: secret("projected")}},
		}}}},
		{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
		{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
	}
	env := func(name string) []corev1.EnvVar {
		return []corev1.EnvVar{
			{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: secret(name)}}},
			{ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: secret(name)}}},
		}
	}
	from := func(name string) []corev1.EnvFromSource {
		return []corev1.EnvFromSource{
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: secret(name)}},
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: secret(name)}},
		}
	}
	p.Spec.InitContainers = []corev1.Container{{Env: env("init")}}
	p.Spec.Containers = []corev1.Container{{Env: env("env")}, {EnvFrom: from("from")}}
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Env: env("debug")}}}
	return []*corev1.Pod{p}
}

// furnished is an authorizer of a cluster with these pods and volumes, and the roles that every cluster has.
func furnished() *Authorizer {
	a := New(bindings{append(everyPlace(), mirror(), elsewhere()), volumes()})
	for _, r := range policy.ClusterRoles() {
		a.Observe(nil, r)
	}
	for _, b := range policy.ClusterRoleBindings() {
		a.Observe(nil, b)
	}
	for _, r := range policy.Roles() {
		a.Observe(nil, r)
	}
	for _, b := range policy.RoleBindings() {
		a.Observe(nil, b)
	}
	return a
}

func allowed(t *testing.T, a authorizer.AttributesRecord) bool {
	t.Helper()
	decision, _, err := furnished().Authorize(context.Background(), a)
	if err != nil {
		t.Fatal(err)
	}
	return decision == authorizer.DecisionAllow
}

var (
	node   = &user.DefaultInfo{Name: "system:node:x", Groups: []string{user.NodesGroup, user.AllAuthenticated}}
	master = &user.DefaultInfo{Name: "m", Groups: []string{user.SystemPrivilegedGroup}}
	robot  = &user.DefaultInfo{Name: "system:serviceaccount:n:robot", Groups: []string{"system:serviceaccounts", user.AllAuthenticated}}
	nobody = &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}
)

func TestNodeReadsWhatItsPodsUse(t *testing.T) {
	for _, plural := range []string{"secrets", "configmaps"} {
		for name, want := range map[string]bool{
			"volume": true, "projected": true, "init": true, "env": true, "from": true, "debug": true,
			"pull": plural == "secrets", "other": false, "coveted": false, "": false,
		} {
			for _, verb := range []string{"get", "list", "watch"} {
				a := authorizer.AttributesRecord{User: node, Verb: verb, Resource: plural, Namespace: "n", Name: name, ResourceRequest: true}
				if allowed(t, a) != want {
					t.Errorf("%s %s %q: want %v", verb, plural, name, want)
				}
				a.Namespace = "elsewhere"
				if allowed(t, a) {
					t.Errorf("%s %s %q of another namespace", verb, plural, name)
				}
			}
			a := authorizer.AttributesRecord{User: node, Verb: "update", Resource: plural, Namespace: "n", Name: name, ResourceRequest: true}
			if allowed(t, a) {
				t.Errorf("a node may write %s", plural)
			}
		}
	}
}

func TestRules(t *testing.T) {
	of := func(u user.Info, verb, group, resource, sub, namespace, name string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{User: u, Verb: verb, APIGroup: group, Resource: resource, Subresource: sub, Namespace: namespace, Name: name, ResourceRequest: true}
	}
	path := func(u user.Info, verb, path string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{User: u, Verb: verb, Path: path}
	}
	selected := func(verb, resource, by string) authorizer.AttributesRecord {
		a := of(node, verb, "", resource, "", "", "")
		if resource == "pods" {
			a.FieldSelectorRequirements = fields.OneTermEqualSelector("spec.nodeName", by).Requirements()
			return a
		}
		selector, err := labels.Parse(by)
		if err != nil {
			t.Fatal(err)
		}
		a.LabelSelectorRequirements, _ = selector.Requirements()
		return a
	}
	impostor := &user.DefaultInfo{Name: "system:node:x", Groups: []string{user.AllAuthenticated}}
	nameless := &user.DefaultInfo{Name: "kubelet", Groups: []string{user.NodesGroup, user.AllAuthenticated}}
	for _, x := range []struct {
		a    authorizer.AttributesRecord
		want bool
	}{
		{of(master, "delete", "", "nodes", "", "", "x"), true},
		{path(nobody, "get", "/healthz"), true},
		{path(nobody, "head", "/readyz"), true},
		{path(nobody, "get", "/version/"), true},
		{path(nobody, "get", "/readyz/"), false}, // upstream's role names it without
		{path(nobody, "post", "/healthz"), false},
		{path(nobody, "get", "/api"), false},
		{path(robot, "get", "/api"), true},
		{path(robot, "get", "/apis/apps/v1"), true},
		{path(robot, "get", "/apisx"), false},
		{path(robot, "get", "/metrics"), false},
		{path(robot, "get", "/coracle/why/pods/n/p"), false},
		{path(node, "get", "/coracle/why/pods/n/p"), false},
		{path(node, "get", "/coracle/peers"), true}, // labels and addresses of all pods, for network policies
		{path(node, "get", "/coracle/peers/x"), false},
		{path(node, "post", "/coracle/peers"), false},
		{path(node, "get", "/coracle/routed"), true},
		{path(nobody, "get", "/coracle/peers"), false},
		{path(impostor, "get", "/coracle/peers"), false},
		{of(node, "list", "networking.k8s.io", "networkpolicies", "", "", ""), false},
		{path(master, "get", "/coracle/why/pods/n/p"), true},
		{of(robot, "create", "authorization.k8s.io", "selfsubjectaccessreviews", "", "", ""), true},
		{of(robot, "create", "authorization.k8s.io", "subjectaccessreviews", "", "", ""), false},
		{of(robot, "get", "", "pods", "", "n", "p"), false},
		{selected("list", "pods", "x"), true},
		{selected("watch", "pods", "x"), true},
		{selected("list", "pods", "y"), false},
		{selected("deletecollection", "pods", "x"), false},
		{of(node, "list", "", "pods", "", "", ""), false},
		{of(node, "list", "", "pods", "", "n", ""), false},
		{of(node, "watch", "", "pods", "", "n", "p"), true},
		{of(node, "watch", "", "pods", "", "n", "q"), false},
		{of(node, "get", "", "pods", "", "n", "p"), true},
		{of(node, "get", "", "pods", "", "n", "q"), false},
		{of(node, "get", "", "pods", "", "n", "none"), false},
		{of(node, "get", "", "pods", "log", "n", "p"), false},
		{of(node, "create", "", "pods", "", "n", ""), true}, // mirror pods: NodeRestriction
		{of(node, "update", "", "pods", "status", "n", "p"), true},
		{of(node, "patch", "", "pods", "status", "n", "q"), false},
		{of(node, "update", "", "pods", "", "n", "p"), false},
		{of(node, "delete", "", "pods", "", "n", "p"), true},
		{of(node, "delete", "", "pods", "", "n", "q"), false},
		{of(node, "create", "", "pods", "eviction", "n", "p"), true},
		{of(node, "create", "", "pods", "eviction", "n", "q"), false},
		{of(node, "create", "", "pods", "exec", "n", "p"), false},
		{of(node, "create", "", "pods", "binding", "n", "p"), false},
		{of(node, "update", "", "pods", "ephemeralcontainers", "n", "p"), false},
		{of(node, "create", "", "nodes", "", "", ""), true}, // its own: NodeRestriction
		{of(node, "get", "", "nodes", "", "", "x"), true},
		{of(node, "get", "", "nodes", "", "", "y"), false},
		{of(node, "watch", "", "nodes", "", "", "x"), true},
		{of(node, "list", "", "nodes", "", "", ""), false},
		{of(node, "update", "", "nodes", "", "", "x"), true},
		{of(node, "update", "", "nodes", "", "", "y"), false},
		{of(node, "update", "", "nodes", "status", "", "x"), true},
		{of(node, "update", "", "nodes", "status", "", "y"), false},
		{of(node, "get", "", "nodes", "proxy", "", "x"), false},
		{of(node, "delete", "", "nodes", "", "", "x"), false},
		{of(node, "get", "", "serviceaccounts", "", "n", "robot"), true},
		{of(node, "list", "", "serviceaccounts", "", "n", ""), false},
		{of(node, "create", "", "serviceaccounts", "token", "n", "robot"), true},
		{of(node, "create", "", "serviceaccounts", "token", "n", "other"), false},
		{of(node, "create", "", "serviceaccounts", "token", "n", "others"), false},
		{of(node, "create", "", "serviceaccounts", "token", "n", "coveted"), false},
		{of(node, "create", "", "serviceaccounts", "token", "m", "robot"), false},
		{of(node, "create", "", "serviceaccounts", "token", "n", ""), false},
		{of(node, "update", "coordination.k8s.io", "leases", "", "kube-node-lease", "x"), true},
		{of(node, "update", "coordination.k8s.io", "leases", "", "kube-node-lease", "y"), false},
		{of(node, "create", "coordination.k8s.io", "leases", "", "kube-node-lease", ""), true}, // its own: NodeRestriction
		{of(node, "create", "coordination.k8s.io", "leases", "", "kube-system", "x"), false},
		{of(node, "list", "coordination.k8s.io", "leases", "", "kube-node-lease", ""), false},
		{of(node, "watch", "", "services", "", "", ""), true},
		{of(node, "get", "", "namespaces", "", "", "kube-system"), true},
		{of(node, "update", "", "namespaces", "", "", "kube-system"), false},
		{of(node, "update", "", "services", "", "n", "s"), false},
		{of(node, "get", "", "endpoints", "", "n", "s"), true},
		{of(node, "list", "", "endpoints", "", "n", ""), false},
		{of(node, "watch", "discovery.k8s.io", "endpointslices", "", "", ""), true},
		{of(node, "watch", "networking.k8s.io", "servicecidrs", "", "", ""), true},
		{of(node, "update", "networking.k8s.io", "servicecidrs", "", "", "more"), false},
		{of(node, "list", "networking.k8s.io", "ipaddresses", "", "", ""), false},
		{of(node, "get", "storage.k8s.io", "storageclasses", "", "", "c"), true},
		{of(node, "list", "storage.k8s.io", "storageclasses", "", "", ""), false},
		{of(node, "get", "node.k8s.io", "runtimeclasses", "", "", "c"), true},
		{of(node, "update", "node.k8s.io", "runtimeclasses", "", "", "c"), false},
		{of(node, "create", "events.k8s.io", "events", "", "n", ""), true},
		{of(node, "delete", "", "events", "", "n", "e"), false},
		{of(node, "get", "", "namespaces", "", "kube-system", "kube-system"), true},
		{of(node, "get", "", "namespaces", "", "n", "n"), false},
		{of(node, "list", "", "namespaces", "", "", ""), false},
		{of(node, "get", "", "persistentvolumeclaims", "", "n", "claim"), true},
		{of(node, "watch", "", "persistentvolumeclaims", "", "n", "p-scratch"), true},
		{of(node, "get", "", "persistentvolumeclaims", "", "n", "former"), true}, // its volume is to be reclaimed
		{of(node, "get", "", "persistentvolumeclaims", "", "n", "others"), false},
		{of(node, "list", "", "persistentvolumeclaims", "", "n", ""), false},
		{of(node, "get", "", "persistentvolumeclaims", "", "", "claim"), false},
		{of(node, "update", "", "persistentvolumeclaims", "status", "n", "claim"), false},
		{of(node, "get", "", "persistentvolumes", "", "", "used"), true},
		{of(node, "get", "", "persistentvolumes", "", "", "mine"), true},
		{of(node, "get", "", "persistentvolumes", "", "", "other"), false},
		{of(node, "get", "", "persistentvolumes", "", "", "unheld"), false},
		{of(node, "get", "", "persistentvolumes", "", "", "none"), false},
		{of(node, "list", "", "persistentvolumes", "", "", ""), false},
		{selected("list", "persistentvolumes", "coracle.io/reclaim-by=x"), true},
		{selected("watch", "persistentvolumes", "coracle.io/reclaim-by in (x),a=b"), true},
		{selected("watch", "persistentvolumes", "coracle.io/reclaim-by=y"), false},
		{selected("watch", "persistentvolumes", "coracle.io/reclaim-by in (x,y)"), false},
		{selected("watch", "persistentvolumes", "coracle.io/reclaim-by!=y"), false},
		{selected("watch", "persistentvolumes", "coracle.io/reclaim-by"), false},
		{selected("deletecollection", "persistentvolumes", "coracle.io/reclaim-by=x"), false},
		{of(node, "update", "", "persistentvolumes", "", "", "mine"), true}, // the finalizer alone: NodeRestriction
		{of(node, "patch", "", "persistentvolumes", "", "", "used"), false},
		{of(node, "update", "", "persistentvolumes", "", "", "other"), false},
		{of(node, "update", "", "persistentvolumes", "status", "", "mine"), false},
		{of(node, "delete", "", "persistentvolumes", "", "", "mine"), false},
		{of(node, "create", "", "persistentvolumes", "", "", ""), false},
		{of(node, "create", "authentication.k8s.io", "tokenreviews", "", "", ""), true},
		{of(node, "create", "authorization.k8s.io", "subjectaccessreviews", "", "", ""), true},
		{of(node, "impersonate", "", "users", "", "", "admin"), false},
		{of(node, "impersonate", "", "groups", "", "", "system:masters"), false},
		{of(impostor, "get", "", "pods", "", "n", "p"), false},
		{of(nameless, "get", "", "nodes", "", "", "x"), false},
	} {
		if allowed(t, x.a) != x.want {
			t.Errorf("%s %s %s/%s/%s %s/%s %s: want %v", x.a.User.GetName(), x.a.Verb, x.a.APIGroup, x.a.Resource, x.a.Subresource, x.a.Namespace, x.a.Name, x.a.Path, x.want)
		}
	}
}

// TestRulesAreTrue asks the authorizer about each rule that a user is told.
func TestRulesAreTrue(t *testing.T) {
	a := furnished()
	for _, u := range []user.Info{master, robot, nobody, node} {
		rules := a.Rules(u, "n")
		if rules.Incomplete != (u == node) {
			t.Errorf("%s: incomplete is %v", u.GetName(), rules.Incomplete)
		}
		for _, r := range rules.ResourceRules {
			for _, plural := range r.Resources {
				if !allowed(t, authorizer.AttributesRecord{User: u, Verb: r.Verbs[0], APIGroup: r.APIGroups[0], Resource: plural, ResourceRequest: true}) {
					t.Errorf("%s is told of %v, and may not", u.GetName(), r)
				}
			}
		}
		for _, r := range rules.NonResourceRules {
			for _, path := range r.NonResourceURLs {
				if !allowed(t, authorizer.AttributesRecord{User: u, Verb: r.Verbs[0], Path: path}) {
					t.Errorf("%s is told of %s, and may not", u.GetName(), path)
				}
			}
		}
	}
	if len(a.Rules(nobody, "n").ResourceRules) != 0 || len(a.Rules(robot, "n").ResourceRules) != 2 {
		t.Errorf("rules of nobody %v, of a robot %v", a.Rules(nobody, "n"), a.Rules(robot, "n"))
	}
	if all := a.Rules(master, "n").ResourceRules; len(all) != 1 || all[0].Verbs[0] != "*" {
		t.Errorf("rules of a superuser: %v", all)
	}
}

// TestSuperuserNeedsNoRole: whoever loses the roles of the cluster can still make them anew.
func TestSuperuserNeedsNoRole(t *testing.T) {
	a := New(bindings{})
	decision, _, err := a.Authorize(context.Background(), authorizer.AttributesRecord{User: master, Verb: "create", APIGroup: "rbac.authorization.k8s.io", Resource: "clusterroles", ResourceRequest: true})
	if decision != authorizer.DecisionAllow || err != nil {
		t.Errorf("without roles: %v %v", decision, err)
	}
	if all := a.Rules(master, "n").ResourceRules; len(all) != 1 || all[0].Verbs[0] != "*" {
		t.Errorf("without roles, a superuser is told of %v", all)
	}
}

// TestReasons: a node is told what the node authorizer and what its bindings say.
func TestReasons(t *testing.T) {
	a := furnished()
	lost := &rbacv1.ClusterRoleBinding{RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "gone"}, Subjects: []rbacv1.Subject{{Kind: "Group", Name: user.NodesGroup}}}
	lost.Name = "lost"
	a.Observe(nil, lost)
	_, reason, _ := a.Authorize(context.Background(), authorizer.AttributesRecord{User: node, Verb: "list", Resource: "nodes", ResourceRequest: true})
	want := "node 'x' cannot read all nodes, only its own Node object\nRBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found"
	if reason != want {
		t.Errorf("%q, want %q", reason, want)
	}
}
