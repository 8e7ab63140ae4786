package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// mirror answers for every registry the suite names: a proxy on loopback leads whatever host is
// asked for to one registry in this process, whose certificate the runtime is told to trust.
// Neither the runtime nor the machine is configured otherwise.
type mirror struct {
	proxy, tls net.Listener
	authority  string // its certificate's file
}

var registries = []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io"}

func serveImages(base string) (*mirror, error) {
	all, err := images(base)
	if err != nil {
		return nil, err
	}
	m := &mirror{authority: filepath.Join(base, "authority.pem")}
	certificate, err := m.certificate()
	if err != nil {
		return nil, err
	}
	quiet := log.New(io.Discard, "", 0)
	handler := registry.New(registry.Logger(quiet))
	if m.tls, err = tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}); err != nil {
		return nil, err
	}
	if m.proxy, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		m.tls.Close()
		return nil, err
	}
	serve := func(l net.Listener, h http.Handler) {
		server := &http.Server{Handler: h, ErrorLog: quiet, ReadHeaderTimeout: time.Minute}
		go server.Serve(l) //nolint:errcheck // ends with the listener
	}
	serve(m.tls, handler)
	serve(m.proxy, http.HandlerFunc(m.connect))
	// Filled from within, by plain HTTP on a listener of its own.
	plain, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		m.close()
		return nil, err
	}
	defer plain.Close()
	serve(plain, handler)
	for ref, image := range all {
		tag, err := name.NewTag(ref)
		if err != nil {
			m.close()
			return nil, err
		}
		to, err := name.NewTag(fmt.Sprintf("%s/%s:%s", plain.Addr(), tag.RepositoryStr(), tag.TagStr()), name.Insecure)
		if err == nil {
			err = remote.Write(to, image)
		}
		if err != nil {
			m.close()
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
	}
	return m, nil
}

// env is what a runtime needs to find the mirror.
func (m *mirror) env() []string {
	return []string{"HTTPS_PROXY=http://" + m.proxy.Addr().String(), "SSL_CERT_FILE=" + m.authority, "NO_PROXY="}
}

func (m *mirror) close() {
	m.tls.Close()
	m.proxy.Close()
}

// connect is a proxy's CONNECT (RFC 9110, 9.3.6), always to our own registry.
func (m *mirror) connect(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
		return
	}
	to, err := net.Dial("tcp4", m.tls.Addr().String())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer to.Close()
	from, rest, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer from.Close()
	if _, err := io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	done := make(chan struct{}, 2)
	go func() { io.Copy(to, rest); done <- struct{}{} }() //nolint:errcheck // ends with either side
	go func() { io.Copy(from, to); done <- struct{}{} }() //nolint:errcheck // ends with either side
	<-done
}

// certificate makes one that signs itself, for all registries, and writes it where the runtime reads it.
func (m *mirror) certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "critest"}, DNSNames: registries, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, os.WriteFile(m.authority, block, 0o600)
}
