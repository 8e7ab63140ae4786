package apiserver

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"coracle/internal/resource"
	"coracle/internal/store"
)

// TestPolicyAtStart: a start writes nothing where all is as it should be, adds what is missing, keeps what there is more, and
// leaves alone what wants to be.
func TestPolicyAtStart(t *testing.T) {
	cfg := store.Config{Dir: t.TempDir()}
	policies := func(c *cluster) []string {
		var all []string
		for id, revision := range c.stored() {
			if strings.Contains(id, "rbac.authorization.k8s.io") {
				all = append(all, id+"@"+revision)
			}
		}
		slices.Sort(all)
		return all
	}
	again := func(c *cluster) *cluster {
		t.Helper()
		c.stop()
		if err := c.cfg.Store.Close(); err != nil {
			t.Fatal(err)
		}
		return startOn(t, cfg)
	}
	c := startOn(t, cfg)
	first := policies(c)
	if len(first) < 50 {
		t.Errorf("a new cluster has %d roles and bindings", len(first))
	}
	c = again(c)
	if now := policies(c); !slices.Equal(first, now) {
		t.Errorf("the second start has written roles:\n%v\n%v", first, now)
	}
	merge := []string{"Content-Type", "application/merge-patch+json"}
	change := func(path, body string) { c.call(c.http, "PATCH", path, body, merge...).want(200) }
	extra := `{"verbs":["get"],"apiGroups":["example.com"],"resources":["widgets"]}`
	change(clusterRolesPath+"/system:basic-user", `{"rules":[`+extra+`]}`)
	change(clusterRolesPath+"/system:discovery", `{"metadata":{"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"false"}},"rules":[]}`)
	change(clusterBindingsPath+"/system:basic-user", `{"subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"jane"}]}`)
	c.call(c.http, "DELETE", clusterRolesPath+"/view", "").want(200)
	c.call(c.http, "DELETE", clusterBindingsPath+"/system:public-info-viewer", "").want(200)
	c.call(c.http, "POST", clusterBindingsPath, binds("system:public-info-viewer", "ClusterRole", "cluster-admin", "User/eve")).want(201)
	c.call(c.as("robot"), "GET", "/version", "").want(403) // nothing says any more that he may
	c = again(c)
	c.get(clusterRolesPath + "/system:basic-user").wantBody(extra).wantBody("selfsubjectrulesreviews").wantBody("selfsubjectreviews")
	c.get(clusterRolesPath+"/system:discovery").wantField("rules", "")
	c.get(clusterBindingsPath + "/system:basic-user").wantBody("jane").wantBody("system:authenticated")
	c.get(clusterRolesPath + "/view").wantBody("configmaps")
	c.get(clusterBindingsPath+"/system:public-info-viewer").wantField("roleRef.name", "system:public-info-viewer")
	c.call(c.as("eve"), "GET", secretsPath, "").want(403)
	c.call(c.as("robot"), "GET", "/api", "").want(403)
	c.call(c.as("robot"), "GET", "/version", "").want(200)
}

