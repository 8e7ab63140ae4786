package apiserver

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

const (
	rolesPath           = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles"
	bindingsPath        = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings"
	clusterRolesPath    = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
	clusterBindingsPath = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
)

// gives is a role's body of one rule.
func gives(name, verbs, groups, resources string) string {
	list := func(text string) string { return `["` + strings.ReplaceAll(text, ",", `","`) + `"]` }
	return fmt.Sprintf(`{"metadata":{"name":%q},"rules":[{"verbs":%s,"apiGroups":%s,"resources":%s}]}`, name, list(verbs), list(groups), list(resources))
}

// binds is a binding's body; subject is "kind/name" or "ServiceAccount/namespace/name".
func binds(name, kind, role, subject string) string {
	parts := strings.Split(subject, "/")
	s := fmt.Sprintf(`{"kind":%q,"name":%q}`, parts[0], parts[len(parts)-1])
	if len(parts) == 3 {
		s = fmt.Sprintf(`{"kind":%q,"namespace":%q,"name":%q}`, parts[0], parts[1], parts[2])
	}
	return fmt.Sprintf(`{"metadata":{"name":%q},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":%q,"name":%q},"subjects":[%s]}`, name, kind, role, s)
}

// TestRoleTries: a token whose account has a role can do what that says, by every path, and nothing more.
func TestRoleTries(t *testing.T) {
	b := besiege(t)
	b.post(rolesPath, `{"metadata":{"name":"worker"},"rules":[
		{"verbs":["get","list","watch"],"apiGroups":[""],"resources":["pods"]},
		{"verbs":["get"],"apiGroups":[""],"resources":["pods/log","pods/exec"]},
		{"verbs":["create","update","patch"],"apiGroups":[""],"resources":["configmaps"]},
		{"verbs":["get"],"apiGroups":[""],"resources":["secrets"],"resourceNames":["secret-p"]},
		{"verbs":["update"],"apiGroups":["apps"],"resources":["*/scale"]},
		{"verbs":["delete"],"apiGroups":[""],"resources":["configmaps"],"resourceNames":["mine"]}]}`).want(201)
	b.post(bindingsPath, binds("worker", "Role", "worker", "ServiceAccount/default/default")).want(201)
	b.post(clusterRolesPath, `{"metadata":{"name":"prober"},"rules":[{"verbs":["get"],"nonResourceURLs":["/metrics"]},{"verbs":["get"],"apiGroups":[""],"resources":["nodes"]}]}`).want(201)
	b.post(clusterBindingsPath, binds("prober", "ClusterRole", "prober", "Group/system:serviceaccounts:default")).want(201)
	b.post("/api/v1/namespaces", `{"metadata":{"name":"other"}}`).want(201)
	for _, name := range []string{"kept", "mine"} {
		b.post(configMaps, fmt.Sprintf(`{"metadata":{"name":%q}}`, name)).want(201)
	}
	const no = `User \"system:serviceaccount:default:default\" cannot`
	b.attempt(t, b.as(""), map[string][]try{
		"what it may read": as(200, "", [3]string{"GET", pods}, [3]string{"GET", pods + "/p"}, [3]string{"GET", pods + "?watch=1&timeoutSeconds=1"}, [3]string{"GET", secretsPath + "/secret-p"},
			[3]string{"GET", nodesPath + "/n1"}, [3]string{"GET", "/metrics"}),
		"what it may write": as(201, "", [3]string{"POST", configMaps, `{"metadata":{"name":"new"}}`}),
		"what it may change": as(200, "", [3]string{"PUT", configMaps + "/kept", `{"metadata":{"name":"kept"},"data":{"a":"b"}}`},
			[3]string{"PATCH", configMaps + "/kept", `{"data":{"a":"c"}}`}, [3]string{"PATCH", configMaps + "/kept", `json-patch:[{"op":"remove","path":"/data/a"}]`},
			[3]string{"PATCH", configMaps + "/kept?fieldManager=m", `apply:{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"kept"},"data":{"d":"e"}}`},
			[3]string{"PATCH", configMaps + "/mine", `{"data":{"a":"c"}}`}, [3]string{"DELETE", configMaps + "/mine"}),
		"a log, as far as there is one": as(503, "where its agent listens", [3]string{"GET", pods + "/p/log"}),
		"in another namespace": refuse(`in the namespace \"other\"`, [3]string{"GET", "/api/v1/namespaces/other/pods"}, [3]string{"POST", "/api/v1/namespaces/other/configmaps", `{"metadata":{"name":"x"}}`},
			[3]string{"GET", "/api/v1/namespaces/other/secrets/secret-p"}),
		"everywhere": refuse(no+` list resource \"pods\" in API group \"\" at the cluster scope`, [3]string{"GET", "/api/v1/pods"}, [3]string{"GET", "/api/v1/pods?fieldSelector=metadata.namespace=default"}),
		"other objects": refuse(no, [3]string{"GET", secretsPath + "/secret-q"}, [3]string{"GET", secretsPath}, [3]string{"GET", secretsPath + "?fieldSelector=metadata.name=other"},
			[3]string{"DELETE", configMaps + "/kept"}, [3]string{"DELETE", configMaps}),
		"other verbs": refuse(no, [3]string{"DELETE", pods + "/p"}, [3]string{"GET", configMaps + "/kept"}, [3]string{"PUT", pods + "/p", `{}`}, [3]string{"GET", nodesPath}, [3]string{"POST", "/metrics", ""},
			[3]string{"GET", "/api/v1/watch/namespaces/default/configmaps"}, [3]string{"PUT", secretsPath + "/secret-p", `{}`}),
		"other subresources": refuse(no, [3]string{"POST", pods + "/p/eviction", `{}`}, [3]string{"PATCH", pods + "/p/status", `{}`}, [3]string{"GET", pods + "/p/attach"},
			[3]string{"POST", pods + "/p/exec?command=id"}, [3]string{"POST", pods + "/p/portforward"}, [3]string{"POST", pods + "/p/binding", `{}`},
			[3]string{"PATCH", nodesPath + "/n1/status", `{}`}),
		// Who may read pods/exec and no more does not open a terminal by a WebSocket, which begins with GET.
		"terminals by reading": refuse(no+` create resource \"pods/exec\"`, [3]string{"GET", pods + "/p/exec?command=id&stdout=1"}),
		"proxies":              refuse(no, proxyTries()...),
		"more rights": refuse(no, [3]string{"POST", rolesPath, gives("x", "get", "", "pods")}, [3]string{"POST", bindingsPath, binds("x", "Role", "worker", "User/x")},
			[3]string{"PATCH", rolesPath + "/worker", `{"rules":[]}`}, [3]string{"GET", clusterRolesPath}, [3]string{"PUT", clusterRolesPath + "/new", gives("new", "get", "", "pods")}),
		"paths that are no resources": refuse(no, [3]string{"GET", "/coracle/why/pods/default/p"}, [3]string{"GET", "/debug/pprof/"}),
		// An update that creates asks for the right to create, and is let make what the token may create.
		"creating by updating": as(404, "", [3]string{"PUT", configMaps + "/absent", `{"metadata":{"name":"absent"}}`}),
	}, "Authorization", "Bearer "+b.token)
	b.bearer(b.token, "PUT", "/apis/apps/v1/namespaces/default/deployments/none/scale", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"none","namespace":"default"}}`).want(404)
	b.bearer(b.token, "PUT", "/apis/apps/v1/namespaces/default/deployments/none/status", `{}`).want(403)
}

// TestRightsAreImmediate: whoever is answered that a right was given or taken can rely on it.
func TestRightsAreImmediate(t *testing.T) {
	c := start(t)
	jane := c.as("jane")
	c.post(rolesPath, gives("reader", "list", "", "configmaps")).want(201)
	for i := range 50 {
		c.post(bindingsPath, binds("b", "Role", "reader", "User/jane")).want(201)
		if a := c.call(jane, "GET", configMaps, ""); a.code != 200 {
			t.Fatalf("%d: given, and refused: %d %s", i, a.code, a.body)
		}
		c.call(c.http, "DELETE", bindingsPath+"/b", "").want(200)
		if a := c.call(jane, "GET", configMaps, ""); a.code != 403 {
			t.Fatalf("%d: taken, and let: %d", i, a.code)
		}
	}
	c.post(bindingsPath, binds("b", "Role", "reader", "User/jane")).want(201)
	merge := []string{"Content-Type", "application/merge-patch+json"}
	c.call(c.http, "PATCH", rolesPath+"/reader", `{"rules":[]}`, merge...).want(200)
	c.call(jane, "GET", configMaps, "").want(403)
	c.call(c.http, "PUT", rolesPath+"/reader", gives("reader", "list", "", "configmaps")).want(200)
	c.call(jane, "GET", configMaps, "").want(200)
	c.call(c.http, "DELETE", rolesPath+"/reader", "").want(200)
	c.call(jane, "GET", configMaps, "").want(403).wantField("message",
		`configmaps is forbidden: User "jane" cannot list resource "configmaps" in API group "" in the namespace "default": RBAC: role.rbac.authorization.k8s.io "reader" not found`)
}

// TestEscalation: nobody gives in a role or a binding what he does not have, by any way to write one.
func TestEscalation(t *testing.T) {
	c := start(t)
	c.post("/api/v1/namespaces", `{"metadata":{"name":"other"}}`).want(201)
	// Jane manages the access to a namespace in which she may read pods.
	c.post(rolesPath, `{"metadata":{"name":"manager"},"rules":[{"verbs":["get","list"],"apiGroups":[""],"resources":["pods"]},
		{"verbs":["*"],"apiGroups":["rbac.authorization.k8s.io"],"resources":["roles","rolebindings"],"resourceNames":[]}]}`).want(201)
	c.call(c.http, "PATCH", rolesPath+"/manager", `{"rules":[{"verbs":["get","list"],"apiGroups":[""],"resources":["pods"]},
		{"verbs":["get","create","update","patch","delete"],"apiGroups":["rbac.authorization.k8s.io"],"resources":["roles","rolebindings"]}]}`, "Content-Type", "application/merge-patch+json").want(200)
	c.post(bindingsPath, binds("manager", "Role", "manager", "User/jane")).want(201)
	// Max manages cluster roles and their bindings, and may do nothing else.
	c.post(clusterRolesPath, gives("role-manager", "get,create,update,patch,delete", "rbac.authorization.k8s.io", "clusterroles,clusterrolebindings")).want(201)
	c.post(clusterBindingsPath, binds("role-manager", "ClusterRole", "role-manager", "User/max")).want(201)
	for _, name := range []string{"small", "spare"} {
		c.post(rolesPath, gives(name, "get", "", "pods")).want(201)
	}
	c.post(rolesPath, gives("large", "get", "", "secrets")).want(201)
	c.post(bindingsPath, binds("large", "Role", "large", "User/root")).want(201)
	c.post(clusterRolesPath, `{"metadata":{"name":"sum"},"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"a":"b"}}]}}`).want(201)
	b := &besieged{cluster: c}
	const grants = `is attempting to grant RBAC permissions not currently held:\n`
	b.attempt(t, c.as("jane"), map[string][]try{
		"a role of what she has": as(201, "", [3]string{"POST", rolesPath, gives("mine", "get", "", "pods")}, [3]string{"POST", bindingsPath, binds("mine", "Role", "mine", "User/joe")},
			[3]string{"PUT", rolesPath + "/made-by-put", gives("made-by-put", "list", "", "pods")}),
		"a role of more": refuse(`roles.rbac.authorization.k8s.io \"x\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) `+grants+`{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}`,
			[3]string{"POST", rolesPath, gives("x", "get", "", "secrets")}, [3]string{"PUT", rolesPath + "/x", gives("x", "get", "", "secrets")},
			[3]string{"PATCH", rolesPath + "/x?fieldManager=m", `apply:{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"x"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["secrets"]}]}`}),
		"a role of everything": refuse(grants+`{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}`, [3]string{"POST", rolesPath, gives("x", "*", "*", "*")}),
		"making a role larger": refuse(grants, [3]string{"PUT", rolesPath + "/small", gives("small", "get", "", "secrets")}, [3]string{"PATCH", rolesPath + "/small", `{"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["secrets"]}]}`},
			[3]string{"PATCH", rolesPath + "/small", `json-patch:[{"op":"add","path":"/rules/0/resources/-","value":"secrets"}]`}, [3]string{"PATCH", rolesPath + "/large", `{"rules":[{"verbs":["list"],"apiGroups":[""],"resources":["secrets"]}]}`},
			[3]string{"PATCH", rolesPath + "/manager", `{"rules":[{"verbs":["bind","escalate"],"apiGroups":["rbac.authorization.k8s.io"],"resources":["roles"]}]}`}),
		"what gives nothing": as(200, "", [3]string{"PATCH", rolesPath + "/large", `{"metadata":{"labels":{"a":"b"}}}`}, [3]string{"PATCH", rolesPath + "/small", `{"rules":[{"verbs":["list"],"apiGroups":[""],"resources":["pods"]}]}`},
			[3]string{"PATCH", bindingsPath + "/large", `{"metadata":{"finalizers":["a.b/c"]}}`}, [3]string{"PATCH", bindingsPath + "/large", `{"metadata":{"finalizers":null}}`}, [3]string{"DELETE", rolesPath + "/spare"}),
		"binding a role of more": refuse(`rolebindings.rbac.authorization.k8s.io \"x\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) `+grants,
			[3]string{"POST", bindingsPath, binds("x", "Role", "large", "User/jane")}, [3]string{"POST", bindingsPath, binds("x", "ClusterRole", "cluster-admin", "User/jane")},
			[3]string{"PUT", bindingsPath + "/x", binds("x", "ClusterRole", "view", "User/jane")}, [3]string{"POST", bindingsPath, binds("x", "ClusterRole", "admin", "Group/system:authenticated")}),
		"adding herself to a binding": refuse(grants, [3]string{"PATCH", bindingsPath + "/large", `{"subjects":[{"kind":"User","name":"jane","apiGroup":"rbac.authorization.k8s.io"}]}`}, [3]string{"PUT", bindingsPath + "/large", binds("large", "Role", "large", "User/jane")}),
		"a role that is not there":    as(404, `roles.rbac.authorization.k8s.io \"none\" not found`, [3]string{"POST", bindingsPath, binds("x", "Role", "none", "User/jane")}),
		"no role at all":              as(422, "roleRef.kind: Unsupported value", [3]string{"POST", bindingsPath, binds("x", "Rule", "none", "User/jane")}),
		"another role in a binding":   as(422, "cannot change roleRef", [3]string{"PATCH", bindingsPath + "/manager", `{"roleRef":{"name":"small"}}`}),
		"other namespaces": refuse("cannot", [3]string{"POST", strings.Replace(rolesPath, "default", "other", 1), gives("x", "get", "", "pods")},
			[3]string{"POST", strings.Replace(bindingsPath, "default", "other", 1), binds("x", "ClusterRole", "view", "User/jane")}),
	})
	b.attempt(t, c.as("max"), map[string][]try{
		"a role of what he has": as(201, "", [3]string{"POST", clusterRolesPath, gives("m", "get", "rbac.authorization.k8s.io", "clusterroles")}, [3]string{"POST", clusterBindingsPath, binds("m", "ClusterRole", "m", "User/joe")}),
		"a role of more": refuse(grants, [3]string{"POST", clusterRolesPath, gives("x", "get", "", "pods")}, [3]string{"PATCH", clusterRolesPath + "/role-manager", `{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`},
			[3]string{"POST", clusterRolesPath, `{"metadata":{"name":"x"},"rules":[{"verbs":["get"],"nonResourceURLs":["/coracle/*"]}]}`}),
		"gathering": refuse("must have cluster-admin privileges to use the aggregationRule", [3]string{"POST", clusterRolesPath, `{"metadata":{"name":"x"},"aggregationRule":{"clusterRoleSelectors":[{}]}}`},
			[3]string{"PATCH", clusterRolesPath + "/role-manager", `{"aggregationRule":{"clusterRoleSelectors":[{}]}}`}, [3]string{"PATCH", clusterRolesPath + "/sum", `{"aggregationRule":null}`}),
		"binding a role of more": refuse(grants, [3]string{"POST", clusterBindingsPath, binds("x", "ClusterRole", "cluster-admin", "User/max")}, [3]string{"POST", clusterBindingsPath, binds("x", "ClusterRole", "view", "User/max")},
			[3]string{"PATCH", clusterBindingsPath + "/cluster-admin", `{"subjects":[{"kind":"User","name":"max","apiGroup":"rbac.authorization.k8s.io"}]}`}),
		"a role of a namespace": as(422, "roleRef.kind", [3]string{"POST", clusterBindingsPath, binds("x", "Role", "large", "User/max")}),
	})
	// escalate and bind let them, where they are given and no further.
	c.call(c.http, "PATCH", rolesPath+"/manager", `json-patch`, "Content-Type", "application/json-patch+json").want(400)
	c.call(c.http, "PATCH", rolesPath+"/manager", `[{"op":"add","path":"/rules/-","value":{"verbs":["escalate"],"apiGroups":["rbac.authorization.k8s.io"],"resources":["roles"],"resourceNames":["small"]}},
		{"op":"add","path":"/rules/-","value":{"verbs":["bind"],"apiGroups":["rbac.authorization.k8s.io"],"resources":["roles","clusterroles"],"resourceNames":["large","view"]}}]`, "Content-Type", "application/json-patch+json").want(200)
	b.attempt(t, c.as("jane"), map[string][]try{
		"escalate one role": as(200, "", [3]string{"PUT", rolesPath + "/small", gives("small", "get", "", "secrets")}),
		"bind some roles":   as(201, "", [3]string{"POST", bindingsPath, binds("y", "Role", "large", "User/joe")}, [3]string{"POST", bindingsPath, binds("z", "ClusterRole", "view", "User/joe")}),
		"and no others": refuse(grants, [3]string{"PUT", rolesPath + "/large", gives("large", "delete", "", "secrets")}, [3]string{"POST", rolesPath, gives("x", "get", "", "nodes")},
			[3]string{"POST", bindingsPath, binds("x", "ClusterRole", "edit", "User/joe")}),
	})
}

