package apiserver

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"

	"coracle/internal/pki"
	"coracle/internal/resource"
)

// try is one request that somebody makes, and what must come of it. docs/security.md says the same
// to people: a row here for each line there that is about requests.
type try struct {
	method, path, body string
	want               int
	part               string // of the answer
}

// A body's form is told by its prefix; without one it is JSON, or a merge patch.
var forms = map[string]string{
	"json-patch:": "application/json-patch+json",
	"strategic:":  "application/strategic-merge-patch+json",
	"apply:":      "application/apply-patch+yaml",
}

// attempt makes the tries one after the other. Whoever makes them, and whatever the answer: what is
// stored is the same afterwards, or an answer below 300 was wanted.
func (c *cluster) attempt(t *testing.T, client *http.Client, tries map[string][]try, headers ...string) {
	t.Helper()
	for what, list := range tries {
		t.Run(what, func(t *testing.T) {
			for _, x := range list {
				kind, body := "application/json", x.body
				if x.method == "PATCH" {
					kind = "application/merge-patch+json"
				}
				for prefix, form := range forms {
					if rest, ok := strings.CutPrefix(x.body, prefix); ok {
						kind, body = form, rest
					}
				}
				before := c.stored()
				a := c.call(client, x.method, x.path, body, append([]string{"Content-Type", kind}, headers...)...)
				if a.code != x.want || !strings.Contains(string(a.body), x.part) {
					t.Errorf("%s %s %s: %d %s, want %d %q", x.method, x.path, x.body, a.code, a.body, x.want, x.part)
				}
				if a.code < 300 || x.want < 300 {
					continue
				}
				if d := cmp.Diff(before, c.stored()); d != "" {
					t.Errorf("%s %s %s was refused, and has changed:\n%s", x.method, x.path, x.body, d)
				}
			}
		})
	}
}

// stored is the revision of every object.
func (c *cluster) stored() map[string]string {
	all := map[string]string{}
	for _, res := range resource.All() {
		for _, o := range c.set.List(res, "") {
			m, err := meta.Accessor(o)
			if err != nil {
				c.t.Fatal(err)
			}
			all[res.String()+" "+m.GetNamespace()+"/"+m.GetName()] = m.GetResourceVersion()
		}
	}
	return all
}

const (
	nodesPath    = "/api/v1/nodes"
	secretsPath  = "/api/v1/namespaces/default/secrets"
	claimsPath   = "/api/v1/namespaces/default/persistentvolumeclaims"
	volumesPath  = "/api/v1/persistentvolumes"
	accountsPath = "/api/v1/namespaces/default/serviceaccounts"
	leasesPath   = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	classesPath  = "/apis/storage.k8s.io/v1/storageclasses"
	whoami       = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
)

// besieged is a cluster of two nodes with something to lose: on n1 the pod p, on n2 the pod q, each
// with a secret, a configmap and a claim; a volume that n1 is to reclaim, and one that n2 is; a pod
// that has no node.
type besieged struct {
	*cluster
	node        *http.Client // the agent of n1
	uid         string       // of p
	uidOfQ      string
	nodeUID     string // of n1
	token       string // of p, as its volume has it
	administers *http.Client
}

func besiege(t *testing.T) *besieged {
	b := &besieged{cluster: start(t)}
	b.node, b.administers = b.as("system:node:n1", "system:nodes"), b.http
	account(t, b.cluster)
	b.post(accountsPath, `{"metadata":{"name":"other"}}`).want(201)
	b.nodeUID = b.call(b.node, "POST", nodesPath, `{"metadata":{"name":"n1","labels":{"kubernetes.io/hostname":"n1"}},"spec":{"taints":[{"key":"own","effect":"NoSchedule"}]}}`).
		want(201).field("metadata.uid")
	b.post(nodesPath, `{"metadata":{"name":"n2"}}`).want(201)
	b.merge(nodesPath+"/n1", `{"metadata":{"labels":{"node-restriction.kubernetes.io/tier":"plain"}}}`)
	for _, name := range []string{"n1", "n2"} {
		b.post(leasesPath, fmt.Sprintf(`{"metadata":{"name":%q}}`, name)).want(201)
	}
	for _, name := range []string{"p", "q"} {
		b.post(secretsPath, fmt.Sprintf(`{"metadata":{"name":"secret-%s"}}`, name)).want(201)
		b.post(configMaps, fmt.Sprintf(`{"metadata":{"name":"config-%s"}}`, name)).want(201)
		b.volume("pv-"+name, "claim-"+name, "", "Bound")
	}
	b.uid = b.pod("p", "n1", "default").field("metadata.uid")
	b.uidOfQ = b.pod("q", "n2", "other").field("metadata.uid")
	b.post(pods, `{"metadata":{"name":"unplaced"},"spec":{"containers":[{"name":"c","image":"i"}]}}`).want(201)
	b.volume("given-up", "", "n1", "Released")
	b.volume("given-up-2", "", "n2", "Released")
	b.volume("misnamed", "claim-m", "n1", "Bound")
	b.token = b.cluster.token("default", fmt.Sprintf(`{"expirationSeconds":3607,"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"p","uid":%q}}`, b.uid))
	return b
}

