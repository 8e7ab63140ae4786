package apiserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"coracle/internal/pki"
)

// addressed lets the server find servers of the test at addresses that a pod may have.
func (c *cluster) addressed(servers map[string]string) {
	c.tunnels.Strangers.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		real, ok := servers[address]
		if !ok {
			return nil, fmt.Errorf("nobody is at %s", address)
		}
		return (&net.Dialer{}).DialContext(ctx, network, real)
	}
	c.t.Cleanup(c.tunnels.Strangers.CloseIdleConnections)
}

// echo answers with what it was asked, and on some paths as programs do that must be led back.
func echo(w http.ResponseWriter, req *http.Request) {
	switch req.URL.Path {
	case "/moved":
		http.Redirect(w, req, "/there?x=1", http.StatusFound)
	case "/away":
		http.Redirect(w, req, "http://127.0.0.1:1/elsewhere", http.StatusFound)
	case "/page":
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<a href="/inner">x</a>`)
	case "/upgrade":
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprint(rw, "said "+line)
		rw.Flush()
	default:
		body, _ := io.ReadAll(req.Body)
		w.Header().Set("X-Served-By", "pod")
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s?%s %s auth=%q uri=%s tls=%v", req.Method, req.URL.EscapedPath(), req.URL.RawQuery, body,
			req.Header.Get("Authorization"), req.Header.Get("X-Forwarded-Uri"), req.TLS != nil)
	}
}

func (c *cluster) running(name, node, address string) {
	c.t.Helper()
	spec := ""
	if node != "" {
		spec = fmt.Sprintf(`"nodeName":%q,`, node)
	}
	c.post(pods, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{%s"containers":[{"name":"c","image":"i","ports":[{"containerPort":8080}]}]}}`, name, spec)).want(201)
	c.call(c.http, "PATCH", pods+"/"+name+"/status", fmt.Sprintf(`{"status":{"phase":"Running","podIP":%[1]q,"podIPs":[{"ip":%[1]q}]}}`, address),
		"Content-Type", "application/merge-patch+json").want(200)
}

func TestPodProxy(t *testing.T) {
	c := start(t)
	account(t, c)
	plain, secure := httptest.NewServer(http.HandlerFunc(echo)), httptest.NewTLSServer(http.HandlerFunc(echo))
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	c.addressed(map[string]string{"10.7.0.1:8080": plain.Listener.Addr().String(), "10.7.0.1:8443": secure.Listener.Addr().String()})
	c.running("p", "", "10.7.0.1")
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		body := ""
		if method != "GET" && method != "OPTIONS" {
			body = "words"
		}
		a := c.call(c.http, method, pods+"/p/proxy/a/b?q=1&path=2", body, "Content-Type", "text/plain").want(418)
		a.wantBody(method + " /a/b?q=1&path=2 " + body).wantBody(`auth=""`)
		if a.header.Get("X-Served-By") != "pod" {
			t.Errorf("%s: headers %v", method, a.header)
		}
	}
	c.call(c.http, "HEAD", pods+"/p/proxy/", "").want(418)
	c.get(pods + "/p:8080/proxy/").want(418).wantBody("GET /? ")
	c.get(pods + "/https:p:8443/proxy/x/").want(418).wantBody("GET /x/?").wantBody("tls=true")
	// An empty path is led to one with a slash, so that links that are relative hold.
	if a := c.get(pods + "/p/proxy").want(301); a.header.Get("Location") != pods+"/p/proxy/" {
		t.Errorf("location %q", a.header.Get("Location"))
	}
	// A redirect and a link come back through here; the server follows none.
	if a := c.get(pods + "/p/proxy/moved").want(302); a.header.Get("Location") != pods+"/p/proxy/there?x=1" {
		t.Errorf("location %q", a.header.Get("Location"))
	}
	c.get(pods + "/p/proxy/page").want(200).wantBody(`href="` + pods + `/p/proxy/inner"`)
	c.get(pods + "/p/proxy/away").want(302)
	// Nobody there, and no pod.
	c.get(pods + "/p:99/proxy/").want(503).wantBody("error trying to reach service")
	c.get(pods+"/none/proxy/").want(404).wantField("reason", "NotFound")
	c.get(pods + "/ftp:p:1/proxy/").want(400).wantBody("SCHEME is http or https")
}

func TestProxyUpgrades(t *testing.T) {
	c := start(t)
	account(t, c)
	plain := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(plain.Close)
	c.addressed(map[string]string{"10.7.0.1:8080": plain.Listener.Addr().String()})
	c.running("p", "", "10.7.0.1")
	cfg := &tls.Config{RootCAs: c.pki.CAPool(), Certificates: []tls.Certificate{c.cert("admin", pki.MastersGroup)}, NextProtos: []string{"http/1.1"}}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(c.url, "https://"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s/p/proxy/upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", pods)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := r.ReadString('\n'); err != nil || line != "said hello\n" {
		t.Errorf("%q, %v", line, err)
	}
}

