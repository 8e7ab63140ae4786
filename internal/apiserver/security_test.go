package apiserver

import (
	"fmt"
	"net/http"
	"testing"

	"coracle/internal/pki"
)

func (c *cluster) bearer(token, method, path, body string) answer {
	c.t.Helper()
	return c.call(c.as(""), method, path, body, "Authorization", "Bearer "+token)
}

func TestAnonymousSeesHealthOnly(t *testing.T) {
	c := start(t)
	nobody := c.as("")
	for _, path := range []string{"/healthz", "/livez", "/readyz", "/version"} {
		c.call(nobody, "GET", path, "").want(200)
	}
	for _, path := range []string{"/", "/api", "/apis", "/openapi/v2", "/api/v1/namespaces"} {
		c.call(nobody, "GET", path, "").want(401).wantField("reason", "Unauthorized")
	}
	c.bearer("rubbish", "GET", "/api/v1/namespaces", "").want(401)
	c.bearer("rubbish", "GET", "/healthz", "").want(401)
}

func TestForeignCertificateIsRefused(t *testing.T) {
	c := start(t)
	other := *c
	other.pki = authority(t)
	cert := other.cert("admin", pki.MastersGroup)
	client := c.as("")
	client.Transport.(*http.Transport).TLSClientConfig.Certificates = append(client.Transport.(*http.Transport).TLSClientConfig.Certificates, cert)
	c.call(client, "GET", "/api/v1/namespaces", "").want(401)
}

