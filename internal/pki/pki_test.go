package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func ensure(t *testing.T, dir string, hosts ...string) *Authority {
	t.Helper()
	a, err := Ensure(dir, hosts)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestEnsureIsIdempotent(t *testing.T) {
	dir := t.TempDir()
	first := ensure(t, dir, "127.0.0.1", "localhost")
	second := ensure(t, dir, "localhost", "127.0.0.1")
	if !bytes.Equal(first.CACert(), second.CACert()) {
		t.Error("the authority changed")
	}
	if !bytes.Equal(first.Server().Certificate[0], second.Server().Certificate[0]) {
		t.Error("the serving certificate changed")
	}
	if !first.AccountKey().Equal(second.AccountKey()) {
		t.Error("the service-account key changed")
	}
}

func TestEnsureRenewsForNewHost(t *testing.T) {
	dir := t.TempDir()
	ensure(t, dir, "localhost")
	a := ensure(t, dir, "localhost", "10.96.0.1")
	leaf, err := x509.ParseCertificate(a.Server().Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"localhost", "10.96.0.1"} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.CAPool(), DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestClientCertCarriesUserAndGroups(t *testing.T) {
	a := ensure(t, t.TempDir())
	pair, err := a.ClientCert("system:node:n1", "system:nodes", "extra")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(pair.Certificate)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	groups := slices.Clone(cert.Subject.Organization)
	slices.Sort(groups)
	if cert.Subject.CommonName != "system:node:n1" || !slices.Equal(groups, []string{"extra", "system:nodes"}) {
		t.Errorf("subject %v", cert.Subject)
	}
	opts := x509.VerifyOptions{Roots: a.CAPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := cert.Verify(opts); err != nil {
		t.Error(err)
	}
	opts.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if _, err := cert.Verify(opts); err == nil {
		t.Error("a client certificate serves")
	}
}

func TestHalfWrittenAuthorityIsMadeAgain(t *testing.T) {
	dir := t.TempDir()
	ensure(t, dir)
	if err := os.Remove(filepath.Join(dir, CACertFile)); err != nil {
		t.Fatal(err)
	}
	a := ensure(t, dir, "localhost")
	leaf, err := x509.ParseCertificate(a.Server().Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.CAPool(), DNSName: "localhost"}); err != nil {
		t.Errorf("the serving certificate is of the lost authority: %v", err)
	}
}

func TestLostAuthorityKeyIsAnError(t *testing.T) {
	dir := t.TempDir()
	ensure(t, dir)
	if err := os.Remove(filepath.Join(dir, CAKeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := Ensure(dir, nil); err == nil {
		t.Error("a new authority silently replaced the one whose key is lost")
	}
}

func TestDamagedFilesAreNamed(t *testing.T) {
	for _, name := range []string{CACertFile, CAKeyFile, ServerCertFile, AccountKeyFile} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ensure(t, dir)
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Ensure(dir, nil); err == nil || !bytes.Contains([]byte(err.Error()), []byte(path)) {
				t.Errorf("error %v does not name %s", err, path)
			}
		})
	}
}

func TestKeysArePrivate(t *testing.T) {
	dir := t.TempDir()
	ensure(t, dir)
	for _, name := range []string{CAKeyFile, ServerKeyFile, AccountKeyFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

func BenchmarkEnsure(b *testing.B) {
	for b.Loop() {
		if _, err := Ensure(b.TempDir(), []string{"localhost"}); err != nil {
			b.Fatal(err)
		}
	}
}