// TestKubectlAccess: the stock kubectl makes, shows, applies, edits and asks about roles.
func TestKubectlAccess(t *testing.T) {
	c := start(t)
	k := c.kubectl(t)
	account(t, c)
	k.says("", []string{"create", "role", "reader", "--verb=get,list,watch", "--resource=pods,pods/log"}, "reader created")
	k.says("", []string{"create", "clusterrole", "scaler", "--verb=update", "--resource=deployments.apps/scale"}, "scaler created")
	k.says("", []string{"create", "clusterrole", "gather", "--aggregation-rule=a=b"}, "gather created")
	k.says("", []string{"create", "clusterrole", "prober", "--verb=get", "--non-resource-url=/metrics"}, "prober created")
	k.says("", []string{"create", "rolebinding", "read", "--role=reader", "--serviceaccount=default:default", "--user=jane"}, "read created")
	k.says("", []string{"create", "clusterrolebinding", "scale", "--clusterrole=scaler", "--group=devs"}, "scale created")
	k.says("", []string{"get", "rolebinding", "read", "-o", "wide"}, "Role/reader", "jane", "default/default")
	k.says("", []string{"describe", "role", "reader"}, "pods/log", "[get list watch]")
	k.says("", []string{"describe", "rolebinding", "read"}, "ServiceAccount  default  default", "User            jane")
	k.says("", []string{"auth", "can-i", "list", "pods", "--as=system:serviceaccount:default:default"}, "yes")
	k.says("", []string{"auth", "can-i", "get", "pods", "--subresource=log", "--as=jane"}, "yes")
	if out, err := k.run("", "auth", "can-i", "delete", "pods", "--as=jane"); err == nil || !strings.Contains(out, "no") {
		t.Errorf("can-i delete pods: %s", out)
	}
	k.says("", []string{"auth", "can-i", "--list", "--as=jane"}, "pods/log", "selfsubjectaccessreviews.authorization.k8s.io", "[/api/*]")
	k.says("", []string{"auth", "whoami", "--as=jane"}, "jane", "system:authenticated")
	manifest := func(verbs string) string {
		return fmt.Sprintf(`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"applied","namespace":"default"},
			"rules":[{"apiGroups":[""],"resources":["configmaps"],"verbs":[%s]}]}`, verbs)
	}
	k.says(manifest(`"get"`), []string{"apply", "-f", "-"}, "applied created")
	k.says(manifest(`"get","list"`), []string{"apply", "-f", "-"}, "applied configured")
	k.says(manifest(`"watch"`), []string{"apply", "--server-side", "--force-conflicts", "-f", "-"}, "serverside-applied")
	k.says(manifest(`"delete"`), []string{"auth", "reconcile", "-f", "-"}, "applied reconciled", "missing rules added")
	c.get(rolesPath + "/applied").wantBody(`"watch"`).wantBody(`"delete"`)
	k.says("", []string{"patch", "role", "applied", "--type=json", "-p", `[{"op":"remove","path":"/rules/1"}]`}, "patched")
	if out, err := k.run("", "patch", "rolebinding", "read", "-p", `{"roleRef":{"name":"applied"}}`); err == nil || !strings.Contains(out, "cannot change roleRef") {
		t.Errorf("another role for a binding: %s", out)
	}
	if out, err := k.run("", "get", "secrets", "--as=jane"); err == nil ||
		!strings.Contains(out, `secrets is forbidden: User "jane" cannot list resource "secrets" in API group "" in the namespace "default"`) {
		t.Errorf("refused with: %s", out)
	}
	k.says("", []string{"delete", "role,rolebinding,clusterrole,clusterrolebinding", "reader", "read", "scaler", "scale", "--ignore-not-found"}, "deleted")
}

// TestNetworkingKinds: the kinds of networking.k8s.io by the stock kubectl, the range that the cluster has, the default
// class, and the warnings of what nothing acts on.
func TestNetworkingKinds(t *testing.T) {
	c := start(t)
	k := c.kubectl(t)
	const networking = "/apis/networking.k8s.io/v1/"
	k.says("", []string{"get", "servicecidr"}, "kubernetes", "10.96.0.0/16")
	ready := func() answer {
		return c.get(networking + "servicecidrs/kubernetes").wantBody(`"type":"Ready","status":"True"`)
	}
	ready()
	c.call(c.http, "PUT", networking+"servicecidrs/kubernetes/status", `{"metadata":{"name":"kubernetes"}}`).want(200)
	c.call(c.http, "DELETE", networking+"servicecidrs/kubernetes", "").want(200)
	waitUntil(t, "the range is told of again", func() bool {
		a := c.get(networking + "servicecidrs/kubernetes")
		return a.code == 200 && strings.Contains(string(a.body), `"type":"Ready","status":"True"`)
	})

	policy := `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"deny","namespace":"default"},"spec":{"podSelector":{}}}`
	k.says(policy, []string{"apply", "-f", "-"}, "deny created")
	k.says("", []string{"label", "netpol", "deny", "a=b"}, "deny labeled")
	k.says("", []string{"describe", "netpol", "deny"}, "Allowing ingress traffic", "Policy Types: Ingress")
	warned := func(a answer, want string) {
		t.Helper()
		if got := a.header.Get("Warning"); !strings.Contains(got, want) {
			t.Errorf("warned with %q, want %q", got, want)
		}
	}
	if told := c.post(networking+"namespaces/default/networkpolicies", `{"metadata":{"name":"plain"},"spec":{"podSelector":{}}}`).want(201).header.Get("Warning"); told != "" {
		t.Errorf("of a policy is warned with %q", told)
	}
	c.addressesObeyed(networking)

	ingress := `{"metadata":{"name":%q%s},"spec":{"defaultBackend":{"service":{"name":"web","port":{"number":80}}}}}`
	ingresses := networking + "namespaces/default/ingresses"
	c.post(ingresses, fmt.Sprintf(ingress, "none", "")).want(201).wantField("spec.ingressClassName", "")
	class := `{"apiVersion":"networking.k8s.io/v1","kind":"IngressClass","metadata":{"name":"nginx","annotations":{"ingressclass.kubernetes.io/is-default-class":"true"}},"spec":{"controller":"example.com/nginx"}}`
	k.says(class, []string{"create", "-f", "-"}, "nginx created")
	c.post(networking+"ingressclasses", `{"metadata":{"name":"other"},"spec":{"controller":"example.com/other"}}`).want(201)
	c.post(ingresses, fmt.Sprintf(ingress, "given", "")).want(201).wantField("spec.ingressClassName", "nginx")
	warned(c.post(ingresses, fmt.Sprintf(ingress, "older", `,"annotations":{"kubernetes.io/ingress.class":"mine"}`)).want(201).wantField("spec.ingressClassName", ""), "is deprecated")
	k.says("", []string{"create", "ingress", "web", "--class=nginx", "--rule=a.example.com/*=web:80,tls=cert"}, "web created")
	k.says("", []string{"get", "ing", "web"}, "nginx", "a.example.com", "80, 443")
	k.says("", []string{"describe", "ing", "web"}, "a.example.com", "web:80")
	if _, ok := c.set.Get(resource.Ingresses, "default", "web"); !ok {
		t.Error("it is not stored")
	}
}