func TestStrangerMayDiscoverOnly(t *testing.T) {
	c := start(t)
	bob := c.as("bob", "friends")
	c.call(bob, "GET", "/apis", "").want(200)
	c.call(bob, "GET", "/openapi/v3", "").want(200)
	c.call(bob, "GET", "/api/v1/namespaces/default/pods", "").want(403).
		wantField("message", `pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "default"`)
	c.call(bob, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{}").want(201).
		wantField("status.userInfo.username", "bob").wantField("status.userInfo.groups", `["friends","system:authenticated"]`)
	can := func(client *http.Client) string {
		return c.call(client, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
			`{"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}`).want(201).field("status.allowed")
	}
	if got := can(bob) + can(c.http); got != "falsetrue" {
		t.Errorf("bob and admin may get pods: %s", got)
	}
	c.call(c.http, "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews",
		`{"spec":{"user":"bob","resourceAttributes":{"verb":"get","resource":"pods"}}}`).want(201).wantField("status.allowed", "false")
	// Only those who may do everything may act as others.
	c.call(c.http, "GET", "/api/v1/namespaces", "", "Impersonate-User", "bob").want(403)
	c.call(bob, "GET", "/api/v1/namespaces", "", "Impersonate-User", "admin").want(403)
}

func (c *cluster) token(name, spec string) string {
	c.t.Helper()
	return c.post("/api/v1/namespaces/default/serviceaccounts/"+name+"/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":`+spec+`}`).
		want(201).field("status.token")
}

func TestServiceAccountTokens(t *testing.T) {
	c := start(t)
	account(t, c)
	who := func(token string) answer {
		t.Helper()
		return c.bearer(token, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{}")
	}
	plain := c.token("default", `{"expirationSeconds":600}`)
	who(plain).want(201).wantField("status.userInfo.username", "system:serviceaccount:default:default").
		wantField("status.userInfo.groups", `["system:serviceaccounts","system:serviceaccounts:default","system:authenticated"]`)
	c.bearer(plain, "GET", "/api/v1/namespaces/default/pods", "").want(403)
	who(plain[:len(plain)-4] + "AAAA").want(401)

	foreign := c.token("default", `{"audiences":["vault"]}`)
	who(foreign).want(401)
	review := func(token, more string) answer {
		t.Helper()
		return c.post("/apis/authentication.k8s.io/v1/tokenreviews", fmt.Sprintf(`{"spec":{"token":%q%s}}`, token, more)).want(201)
	}
	review(foreign, `,"audiences":["vault"]`).wantField("status.authenticated", "true").wantField("status.audiences", `["vault"]`)
	review(foreign, "").wantField("status.authenticated", "")
	review("rubbish", "").wantField("status.authenticated", "")

	c.post("/api/v1/namespaces/default/serviceaccounts/default/token", `{"spec":{"expirationSeconds":60}}`).want(422).
		wantBody("may not specify a duration less than 10 minutes")
	c.post("/api/v1/namespaces/default/serviceaccounts/none/token", `{"spec":{}}`).want(404)
}

func TestBoundTokensEndWithTheirObject(t *testing.T) {
	c := start(t)
	account(t, c)
	c.post(pods, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`).want(201)
	bound := c.token("default", `{"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"p"}}`)
	ask := func() answer {
		return c.bearer(bound, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{}")
	}
	ask().want(201).wantBody(`"authentication.kubernetes.io/pod-name":["p"]`)
	c.call(c.http, "DELETE", pods+"/p", "").want(200)
	ask().want(401)
	// Another pod of that name is another pod.
	c.post(pods, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`).want(201)
	ask().want(401)

	plain := c.token("default", `{}`)
	c.call(c.http, "DELETE", "/api/v1/namespaces/default/serviceaccounts/default", "").want(200)
	c.bearer(plain, "GET", "/api", "").want(401)
	account(t, c)
	c.bearer(plain, "GET", "/api", "").want(401)
	c.post("/api/v1/namespaces/default/serviceaccounts/default/token", `{"spec":{"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"q"}}}`).want(404)
	c.post("/api/v1/namespaces/default/serviceaccounts/default/token", `{"spec":{"boundObjectRef":{"apiVersion":"v1","kind":"ConfigMap","name":"q"}}}`).want(400)
}

func TestNodeReachesItsOwn(t *testing.T) {
	c := start(t)
	account(t, c)
	node := c.as("system:node:n1", "system:nodes")
	merge := []string{"Content-Type", "application/merge-patch+json"}
	c.call(node, "POST", "/api/v1/nodes", `{"metadata":{"name":"n1"}}`).want(201).wantBody("node.kubernetes.io/not-ready")
	c.call(node, "POST", "/api/v1/nodes", `{"metadata":{"name":"n2"}}`).want(403)
	c.post("/api/v1/nodes", `{"metadata":{"name":"n2"}}`).want(201)
	c.call(node, "PATCH", "/api/v1/nodes/n1/status", `{"status":{"nodeInfo":{"kubeletVersion":"x"}}}`, merge...).want(200)
	c.call(node, "PATCH", "/api/v1/nodes/n2/status", `{}`, merge...).want(403)
	c.call(node, "GET", "/api/v1/nodes/n1", "").want(200)
	c.call(node, "GET", "/api/v1/nodes", "").want(403)
	c.call(node, "DELETE", "/api/v1/nodes/n1", "").want(403)

	leases := "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	c.call(node, "POST", leases, `{"metadata":{"name":"n1"}}`).want(201)
	c.call(node, "POST", leases, `{"metadata":{"name":"n1"}}`).want(409)
	c.call(node, "POST", leases, `{"metadata":{"name":"n2"}}`).want(403)
	c.call(node, "GET", leases+"/n1", "").want(200)

	for _, name := range []string{"used", "unused"} {
		c.post("/api/v1/namespaces/default/secrets", fmt.Sprintf(`{"metadata":{"name":%q}}`, name)).want(201)
		c.post(configMaps, fmt.Sprintf(`{"metadata":{"name":%q}}`, name)).want(201)
	}
	uid := c.post(pods, `{"metadata":{"name":"p"},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"i","envFrom":[{"secretRef":{"name":"used"}},{"configMapRef":{"name":"used"}}]}]}}`).
		want(201).field("metadata.uid")
	c.post(pods, `{"metadata":{"name":"q"},"spec":{"nodeName":"n2","containers":[{"name":"c","image":"i"}]}}`).want(201)
	c.call(node, "GET", "/api/v1/namespaces/default/secrets/used", "").want(200)
	c.call(node, "GET", "/api/v1/namespaces/default/secrets/unused", "").want(403).wantBody("no relationship found between node 'n1' and this object")
	c.call(node, "GET", "/api/v1/namespaces/default/secrets", "").want(403)
	c.call(node, "GET", configMaps+"/used", "").want(200)
	c.call(node, "GET", configMaps+"/unused", "").want(403)
	c.call(node, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", "").want(200)
	c.call(node, "GET", "/api/v1/pods", "").want(403)
	c.call(node, "GET", pods+"/p", "").want(200)
	c.call(node, "GET", pods+"/q", "").want(403)
	c.call(node, "PATCH", pods+"/p/status", `{"status":{"phase":"Running"}}`, merge...).want(200)
	c.call(node, "PATCH", pods+"/q/status", `{"status":{"phase":"Running"}}`, merge...).want(403)
	c.call(node, "PATCH", pods+"/p", `{"metadata":{"labels":{"a":"b"}}}`, merge...).want(403)
	c.call(node, "POST", pods, `{"metadata":{"name":"x"},"spec":{"containers":[{"name":"c","image":"i"}]}}`).want(403)
	token := "/api/v1/namespaces/default/serviceaccounts/%s/token"
	c.call(node, "POST", fmt.Sprintf(token, "default"), fmt.Sprintf(`{"spec":{"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"p","uid":%q}}}`, uid)).want(201)
	c.post("/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"other"}}`).want(201)
	c.call(node, "POST", fmt.Sprintf(token, "other"), `{"spec":{}}`).want(403)
	c.call(node, "POST", "/api/v1/namespaces/default/events", `{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","name":"p","namespace":"default"}}`).want(201)
	c.call(node, "GET", "/api/v1/services", "").want(200)
	c.call(node, "DELETE", pods+"/p?gracePeriodSeconds=0", "").want(200)
}

// TestEventsInTwoGroups reads one event under both of its names.
func TestEventsInTwoGroups(t *testing.T) {
	c := start(t)
	c.post("/api/v1/namespaces/default/events", `{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","name":"p","namespace":"default"},"message":"m","reason":"R","type":"Normal"}`).want(201)
	c.get("/apis/events.k8s.io/v1/namespaces/default/events/e").want(200).
		wantField("kind", "Event").wantField("apiVersion", "events.k8s.io/v1").wantField("note", "m").wantField("regarding.name", "p")
	c.post("/apis/events.k8s.io/v1/namespaces/default/events", `{"metadata":{"name":"f"},"eventTime":"2026-01-01T00:00:00.000000Z","reportingController":"x/y","reportingInstance":"z","action":"Do","reason":"R","note":"n","type":"Normal","regarding":{"kind":"Pod","name":"p","namespace":"default"}}`).want(201).
		wantField("note", "n")
	c.get("/api/v1/namespaces/default/events/f").want(200).wantField("message", "n").wantField("involvedObject.name", "p")
	c.get("/apis/events.k8s.io/v1/events?fieldSelector=regarding.name%3Dp").want(200).wantBody(`"name":"f"`)
	if e, ok := c.watch(t, "/apis/events.k8s.io/v1/events?watch=1").next(); !ok || e.Object.Kind != "Event" {
		t.Errorf("watch gave %+v", e)
	}
}
