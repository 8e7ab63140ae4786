package server

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"testing"

	"coracle/internal/pki"
)

func authority(t *testing.T) *pki.Authority {
	t.Helper()
	ca, err := pki.Ensure(t.TempDir(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// serve serves the face with the certificates of a cluster, and returns its URL.
func serve(t *testing.T, ca *pki.Authority) string {
	t.Helper()
	s, _ := newFace(t)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Server()}, ClientCAs: ca.CAPool()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "https://" + l.Addr().String()
}

// TestFaceTries: who gets what of a node's port, and by which TLS.
func TestFaceTries(t *testing.T) {
	ca, other := authority(t), authority(t)
	url := serve(t, ca)
	get := func(path string, version uint16, signed *pki.Authority, user string, groups ...string) int {
		t.Helper()
		cfg := &tls.Config{RootCAs: ca.CAPool(), MinVersion: tls.VersionTLS10, MaxVersion: version}
		if signed != nil {
			pair, err := signed.ClientCert(user, groups...)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := pair.TLS()
			if err != nil {
				t.Fatal(err)
			}
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		}
		transport := &http.Transport{TLSClientConfig: cfg}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get(url + path)
		if err != nil {
			return 0 // no connection
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	const newest = tls.VersionTLS13
	paths := []string{"/pods", "/containerLogs/ns/web/main", "/exec/ns/web/main?command=id", "/attach/ns/web/main", "/portForward/ns/web", "/metrics", "/run/ns/web/main", "/configz"}
	for who, x := range map[string]struct {
		signed *pki.Authority
		user   string
		groups []string
		want   int
	}{
		"nobody":                            {nil, "", nil, 401},
		"another node":                      {ca, "system:node:n2", []string{"system:nodes"}, 403},
		"a user":                            {ca, "bob", nil, 403},
		"another authority's administrator": {other, "admin", []string{pki.MastersGroup}, 0},
		"another authority's API server":    {other, "coracle-apiserver", nil, 0},
	} {
		for _, path := range paths {
			if got := get(path, newest, x.signed, x.user, x.groups...); got != x.want {
				t.Errorf("%s: GET %s: %d, want %d", who, path, got, x.want)
			}
		}
	}
	for what, got := range map[string]int{
		"an administrator": get("/pods", newest, ca, "admin", pki.MastersGroup), "the API server": get("/pods", newest, ca, "coracle-apiserver"),
		"nobody, of health": get("/healthz", newest, nil, ""), "TLS 1.2": get("/healthz", tls.VersionTLS12, nil, ""),
	} {
		if got != 200 {
			t.Errorf("%s: %d", what, got)
		}
	}
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		if got := get("/healthz", version, nil, ""); got != 0 {
			t.Errorf("TLS %x: %d", version, got)
		}
	}
}
