package authz

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

type onNode map[string][]*corev1.Pod

func (n onNode) OnNode(node string) []*corev1.Pod { return n[node] }

// everyPlace refers to one secret and one configmap from each place a pod can.
func everyPlace() []*corev1.Pod {
	selector := corev1.LocalObjectReference{Name: ""}
	secret := func(name string) corev1.LocalObjectReference { selector.Name = name; return selector }
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}}
	p.Spec.ServiceAccountName = "robot"
	p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	p.Spec.Volumes = []corev1.Volume{
		{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "volume"}}},
		{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: secret("volume")}}},
		{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{Secret: &corev1.SecretProjection{LocalObjectReference: secret("projected")}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: secret("projected")}},
		}}}},
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

func allowed(t *testing.T, a authorizer.AttributesRecord) bool {
	t.Helper()
	decision, _, err := New(onNode{"x": everyPlace()}).Authorize(context.Background(), a)
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
			"pull": plural == "secrets", "other": false, "": false,
		} {
			for _, verb := range []string{"get", "watch"} {
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
	selecting := of(node, "list", "", "pods", "", "", "")
	selecting.FieldSelectorRequirements = fields.OneTermEqualSelector("spec.nodeName", "x").Requirements()
	wrong := selecting
	wrong.FieldSelectorRequirements = fields.OneTermEqualSelector("spec.nodeName", "y").Requirements()
	impostor := &user.DefaultInfo{Name: "system:node:x", Groups: []string{user.AllAuthenticated}}
	nameless := &user.DefaultInfo{Name: "kubelet", Groups: []string{user.NodesGroup, user.AllAuthenticated}}
	for _, x := range []struct {
		a    authorizer.AttributesRecord
		want bool
	}{
		{of(master, "delete", "", "nodes", "", "", "x"), true},
		{path(nobody, "get", "/healthz"), true},
		{path(nobody, "get", "/readyz/"), true},
		{path(nobody, "post", "/healthz"), false},
		{path(nobody, "get", "/api"), false},
		{path(robot, "get", "/api"), true},
		{path(robot, "get", "/apis/apps/v1"), true},
		{path(robot, "get", "/apisx"), false},
		{path(robot, "get", "/metrics"), false},
		{path(robot, "get", "/coracle/why/pods/n/p"), false},
		{path(node, "get", "/coracle/why/pods/n/p"), false},
		{path(master, "get", "/coracle/why/pods/n/p"), true},
		{of(robot, "create", "authorization.k8s.io", "selfsubjectaccessreviews", "", "", ""), true},
		{of(robot, "create", "authorization.k8s.io", "subjectaccessreviews", "", "", ""), false},
		{of(robot, "get", "", "pods", "", "n", "p"), false},
		{selecting, true},
		{wrong, false},
		{of(node, "list", "", "pods", "", "", ""), false},
		{of(node, "get", "", "pods", "", "n", "p"), true},
		{of(node, "get", "", "pods", "", "n", "q"), false},
		{of(node, "update", "", "pods", "status", "n", "p"), true},
		{of(node, "update", "", "pods", "", "n", "p"), false},
		{of(node, "delete", "", "pods", "", "n", "p"), true},
		{of(node, "create", "", "pods", "eviction", "n", "p"), true},
		{of(node, "create", "", "pods", "exec", "n", "p"), false},
		{of(node, "update", "", "nodes", "status", "", "x"), true},
		{of(node, "update", "", "nodes", "status", "", "y"), false},
		{of(node, "delete", "", "nodes", "", "", "x"), false},
		{of(node, "create", "", "serviceaccounts", "token", "n", "robot"), true},
		{of(node, "create", "", "serviceaccounts", "token", "n", "other"), false},
		{of(node, "update", "coordination.k8s.io", "leases", "", "kube-node-lease", "x"), true},
		{of(node, "update", "coordination.k8s.io", "leases", "", "kube-node-lease", "y"), false},
		{of(node, "create", "coordination.k8s.io", "leases", "", "kube-system", "x"), false},
		{of(node, "watch", "", "services", "", "", ""), true},
		{of(node, "get", "", "namespaces", "", "", "kube-system"), true},
		{of(node, "update", "", "namespaces", "", "", "kube-system"), false},
		{of(node, "update", "", "services", "", "n", "s"), false},
		{of(node, "watch", "discovery.k8s.io", "endpointslices", "", "", ""), true},
		{of(node, "create", "events.k8s.io", "events", "", "n", ""), true},
		{of(node, "delete", "", "events", "", "n", "e"), false},
		{of(node, "update", "", "persistentvolumes", "", "", "v"), true},
		{of(node, "delete", "", "persistentvolumes", "", "", "v"), false},
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
	for _, u := range []user.Info{master, robot, nobody, node} {
		rules := Rules(u)
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
	if len(Rules(nobody).ResourceRules) != 0 || len(Rules(robot).ResourceRules) != 2 {
		t.Errorf("rules of nobody %v, of a robot %v", Rules(nobody), Rules(robot))
	}
}