func TestServiceProxy(t *testing.T) {
	c := start(t)
	account(t, c)
	plain := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(plain.Close)
	c.addressed(map[string]string{"10.7.0.1:8080": plain.Listener.Addr().String()})
	c.running("p", "", "10.7.0.1")
	services := "/api/v1/namespaces/default/services"
	slices := "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
	c.post(services, `{"metadata":{"name":"s"},"spec":{"ports":[{"name":"http","port":80}]}}`).want(201)
	c.get(services + "/s:http/proxy/").want(503).wantBody(`no endpoints available for service \"s\"`)
	slice := func(name, address, pod string) {
		c.post(slices, fmt.Sprintf(`{"metadata":{"name":%q,"labels":{"kubernetes.io/service-name":"s"}},"addressType":"IPv4","ports":[{"name":"http","port":8080}],
			"endpoints":[{"addresses":[%q],"conditions":{"ready":true},"targetRef":{"kind":"Pod","namespace":"default","name":%q}}]}`, name, address, pod)).want(201)
	}
	// What an endpoint says of an address that is not its pod's is not believed.
	slice("a", "10.7.0.66", "p")
	slice("b", "10.7.0.66", "none")
	c.get(services + "/s:http/proxy/").want(503)
	slice("c", "10.7.0.1", "p")
	for range 8 {
		c.get(services + "/s:http/proxy/x").want(418).wantBody("GET /x?")
		c.get(services + "/http:s:80/proxy/x").want(418)
	}
	c.get(services + "/s/proxy/").want(503).wantBody("PORT one of http")
	c.get(services + "/none/proxy/").want(404)
}

// TestProxiesThatLead: what nodes and endpoints say of addresses leads an administrator's proxy to nothing of the server's
// own machine, and what is no node's agent gets no certificate of the server's.
func TestProxiesThatLead(t *testing.T) {
	b := besiege(t)
	var shown, stranger atomic.Int32
	agent := b.secured("system:node:n1", "127.0.0.1", func(w http.ResponseWriter, req *http.Request) {
		shown.Add(int32(len(req.TLS.PeerCertificates)))
		if req.URL.Path == "/moved" {
			http.Redirect(w, req, "https://127.0.0.1:1/x", http.StatusTemporaryRedirect)
			return
		}
		fmt.Fprint(w, "agent "+req.URL.Path)
	})
	merge := []string{"Content-Type", "application/merge-patch+json"}
	b.call(b.node, "PATCH", nodesPath+"/n1/status", fmt.Sprintf(
		`{"status":{"addresses":[{"type":"InternalIP","address":"127.0.0.1"}],"daemonEndpoints":{"kubeletEndpoint":{"Port":%s}}}}`, agent), merge...).want(200)
	b.get(nodesPath + "/n1/proxy/pods").want(200).wantBody("agent /pods")
	b.get(nodesPath + "/n1:" + agent + "/proxy/pods").want(200).wantBody("agent /pods")
	if shown.Load() == 0 {
		t.Error("the agent was shown no certificate")
	}
	b.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	b.get(nodesPath + "/n1/proxy/moved").want(307)
	_, own, err := net.SplitHostPort(strings.TrimPrefix(b.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	b.get(nodesPath + "/https:n1:" + own + "/proxy/api/v1/secrets").want(400).wantBody("address not allowed")
	b.get(nodesPath + "/n2/proxy/pods").want(503)
	for _, address := range []string{"127.0.0.1", "169.254.169.254"} {
		b.call(b.node, "PATCH", pods+"/p/status", fmt.Sprintf(`{"status":{"podIP":%[1]q,"podIPs":[{"ip":%[1]q}]}}`, address), merge...).want(200)
		b.get(pods + "/https:p:" + own + "/proxy/api").want(400).wantBody("address not allowed")
	}
	// A pod's server is no agent: it is shown nothing.
	port := b.secured("anybody", "127.0.0.1", func(_ http.ResponseWriter, req *http.Request) {
		stranger.Add(int32(1 + len(req.TLS.PeerCertificates)))
	})
	b.addressed(map[string]string{"10.7.0.1:1": "127.0.0.1:" + port})
	b.call(b.node, "PATCH", pods+"/p/status", `{"status":{"podIP":"10.7.0.1","podIPs":[{"ip":"10.7.0.1"}]}}`, merge...).want(200)
	b.get(pods + "/https:p:1/proxy/").want(200)
	if got := stranger.Load(); got != 1 {
		t.Errorf("%d: the server showed its certificate to a pod, or did not ask it", got)
	}
}
