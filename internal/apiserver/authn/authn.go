// Package authn says who sends a request: by client certificate, by bearer token, or nobody.
//
// It owns the checks of certificates and tokens and the signing of service-account tokens; it
// refuses to decide what the sender may do, which is package authz.
package authn

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// User is whom a static token stands for.
type User struct {
	Name   string
	UID    string
	Groups []string
}

// Config says what is accepted.
type Config struct {
	// CA verifies client certificates.
	CA *x509.CertPool
	// Static maps bearer tokens to users.
	Static map[string]User
	// Accounts verifies service-account tokens; nil accepts none.
	Accounts authenticator.Token
}

// New returns the authenticator of requests. Its answer carries the group system:authenticated.
// Credentials that are present and wrong give an error; none at all gives false.
func New(cfg Config) *Requests { return &Requests{cfg} }

// Requests identifies the senders of requests.
type Requests struct{ cfg Config }

var (
	_ authenticator.Request = (*Requests)(nil)
	_ authenticator.Token   = (*Requests)(nil)
)

// AuthenticateRequest implements authenticator.Request.
func (r *Requests) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if req.TLS != nil && len(req.TLS.PeerCertificates) > 0 {
		answer, err := r.byCertificate(req)
		if err == nil {
			return answer, true, nil
		}
		if req.Header.Get("Authorization") == "" {
			return nil, false, err
		}
	}
	token, ok := bearer(req)
	if !ok {
		return nil, false, nil
	}
	answer, ok, err := r.AuthenticateToken(req.Context(), token)
	if err != nil || !ok {
		return nil, false, errors.Join(errInvalidToken, err)
	}
	return answer, true, nil
}

// AuthenticateToken implements authenticator.Token, for static and service-account tokens.
func (r *Requests) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	if u, ok := r.cfg.Static[token]; ok {
		return respond(&user.DefaultInfo{Name: u.Name, UID: u.UID, Groups: u.Groups}), true, nil
	}
	if r.cfg.Accounts == nil {
		return nil, false, errInvalidToken
	}
	answer, ok, err := r.cfg.Accounts.AuthenticateToken(ctx, token)
	if err != nil || !ok {
		return nil, false, err
	}
	return &authenticator.Response{User: authenticated(answer.User), Audiences: answer.Audiences}, true, nil
}

var errInvalidToken = errors.New("invalid bearer token")

func bearer(req *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(strings.TrimSpace(req.Header.Get("Authorization")), " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "bearer") && token != ""
}

func respond(u user.Info) *authenticator.Response {
	return &authenticator.Response{User: authenticated(u)}
}

// authenticated adds the group that every known user is in.
func authenticated(u user.Info) user.Info {
	groups := make([]string, 0, len(u.GetGroups())+1)
	for _, g := range u.GetGroups() {
		if g != user.AllAuthenticated && g != user.AllUnauthenticated {
			groups = append(groups, g)
		}
	}
	return &user.DefaultInfo{
		Name: u.GetName(), UID: u.GetUID(), Extra: u.GetExtra(),
		Groups: append(groups, user.AllAuthenticated),
	}
}

// Anonymous is the sender of a request without credentials.
func Anonymous() *authenticator.Response {
	return &authenticator.Response{User: &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}}
}

// Public says whether a request needs no credentials: health and version.
func Public(req *http.Request) bool {
	switch strings.TrimSuffix(req.URL.Path, "/") {
	case "/healthz", "/livez", "/readyz", "/version":
		return req.Method == http.MethodGet || req.Method == http.MethodHead
	}
	return false
}

// identity is what a connection's client certificate proved. A signature check costs more than
// most requests, so it is made once a connection.
type identity struct {
	once   sync.Once
	answer *authenticator.Response
	until  time.Time
	err    error
}

type identityKey struct{}

// ConnContext gives a connection the place where its identity is kept; it is for
// http.Server.ConnContext. Without it each request verifies anew.
func ConnContext(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, identityKey{}, &identity{})
}

func (r *Requests) byCertificate(req *http.Request) (*authenticator.Response, error) {
	id, ok := req.Context().Value(identityKey{}).(*identity)
	if !ok {
		id = &identity{}
	}
	id.once.Do(func() { id.answer, id.until, id.err = r.verify(req.TLS.PeerCertificates) })
	if id.err != nil {
		return nil, id.err
	}
	if time.Now().After(id.until) {
		return nil, errors.New("client certificate has expired")
	}
	return id.answer, nil
}

func (r *Requests) verify(chain []*x509.Certificate) (*authenticator.Response, time.Time, error) {
	leaf := chain[0]
	options := x509.VerifyOptions{
		Roots:         r.cfg.CA,
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(options); err != nil {
		return nil, time.Time{}, err
	}
	if leaf.Subject.CommonName == "" {
		return nil, time.Time{}, errors.New("client certificate has no common name")
	}
	return respond(&user.DefaultInfo{Name: leaf.Subject.CommonName, Groups: leaf.Subject.Organization}), leaf.NotAfter, nil
}