// waitUntil waits for a condition, ten seconds at most.
func waitUntil(t *testing.T, what string, holds func() bool) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for !holds() {
		select {
		case <-limit:
			t.Fatalf("in vain: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// addressesObeyed: cluster IPs are given from each ServiceCIDR that is ready, and not what an IPAddress reserves.
func (c *cluster) addressesObeyed(networking string) {
	c.t.Helper()
	const services = "/api/v1/namespaces/default/services"
	asking := func(name, ip string) answer {
		return c.post(services, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"clusterIP":%q,"ports":[{"port":80}]}}`, name, ip))
	}
	parent := `"spec":{"parentRef":{"resource":"services","namespace":"default","name":"x"}}}`
	object := networking + "ipaddresses"
	c.post(object, `{"metadata":{"name":"10.96.0.9"},`+parent).want(201)
	c.post(object, `{"metadata":{"name":"10.96.0.9"},`+parent).want(409)
	asking("taken", "10.96.0.9").want(422).wantBody("provided IP is already allocated")
	asking("first", "10.96.0.10").want(201)
	c.post(object, `{"metadata":{"name":"10.96.0.10"},`+parent).want(409).wantBody("a Service has the address")
	c.call(c.http, "DELETE", object+"/10.96.0.9", "").want(200)
	asking("free", "10.96.0.9").want(201)

	port := func(name string) answer {
		return c.post(services, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30700}]}}`, name))
	}
	port("np").want(201)
	port("np2").want(422).wantBody("spec.ports[0].nodePort: Invalid value: 30700: provided port is already allocated")

	cidrs := networking + "servicecidrs"
	c.post(cidrs, `{"metadata":{"name":"more"},"spec":{"cidrs":["10.97.0.0/16"]}}`).want(201)
	asking("early", "10.97.0.9").want(422).wantBody("The range of valid IPs is 10.96.0.0/16")
	ready := func(is string) {
		c.t.Helper()
		c.call(c.http, "PUT", cidrs+"/more/status", `{"metadata":{"name":"more"},"status":{"conditions":[{"type":"Ready","status":"`+is+
			`","reason":"X","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`).want(200)
	}
	ready("True")
	asking("more", "10.97.0.9").want(201).wantField("spec.clusterIP", "10.97.0.9")
	asking("twice", "10.97.0.9").want(422).wantBody("provided IP is already allocated")
	ready("False")
	asking("late", "10.97.0.10").want(422)
	c.call(c.http, "PATCH", services+"/more", `{"spec":{"type":"NodePort"}}`, "Content-Type", "application/merge-patch+json").want(200) // it keeps what it has
}
