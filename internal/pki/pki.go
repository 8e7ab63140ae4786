// Package pki owns the cluster's keys: the certificate authority, the certificates it signs and
// the key that signs service-account tokens.
//
// Everything is ECDSA on P-256: a key pair costs well under a millisecond, so a whole cluster's
// identity is made within the start-up budget. It refuses to decide who may do what: that is
// authentication and authorization in package apiserver.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The names of the files of an authority's directory.
const (
	CACertFile     = "ca.crt"
	CAKeyFile      = "ca.key"
	ServerCertFile = "server.crt"
	ServerKeyFile  = "server.key"
	AccountKeyFile = "sa.key"
)

// APIServerUser is the common name with which the API server presents itself to the nodes.
const APIServerUser = "coracle-apiserver"

// MastersGroup is the group whose members may do everything.
const MastersGroup = "system:masters"

const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 5 * 365 * 24 * time.Hour
	// renewBefore is how long before its end a serving certificate is replaced.
	renewBefore = 30 * 24 * time.Hour
	// backdate forgives clocks that run behind.
	backdate = 5 * time.Minute
)

// Authority signs for one cluster.
type Authority struct {
	dir       string
	caCert    *x509.Certificate
	caKey     *ecdsa.PrivateKey
	caPEM     []byte
	server    tls.Certificate
	accountSK *ecdsa.PrivateKey
}

// Pair is a certificate with its key, both PEM. Certificate holds the leaf alone.
type Pair struct {
	Certificate []byte
	Key         []byte
}

// TLS returns the pair as crypto/tls wants it.
func (p Pair) TLS() (tls.Certificate, error) { return tls.X509KeyPair(p.Certificate, p.Key) }

// Ensure opens the authority kept in dir and makes what is missing, the directory included. The
// serving certificate is made again when it does not name each of hosts (DNS names or IP
// addresses) or is about to end. Calling it again changes nothing.
func Ensure(dir string, hosts []string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("pki: make directory: %w", err)
	}
	a := &Authority{dir: dir}
	if err := a.ensureCA(); err != nil {
		return nil, err
	}
	if err := a.ensureAccountKey(); err != nil {
		return nil, err
	}
	if err := a.ensureServer(hosts); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Authority) ensureCA() error {
	cert, key, err := loadPair(filepath.Join(a.dir, CACertFile), filepath.Join(a.dir, CAKeyFile))
	if err == nil {
		a.caPEM, a.caCert, a.caKey = encodeCert(cert.Raw), cert, key
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pki: read authority: %w", err)
	}
	key, err = newKey()
	if err != nil {
		return err
	}
	now := time.Now()
	serial, err := newSerial()
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "coracle-ca"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("pki: sign authority: %w", err)
	}
	if a.caCert, err = x509.ParseCertificate(der); err != nil {
		return fmt.Errorf("pki: parse own authority: %w", err)
	}
	a.caKey, a.caPEM = key, encodeCert(der)
	return savePair(filepath.Join(a.dir, CACertFile), filepath.Join(a.dir, CAKeyFile), a.caPEM, key)
}

func (a *Authority) ensureAccountKey() error {
	path := filepath.Join(a.dir, AccountKeyFile)
	key, err := loadKey(path)
	if err == nil {
		a.accountSK = key
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pki: read service-account key: %w", err)
	}
	if a.accountSK, err = newKey(); err != nil {
		return err
	}
	keyPEM, err := encodeKey(a.accountSK)
	if err != nil {
		return err
	}
	return write(path, keyPEM, 0o600)
}

func (a *Authority) ensureServer(hosts []string) error {
	certPath, keyPath := filepath.Join(a.dir, ServerCertFile), filepath.Join(a.dir, ServerKeyFile)
	cert, key, err := loadPair(certPath, keyPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pki: read serving certificate: %w", err)
	}
	if err == nil && names(cert, hosts) && time.Until(cert.NotAfter) > renewBefore && cert.CheckSignatureFrom(a.caCert) == nil {
		a.server = tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
		return nil
	}
	pair, err := a.ServerCert("coracle-server", hosts)
	if err != nil {
		return err
	}
	if a.server, err = pair.TLS(); err != nil {
		return fmt.Errorf("pki: own serving certificate: %w", err)
	}
	if err := write(keyPath, pair.Key, 0o600); err != nil {
		return err
	}
	return write(certPath, pair.Certificate, 0o644)
}

// CACert returns the authority's certificate as PEM: what clients verify servers with.
func (a *Authority) CACert() []byte { return slices.Clone(a.caPEM) }

// CAPool returns a pool that holds the authority's certificate alone.
func (a *Authority) CAPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.caCert)
	return pool
}

// Server returns the API server's serving certificate.
func (a *Authority) Server() tls.Certificate { return a.server }

// AccountKey returns the key that signs service-account tokens.
func (a *Authority) AccountKey() *ecdsa.PrivateKey { return a.accountSK }

// ClientCert signs a client certificate: the API reads the common name as the user and each
// organization as a group.
func (a *Authority) ClientCert(user string, groups ...string) (Pair, error) {
	return a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// ServerCert signs a serving certificate for hosts, each a DNS name or an IP address.
func (a *Authority) ServerCert(name string, hosts []string) (Pair, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return a.sign(template)
}

func (a *Authority) sign(template *x509.Certificate) (Pair, error) {
	key, err := newKey()
	if err != nil {
		return Pair{}, err
	}
	if template.SerialNumber, err = newSerial(); err != nil {
		return Pair{}, err
	}
	now := time.Now()
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.Add(leafLife)
	if template.NotAfter.After(a.caCert.NotAfter) {
		template.NotAfter = a.caCert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, a.caCert, key.Public(), a.caKey)
	if err != nil {
		return Pair{}, fmt.Errorf("pki: sign certificate for %q: %w", template.Subject.CommonName, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Certificate: encodeCert(der), Key: keyPEM}, nil
}

// Fingerprint names the authority: the first 8 hexadecimal digits of its certificate's SHA-256.
func (a *Authority) Fingerprint() string {
	sum := sha256.Sum256(a.caCert.Raw)
	return hex.EncodeToString(sum[:4])
}

func names(cert *x509.Certificate, hosts []string) bool {
	for _, host := range hosts {
		if cert.VerifyHostname(host) != nil {
			return false
		}
	}
	return true
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("pki: make key: %w", err)
	}
	return key, nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("pki: make serial number: %w", err)
	}
	return serial, nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("pki: encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