func (b *besieged) merge(path, body string) answer {
	b.t.Helper()
	return b.call(b.administers, "PATCH", path, body, "Content-Type", "application/merge-patch+json").want(200)
}

// pod makes a pod on a node, that mounts a token for the API server (3607 s) and one for vault (600 s).
func (b *besieged) pod(name, node, account string) answer {
	b.t.Helper()
	return b.post(pods, fmt.Sprintf(`{"metadata":{"name":%[1]q},"spec":{"nodeName":%[2]q,"serviceAccountName":%[3]q,
		"containers":[{"name":"c","image":"i","envFrom":[{"secretRef":{"name":"secret-%[1]s"}},{"configMapRef":{"name":"config-%[1]s"}}]}],
		"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"claim-%[1]s"}},
			{"name":"t","projected":{"sources":[{"serviceAccountToken":{"audience":"vault","expirationSeconds":600,"path":"t"}}]}}]}}`,
		name, node, account)).want(201)
}

// volume makes a volume of the local class on a node, with its claim when it has one.
func (b *besieged) volume(name, claim, reclaimer, phase string) {
	b.t.Helper()
	ref, labels := `{"namespace":"default","name":"gone","uid":"gone"}`, ""
	if claim != "" {
		uid := b.post(claimsPath, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"volumeName":%q,"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`, claim, name)).
			want(201).field("metadata.uid")
		ref = fmt.Sprintf(`{"namespace":"default","name":%q,"uid":%q}`, claim, uid)
	}
	if reclaimer != "" {
		labels = fmt.Sprintf(`"coracle.io/reclaim-by":%q`, reclaimer)
	}
	b.post(volumesPath, fmt.Sprintf(`{"metadata":{"name":%[1]q,"labels":{%[2]s},"finalizers":["coracle.io/volume-data"],"annotations":{"pv.kubernetes.io/provisioned-by":"coracle.io/local"}},
		"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"persistentVolumeReclaimPolicy":"Delete","claimRef":%[3]s,
		"hostPath":{"path":"/data/%[1]s","type":"DirectoryOrCreate"},
		"nodeAffinity":{"required":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"In","values":["n1"]}]}]}}}}`,
		name, labels, ref)).want(201)
	b.merge(volumesPath+"/"+name+"/status", fmt.Sprintf(`{"status":{"phase":%q}}`, phase))
}

func refuse(part string, tries ...[3]string) []try {
	return as(403, part, tries...)
}

func as(want int, part string, tries ...[3]string) []try {
	list := make([]try, len(tries))
	for i, x := range tries {
		list[i] = try{x[0], x[1], x[2], want, part}
	}
	return list
}

// proxyTries are the ways to what pods, services and nodes serve, by names of every form and by every verb.
func proxyTries() (tries [][3]string) {
	for _, path := range []string{
		pods + "/p/proxy", pods + "/p/proxy/", pods + "/q:8080/proxy/x", pods + "/https:p:443/proxy/", "/api/v1/namespaces/default/services/s/proxy/",
		"/api/v1/namespaces/default/services/http:s:web/proxy/", nodesPath + "/n1/proxy/pods", nodesPath + "/https:n1:10250/proxy/pods", nodesPath + "/n2/proxy/",
	} {
		for _, verb := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			tries = append(tries, [3]string{verb, path})
		}
	}
	return tries
}