// TestImpersonationByRole: a role says as whom its bearer may act: which users, accounts, groups, extras and UIDs.
func TestImpersonationByRole(t *testing.T) {
	c := start(t)
	c.post(clusterRolesPath, `{"metadata":{"name":"actor"},"rules":[
		{"verbs":["impersonate"],"apiGroups":[""],"resources":["users"],"resourceNames":["bob"]},
		{"verbs":["impersonate"],"apiGroups":[""],"resources":["groups"],"resourceNames":["friends"]},
		{"verbs":["impersonate"],"apiGroups":["authentication.k8s.io"],"resources":["userextras/scopes"],"resourceNames":["view"]},
		{"verbs":["impersonate"],"apiGroups":["authentication.k8s.io"],"resources":["uids"],"resourceNames":["7"]}]}`).want(201)
	c.post(clusterBindingsPath, binds("actor", "ClusterRole", "actor", "User/jane")).want(201)
	c.post(rolesPath, gives("accounts", "impersonate", "", "serviceaccounts")).want(201)
	c.post(bindingsPath, binds("accounts", "Role", "accounts", "User/jane")).want(201)
	jane := c.as("jane")
	for _, x := range []struct {
		headers []string
		want    int
		part    string
	}{
		{[]string{"Impersonate-User", "bob"}, 201, `"username":"bob"`},
		{[]string{"Impersonate-User", "bob", "Impersonate-Group", "friends", "Impersonate-Extra-Scopes", "view", "Impersonate-Uid", "7"}, 201, `"uid":"7"`},
		{[]string{"Impersonate-User", "joe"}, 403, `User \"jane\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope`},
		{[]string{"Impersonate-User", "bob", "Impersonate-Group", "system:masters"}, 403, `cannot impersonate resource \"groups\"`},
		{[]string{"Impersonate-User", "bob", "Impersonate-Extra-Scopes", "admin"}, 403, `cannot impersonate resource \"userextras/scopes\"`},
		{[]string{"Impersonate-User", "bob", "Impersonate-Uid", "8"}, 403, `cannot impersonate resource \"uids\"`},
		{[]string{"Impersonate-User", "system:serviceaccount:default:x"}, 201, `"username":"system:serviceaccount:default:x"`},
		{[]string{"Impersonate-User", "system:serviceaccount:kube-system:x"}, 403, `cannot impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"kube-system\"`},
	} {
		a := c.call(jane, "POST", whoami, "{}", x.headers...)
		if a.code != x.want || !strings.Contains(string(a.body), x.part) {
			t.Errorf("%v: %d %s, want %d %s", x.headers, a.code, a.body, x.want, x.part)
		}
	}
	// Whoever acts as another has the other's rights, and not his own.
	c.call(jane, "POST", rolesPath, gives("x", "get", "", "pods"), "Impersonate-User", "bob").want(403).
		wantField("message", `roles.rbac.authorization.k8s.io is forbidden: User "bob" cannot create resource "roles" in API group "rbac.authorization.k8s.io" in the namespace "default"`)
}

