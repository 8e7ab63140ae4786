package apiserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"coracle/internal/pki"
	"coracle/internal/resource"
	"coracle/internal/store"
)

// cluster is a server on loopback, in memory unless a test says otherwise.
type cluster struct {
	*Server
	t    testing.TB
	pki  *pki.Authority
	url  string
	http *http.Client
	stop func()
}

func start(t testing.TB) *cluster { return startOn(t, store.Config{}) }

func startOn(t testing.TB, cfg store.Config) *cluster {
	t.Helper()
	st, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	ca := authority(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{
		Store: st, PKI: ca,
		Advertise:   netip.MustParseAddrPort(l.Addr().String()),
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
		Log:         slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	c := &cluster{Server: s, t: t, pki: ca, url: "https://" + l.Addr().String()}
	stopped := false
	c.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the server does not end")
		}
	}
	t.Cleanup(c.stop)
	c.http = c.as("admin", pki.MastersGroup)
	return c
}

func authority(t testing.TB) *pki.Authority {
	t.Helper()
	ca, err := pki.Ensure(t.TempDir(), []string{"127.0.0.1", "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// as returns a client that presents a certificate; an empty user presents none.
func (c *cluster) as(user string, groups ...string) *http.Client {
	c.t.Helper()
	cfg := &tls.Config{RootCAs: c.pki.CAPool()}
	if user != "" {
		cfg.Certificates = []tls.Certificate{c.cert(user, groups...)}
	}
	transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64}
	c.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (c *cluster) cert(user string, groups ...string) tls.Certificate {
	c.t.Helper()
	pair, err := c.pki.ClientCert(user, groups...)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

// answer is what came back from a request.
type answer struct {
	t      testing.TB
	code   int
	header http.Header
	body   []byte
}

// call sends a request; headers come in pairs.
func (c *cluster) call(client *http.Client, method, path, body string, headers ...string) answer {
	c.t.Helper()
	req, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer{c.t, resp.StatusCode, resp.Header, data}
}

func (c *cluster) get(path string, headers ...string) answer {
	c.t.Helper()
	return c.call(c.http, "GET", path, "", headers...)
}

func (c *cluster) post(path, body string) answer {
	c.t.Helper()
	return c.call(c.http, "POST", path, body)
}

// want fails unless the answer has the status code.
func (a answer) want(code int) answer {
	a.t.Helper()
	if a.code != code {
		a.t.Fatalf("status %d, want %d: %s", a.code, code, a.body)
	}
	return a
}

// field returns the value at a dotted path of a JSON answer, as text; empty when absent.
func (a answer) field(path string) string {
	a.t.Helper()
	var value any
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.UseNumber()
	if err := d.Decode(&value); err != nil {
		a.t.Fatalf("answer is not JSON: %v: %s", err, a.body)
	}
	for _, part := range strings.Split(path, ".") {
		m, ok := value.(map[string]any)
		if !ok {
			return ""
		}
		value = m[part]
	}
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	}
	text, err := json.Marshal(value)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(text)
}

func (a answer) wantField(path, want string) answer {
	a.t.Helper()
	if got := a.field(path); got != want {
		a.t.Errorf("%s is %q, want %q", path, got, want)
	}
	return a
}

func (a answer) wantBody(part string) answer {
	a.t.Helper()
	if !strings.Contains(string(a.body), part) {
		a.t.Errorf("answer lacks %q: %s", part, a.body)
	}
	return a
}

func TestSlice(t *testing.T) {
	c := start(t)
	c.get("/readyz").want(200).wantBody("ok")
	c.get("/version").want(200).wantField("gitVersion", "v1.37.2+coracle")
	c.post("/api/v1/namespaces", `{"metadata":{"name":"a"}}`).want(201).wantField("kind", "Namespace").wantField("status.phase", "Active")
	c.post("/api/v1/namespaces/a/configmaps", `{"metadata":{"name":"c"},"data":{"k":"v"}}`).want(201).wantField("apiVersion", "v1")
	c.get("/api/v1/namespaces/a/configmaps/c").want(200).wantField("data.k", "v")
	c.get("/api/v1/namespaces/a/configmaps").want(200).wantField("kind", "ConfigMapList")
	c.get("/api/v1/namespaces/a/nothings").want(404).wantField("kind", "Status")
	c.call(c.http, "PUT", "/api/v1/namespaces/a/configmaps", "{}").want(405).wantField("reason", "MethodNotAllowed")
	c.get("/apis").want(200)
	c.get("/openapi/v3").want(200)
	c.get("/openapi/v3/api/v1").want(200).wantBody("io.k8s.api.core.v1.ConfigMap")
}

func TestPatch(t *testing.T) {
	c := start(t)
	c.post("/api/v1/namespaces", `{"metadata":{"name":"a"}}`).want(201)
	c.post("/api/v1/namespaces/a/configmaps", `{"metadata":{"name":"c"},"data":{"k":"v"}}`).want(201)
	c.call(c.http, "PATCH", "/api/v1/namespaces/a/configmaps/c", `{"data":{"k":"w"}}`, "Content-Type", "application/strategic-merge-patch+json").want(200).wantField("data.k", "w")
}

func TestConfigIsChecked(t *testing.T) {
	st, err := store.Open(store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	whole := Config{Store: st, PKI: authority(t), Advertise: netip.MustParseAddrPort("192.0.2.1:6443"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16")}
	for field, cut := range map[string]func(*Config){
		"Store": func(c *Config) { c.Store = nil }, "PKI": func(c *Config) { c.PKI = nil },
		"Advertise": func(c *Config) { c.Advertise = netip.AddrPort{} }, "ServiceCIDR": func(c *Config) { c.ServiceCIDR = netip.Prefix{} },
	} {
		cfg := whole
		cut(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("without %s: %v", field, err)
		}
	}
	s, err := New(whole)
	if err != nil {
		t.Fatal(err)
	}
	// An address that pods can reach is published.
	if _, ok := s.set.Get(resource.Endpoints, "default", "kubernetes"); !ok {
		t.Error("no endpoints for the kubernetes service")
	}
	if _, ok := s.set.Get(resource.EndpointSlices, "default", "kubernetes"); !ok {
		t.Error("no endpoint slice for the kubernetes service")
	}
}