// TestLifeOfTokens: nobody gets a token for longer than a year.
func TestLifeOfTokens(t *testing.T) {
	b := besiege(t)
	request := func(seconds int) [3]string {
		return [3]string{"POST", accountsPath + "/default/token", fmt.Sprintf(`{"spec":{"expirationSeconds":%d}}`, seconds)}
	}
	b.attempt(t, b.administers, map[string][]try{
		"ten years":        as(422, "spec.expirationSeconds: Invalid value: 315360000: may not specify a duration longer than a year (31536000 seconds)", request(315360000)),
		"a second more":    as(422, "longer than a year", request(365*24*3600+1)),
		"under 10 minutes": as(422, "may not specify a duration less than 10 minutes", request(599)),
		"a year":           as(201, "", request(365*24*3600)),
	})
}

// TestTokenTries: what the token in a pod is good for, which is nothing but questions about itself.
func TestTokenTries(t *testing.T) {
	b := besiege(t)
	nobody := b.as("")
	const no = `User \"system:serviceaccount:default:default\" cannot`
	tries := map[string][]try{
		"reading": refuse(no, [3]string{"GET", pods}, [3]string{"GET", pods + "/p"}, [3]string{"GET", secretsPath}, [3]string{"GET", secretsPath + "/secret-p"}, [3]string{"GET", configMaps},
			[3]string{"GET", nodesPath}, [3]string{"GET", "/api/v1/namespaces"}, [3]string{"GET", accountsPath + "/default"}, [3]string{"GET", volumesPath}, [3]string{"GET", pods + "?watch=1"}),
		"writing": refuse(no, [3]string{"POST", pods, `{"metadata":{"name":"x"},"spec":{"containers":[{"name":"c","image":"i"}]}}`}, [3]string{"DELETE", pods + "/p"}, [3]string{"PATCH", pods + "/p/status", `{}`},
			[3]string{"PATCH", nodesPath + "/n1", `{}`}, [3]string{"POST", pods + "/p/eviction", `{}`}, [3]string{"PATCH", volumesPath + "/pv-p", `{"metadata":{"labels":{"coracle.io/reclaim-by":"n1"}}}`}),
		"terminals and logs":          refuse("", [3]string{"GET", pods + "/p/log"}, [3]string{"POST", pods + "/p/exec?command=id"}, [3]string{"GET", nodesPath + "/n1/proxy/pods"}, [3]string{"POST", pods + "/p/portforward"}),
		"proxies":                     refuse(no, proxyTries()...),
		"more tokens":                 refuse(no, [3]string{"POST", accountsPath + "/default/token", `{"spec":{}}`}, [3]string{"POST", accountsPath + "/other/token", `{"spec":{}}`}),
		"questions about others":      refuse(no, [3]string{"POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{"token":"x"}}`}, [3]string{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{}`}),
		"paths that are no resources": refuse(no, [3]string{"GET", "/metrics"}, [3]string{"GET", "/coracle/why/pods/default/p"}, [3]string{"GET", "/coracle/store"}, [3]string{"GET", "/debug/pprof/"}, [3]string{"GET", "/logs/"}),
		"discovery":                   as(200, "", [3]string{"GET", "/api"}, [3]string{"GET", "/apis"}, [3]string{"GET", "/openapi/v3"}, [3]string{"GET", "/version"}),
		"questions about itself":      as(201, "system:serviceaccount:default:default", [3]string{"POST", whoami, "{}"}),
	}
	b.attempt(t, nobody, tries, "Authorization", "Bearer "+b.token)
	b.bearer(b.token, "GET", pods, "").want(403)
	// It ends with its pod.
	b.call(b.administers, "DELETE", pods+"/p?gracePeriodSeconds=0", "").want(200)
	b.bearer(b.token, "POST", whoami, "{}").want(401)
}

// TestForgedTokens: what is not a token of this cluster for its API server is nobody's.
func TestForgedTokens(t *testing.T) {
	b := besiege(t)
	parts := strings.Split(b.token, ".")
	encode := base64.RawURLEncoding.EncodeToString
	raise, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	masters := encode([]byte(strings.ReplaceAll(string(raise), "system:serviceaccount:default:default", "admin")))
	other := start(t)
	account(t, other)
	for name, authorization := range map[string]string{
		"no algorithm":             "Bearer " + encode([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".",
		"no algorithm, signed":     "Bearer " + encode([]byte(`{"alg":"none"}`)) + "." + parts[1] + "." + parts[2],
		"a shared secret":          "Bearer " + encode([]byte(`{"alg":"HS256"}`)) + "." + parts[1] + "." + parts[2],
		"another subject":          "Bearer " + parts[0] + "." + masters + "." + parts[2],
		"another signature":        "Bearer " + parts[0] + "." + parts[1] + "." + encode(make([]byte, 64)),
		"no signature":             "Bearer " + parts[0] + "." + parts[1],
		"another reader's":         "Bearer " + b.cluster.token("default", `{"audiences":["vault"]}`),
		"another cluster's":        "Bearer " + other.token("default", `{}`),
		"words":                    "Bearer rubbish",
		"a password":               "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:admin")),
		"in another scheme":        "Token " + b.token,
		"nothing after the scheme": "Bearer ",
		"a token of absurd length": "Bearer " + strings.Repeat("x", 100_000),
	} {
		for _, path := range []string{"/api", secretsPath} {
			if a := b.call(b.as(""), "GET", path, "", "Authorization", authorization); a.code != 401 {
				t.Errorf("%s: GET %s: %d %s", name, path, a.code, a.body)
			}
		}
	}
	if a := b.call(b.as(""), "GET", secretsPath+"?access_token="+b.token, ""); a.code != 401 {
		t.Errorf("a token in the address: %d", a.code)
	}
}

// TestForgedCertificates: a certificate is believed that this cluster's authority signed for clients.
func TestForgedCertificates(t *testing.T) {
	b := besiege(t)
	with := func(other *cluster, user string, groups ...string) *http.Client {
		client := b.as("")
		cfg := client.Transport.(*http.Transport).TLSClientConfig
		cfg.Certificates = append(cfg.Certificates, other.cert(user, groups...))
		return client
	}
	foreign := *b.cluster
	foreign.pki = authority(t)
	server := b.as("")
	server.Transport.(*http.Transport).TLSClientConfig.Certificates = append(server.Transport.(*http.Transport).TLSClientConfig.Certificates, b.pki.Server())
	for name, client := range map[string]*http.Client{
		"another authority's administrator": with(&foreign, "admin", pki.MastersGroup),
		"another authority's node":          with(&foreign, "system:node:n1", "system:nodes"),
		"a server's":                        server,
	} {
		for _, path := range []string{secretsPath, "/api", pods + "/p"} {
			if a := b.call(client, "GET", path, ""); a.code != 401 {
				t.Errorf("%s: GET %s: %d %s", name, path, a.code, a.body)
			}
		}
	}
	// A name is not a group, and a group is not a name.
	for name, client := range map[string]*http.Client{
		"a node's name alone":           b.as("system:node:n1"),
		"a node's group alone":          b.as("kubelet", "system:nodes"),
		"a node without name":           b.as("system:node:", "system:nodes"),
		"an administrator's name alone": b.as("admin"),
		"the API server's name alone":   b.as("system:apiserver"),
	} {
		for _, path := range []string{pods + "/p", secretsPath + "/secret-p", nodesPath + "/n1"} {
			if a := b.call(client, "GET", path, ""); a.code != 403 {
				t.Errorf("%s: GET %s: %d %s", name, path, a.code, a.body)
			}
		}
	}
}

// TestOldTLSIsRefused: TLS 1.2 or 1.3, and nothing older.
func TestOldTLSIsRefused(t *testing.T) {
	c := start(t)
	for version, served := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		client := c.as("")
		client.Transport.(*http.Transport).TLSClientConfig.MinVersion = tls.VersionTLS10
		client.Transport.(*http.Transport).TLSClientConfig.MaxVersion = version
		resp, err := client.Get(c.url + "/healthz")
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != served {
			t.Errorf("TLS %x: %v", version, err)
		}
	}
}

// TestAnonymousTries: who shows nothing sees health and version.
func TestAnonymousTries(t *testing.T) {
	b := besiege(t)
	paths := []string{"/", "/api", "/api/v1", "/apis", "/apis/apps/v1", "/openapi/v2", "/openapi/v3", "/metrics", "/logs/", "/debug/pprof/", "/debug/pprof/heap",
		"/coracle/why/pods/default/p", "/.well-known/openid-configuration", "/openid/v1/jwks", "/swagger.json", "/ui", "/healthz/ping", "//healthz", "/healthz/../api",
		pods, secretsPath, nodesPath, nodesPath + "/n1/proxy/pods", pods + "/p/log", "/api/v1/watch/secrets",
		pods + "/p/proxy/", pods + "/https:p:443/proxy/x", "/api/v1/namespaces/default/services/s/proxy/"}
	for _, path := range paths {
		for _, method := range []string{"GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"} {
			a := b.call(b.as(""), method, path, "")
			if redirect := a.code == 301 && strings.Contains(path, "//"); a.code != 401 && !redirect {
				t.Errorf("%s %s: %d %s", method, path, a.code, a.body)
			}
		}
	}
	for _, path := range []string{"/healthz", "/livez", "/readyz", "/version"} {
		b.call(b.as(""), "GET", path, "").want(200)
		b.call(b.as(""), "POST", path, "{}").want(401)
	}
}

// TestImpersonation: who may do everything may act as somebody else, and nobody else may.
func TestImpersonation(t *testing.T) {
	b := besiege(t)
	callers := map[string]func(headers ...string) answer{
		"a node": func(h ...string) answer { return b.call(b.node, "GET", secretsPath, "", h...) },
		"a pod's token": func(h ...string) answer {
			return b.call(b.as(""), "GET", secretsPath, "", append(h, "Authorization", "Bearer "+b.token)...)
		},
		"a stranger": func(h ...string) answer { return b.call(b.as("bob"), "GET", secretsPath, "", h...) },
	}
	for who, call := range callers {
		for _, headers := range [][]string{
			{"Impersonate-User", "admin"}, {"Impersonate-User", "admin", "Impersonate-Group", "system:masters"},
			{"Impersonate-User", "system:node:n2", "Impersonate-Group", "system:nodes"}, {"Impersonate-User", "system:serviceaccount:kube-system:default"},
			{"Impersonate-User", "system:node:n1"}, {"Impersonate-User", "bob", "Impersonate-Extra-scopes", "all"},
		} {
			if a := call(headers...); a.code != 403 || !strings.Contains(string(a.body), "impersonate") {
				t.Errorf("%s as %v: %d %s", who, headers, a.code, a.body)
			}
		}
	}
	// A group, a UID or an extra of nobody: not ignored, for then the request would go on with the caller's own rights.
	callers["an administrator"] = func(h ...string) answer { return b.call(b.administers, "GET", secretsPath, "", h...) }
	for who, call := range callers {
		for _, headers := range [][]string{
			{"Impersonate-Group", "system:masters"}, {"Impersonate-Uid", "1"}, {"Impersonate-Extra-Scopes", "all"},
			{"Impersonate-User", "", "Impersonate-Group", "system:masters"},
		} {
			if a := call(headers...); a.code != 400 || !strings.Contains(string(a.body), "without impersonating a user") {
				t.Errorf("%s as %v: %d %s", who, headers, a.code, a.body)
			}
		}
	}
	for _, header := range []string{"Impersonate-User", "Impersonate-Group", "Impersonate-Uid"} {
		b.call(b.as(""), "GET", secretsPath, "", header, "admin").want(401)
	}
	b.call(b.administers, "GET", secretsPath, "", "Impersonate-User", "bob").want(403).wantBody(`User \"bob\" cannot list resource`)
}

// TestForeignWaysIn: what other servers believe of a caller is believed of nobody here: headers that a proxy in front would
// set, a token in place of a WebSocket's protocol, another address in the request line.
func TestForeignWaysIn(t *testing.T) {
	b := besiege(t)
	nobody := b.as("")
	protocol := func(token string) []string {
		return []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==",
			"Sec-WebSocket-Protocol", "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io." + base64.RawURLEncoding.EncodeToString([]byte(token))}
	}
	for name, headers := range map[string][]string{
		"a proxy's user":          {"X-Remote-User", "admin", "X-Remote-Group", "system:masters"},
		"a proxy's certificate":   {"X-Client-Cert", "admin", "X-SSL-Client-S-DN", "CN=admin,O=system:masters"},
		"a proxy's client":        {"X-Forwarded-User", "admin", "X-Forwarded-For", "127.0.0.1", "Forwarded", "for=127.0.0.1"},
		"another address":         {"X-Original-URL", "/healthz", "X-Rewrite-URL", "/healthz"},
		"another method":          {"X-HTTP-Method-Override", "GET"},
		"a token of a WebSocket":  protocol("forged"),
		"a cookie":                {"Cookie", "token=" + b.token},
		"a token for a proxy":     {"Proxy-Authorization", "Bearer " + b.token},
		"two tokens, one of them": {"Authorization", "Bearer " + b.token + ", Bearer forged"},
	} {
		for _, path := range []string{secretsPath, nodesPath + "/n1", pods + "/p/exec?command=id&stdout=1"} {
			if a := b.call(nobody, "GET", path, "", headers...); a.code != 401 {
				t.Errorf("%s: GET %s: %d %s", name, path, a.code, a.body)
			}
		}
	}
	for name, headers := range map[string][]string{
		"a proxy's user": {"X-Remote-User", "admin", "X-Remote-Group", "system:masters"}, "a token beside it": {"Authorization", "Bearer " + b.token},
	} {
		if a := b.call(b.node, "GET", secretsPath, "", headers...); a.code != 403 {
			t.Errorf("a node with %s: %d %s", name, a.code, a.body)
		}
	}
	// A pod's token is that pod's by this way too.
	if a := b.call(nobody, "GET", pods+"/p/exec?command=id&stdout=1", "", protocol(b.token)...); a.code != 403 && a.code != 401 {
		t.Errorf("a pod's token of a WebSocket: %d %s", a.code, a.body)
	}
}