// TestAccessReviews: the questions are answered by roles, with the reason, about others only for those who may ask.
func TestAccessReviews(t *testing.T) {
	b := besiege(t)
	const access = "/apis/authorization.k8s.io/v1/"
	b.post(rolesPath, gives("reader", "get,list", "", "pods")).want(201)
	b.post(bindingsPath, binds("reader", "Role", "reader", "Group/devs")).want(201)
	b.post(clusterBindingsPath, binds("delegator", "ClusterRole", "system:auth-delegator", "User/webhook")).want(201)
	b.post(bindingsPath, binds("admin", "ClusterRole", "admin", "User/owner")).want(201)
	ask := func(client *http.Client, kind, spec string) answer {
		return b.call(client, "POST", access+kind, `{"spec":`+spec+`}`)
	}
	list := func(namespace string) string {
		return fmt.Sprintf(`"resourceAttributes":{"verb":"list","resource":"pods","namespace":%q}`, namespace)
	}
	self := b.as("jane", "devs")
	ask(self, "selfsubjectaccessreviews", "{"+list("default")+"}").want(201).wantField("status.allowed", "true").
		wantField("status.reason", `RBAC: allowed by RoleBinding "reader/default" of Role "reader" to Group "devs"`)
	ask(self, "selfsubjectaccessreviews", "{"+list("kube-system")+"}").want(201).wantField("status.allowed", "false")
	ask(self, "selfsubjectaccessreviews", `{"nonResourceAttributes":{"verb":"get","path":"/apis/x"}}`).want(201).wantField("status.allowed", "true")
	ask(self, "subjectaccessreviews", `{"user":"bob",`+list("default")+"}").want(403)
	ask(b.as("webhook"), "subjectaccessreviews", `{"user":"bob","groups":["devs"],`+list("default")+"}").want(201).wantField("status.allowed", "true")
	ask(b.as("webhook"), "subjectaccessreviews", `{"user":"bob",`+list("default")+"}").want(201).wantField("status.allowed", "false")
	local := "namespaces/default/localsubjectaccessreviews"
	ask(b.as("owner"), local, `{"user":"bob","groups":["devs"],`+list("default")+"}").want(201).wantField("status.allowed", "true")
	ask(b.as("owner"), local, `{"user":"bob",`+list("other")+"}").want(400)
	ask(b.as("owner"), "namespaces/kube-system/localsubjectaccessreviews", `{"user":"bob",`+list("kube-system")+"}").want(403)
	ask(self, "selfsubjectrulesreviews", `{"namespace":"default"}`).want(201).wantBody(`{"verbs":["get","list"],"apiGroups":[""],"resources":["pods"]}`)
	// A node's answer depends on the selector.
	node := `{"user":"system:node:n1","groups":["system:nodes","system:authenticated"],"resourceAttributes":{"verb":"list","resource":"pods"%s}}`
	for selector, want := range map[string]string{
		``: "false",
		`,"fieldSelector":{"rawSelector":"spec.nodeName=n1"}`:                                          "true",
		`,"fieldSelector":{"rawSelector":"spec.nodeName=n2"}`:                                          "false",
		`,"fieldSelector":{"requirements":[{"key":"spec.nodeName","operator":"In","values":["n1"]}]}`:  "true",
		`,"fieldSelector":{"requirements":[{"key":"spec.nodeName","operator":"Exists"}]}`:              "false",
		`,"fieldSelector":{"rawSelector":"((("}`:                                                       "false",
		`,"labelSelector":{"requirements":[{"key":"spec.nodeName","operator":"In","values":["n1"]}]}`:  "false",
		`,"labelSelector":{"requirements":[{"key":"coracle.io/x","operator":"Near","values":["n1"]}]}`: "false",
	} {
		ask(b.http, "subjectaccessreviews", fmt.Sprintf(node, selector)).want(201).wantField("status.allowed", want)
	}
	ask(b.http, "subjectaccessreviews", fmt.Sprintf(node, `,"fieldSelector":{"rawSelector":"a=b","requirements":[{"key":"a","operator":"In","values":["b"]}]}`)).want(400)
}
