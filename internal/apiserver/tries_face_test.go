package apiserver

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"coracle/internal/pki"
)

// secured serves handler with a certificate of the cluster's authority and returns its port.
func (c *cluster) secured(user, address string, handler http.HandlerFunc) string {
	c.t.Helper()
	pair, err := c.pki.ServerCert(user, []string{address})
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		c.t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(handler)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"http/1.1"}}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	c.t.Cleanup(srv.Close)
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		c.t.Fatal(err)
	}
	return port
}

// TestFacesThatLead: a node answers for the streams and logs of its pods, and leads the API server, which may do everything,
// nowhere else: neither by redirects nor by saying that it is somewhere else.
func TestFacesThatLead(t *testing.T) {
	b := besiege(t)
	var reached atomic.Int32
	other := b.secured("system:node:n2", "127.0.0.1", func(w http.ResponseWriter, _ *http.Request) {
		reached.Add(1)
		fmt.Fprint(w, "of another node")
	})
	leads := b.secured("system:node:n1", "127.0.0.1", func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, "https://127.0.0.1:"+other+"/containerLogs/default/q/c", http.StatusTemporaryRedirect)
	})
	says := func(address, port string) {
		t.Helper()
		body := fmt.Sprintf(`{"status":{"addresses":[{"type":"InternalIP","address":%q}],"daemonEndpoints":{"kubeletEndpoint":{"Port":%s}}}}`, address, port)
		b.call(b.node, "PATCH", nodesPath+"/n1/status", body, "Content-Type", "application/merge-patch+json").want(200)
	}
	upgrades := b.as("admin", pki.MastersGroup) // HTTP/1.1, which alone upgrades
	transport := upgrades.Transport.(*http.Transport)
	transport.ForceAttemptHTTP2, transport.TLSNextProto, transport.TLSClientConfig.NextProtos = false, map[string]func(string, *tls.Conn) http.RoundTripper{}, []string{"http/1.1"}
	upgrades.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "SPDY/3.1", "X-Stream-Protocol-Version", "v4.channel.k8s.io"}
	ask := func() []answer {
		answers := []answer{b.call(b.administers, "GET", pods+"/p/log", "")}
		for _, stream := range []string{"/p/exec?command=id&stdout=1", "/p/portforward"} {
			upgrades.CloseIdleConnections() // one that was to be upgraded is used no more
			answers = append(answers, b.call(upgrades, "POST", pods+stream, "", upgrade...))
		}
		return answers
	}
	says("127.0.0.1", leads)
	for _, a := range ask() {
		if a.code < 300 || strings.Contains(string(a.body), "another node") || a.header.Get("Location") != "" {
			t.Errorf("led on: %d %q, location %q", a.code, a.body, a.header.Get("Location"))
		}
	}
	if reached.Load() != 0 {
		t.Error("the API server went where the node led it")
	}
	// What somebody else serves at the address is not a node's unless the certificate is of this authority and for that address.
	foreign := *b.cluster
	foreign.pki = authority(t)
	for name, port := range map[string]string{
		"of another authority": foreign.secured("system:node:n1", "127.0.0.1", func(http.ResponseWriter, *http.Request) { reached.Add(1) }),
		"for another address":  b.secured("system:node:n1", "10.9.9.9", func(http.ResponseWriter, *http.Request) { reached.Add(1) }),
	} {
		says("127.0.0.1", port)
		for _, a := range ask() {
			if a.code < 500 {
				t.Errorf("a certificate %s: %d %s", name, a.code, a.body)
			}
		}
	}
	if reached.Load() != 0 {
		t.Error("the API server spoke to a server of another authority")
	}
	// Its own port, where its certificate may do everything: the path is a stream's, and no object's.
	_, own, err := net.SplitHostPort(strings.TrimPrefix(b.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	says("127.0.0.1", own)
	before := b.stored()
	for _, a := range ask() {
		if a.code < 400 {
			t.Errorf("led to itself: %d %s", a.code, a.body)
		}
	}
	if now := b.stored(); len(now) != len(before) {
		t.Errorf("%d objects, were %d", len(now), len(before))
	}
}