// TestPathTries: no name leads out of where it belongs.
func TestPathTries(t *testing.T) {
	b := besiege(t)
	for _, path := range []string{
		pods + "/..%2F..%2Fetc%2Fpasswd/log", pods + "/p/log?container=..%2F..%2Fetc", pods + "/p/log?container=%2Fetc%2Fpasswd", pods + "/p/log?container=c%00",
		pods + "/..%2Fp/exec?command=id&stdout=1", pods + "/p/exec?container=..%2Fc&command=id&stdout=1", pods + "/p/attach?container=..%2Fc&stdout=1",
		pods + "/p%2F..%2Fq/log", pods + "/..;/log", "/api/v1/namespaces/..%2Fdefault/pods/p/log", "/api/v1/namespaces/default%2Fpods%2Fp/secrets/x",
		secretsPath + "/..%2Fconfigmaps%2Fconfig-p", secretsPath + "/%2E%2E", secretsPath + "/secret-p%00", nodesPath + "/..%2Fn1/proxy/pods",
		"/api/v1/namespaces/default/services/..%2Fx/proxy/", "/apis/..%2Fapi/v1/secrets",
		pods + "/..%2Fp/proxy/", pods + "/file:p:1/proxy/", pods + "/p:1%2Fx/proxy/", pods + "/p%40elsewhere/proxy/", nodesPath + "/https:n1:10250:x/proxy/",
	} {
		a := b.call(b.administers, "GET", path, "")
		if a.code != 400 && a.code != 404 {
			t.Errorf("GET %s: %d %s", path, a.code, a.body)
		}
	}
	for _, name := range []string{"../x", "..", "a/b", "a%2Fb", "x\\u0000", "/etc/passwd", "%2e%2e"} {
		for _, path := range []string{secretsPath, configMaps, nodesPath, volumesPath, "/api/v1/namespaces", classesPath} {
			a := b.post(path, fmt.Sprintf(`{"metadata":{"name":"%s"},"provisioner":"p"}`, name))
			if a.code != 422 && a.code != 400 && a.code != 404 {
				t.Errorf("POST %s named %s: %d %s", path, name, a.code, a.body)
			}
		}
	}
}
