package authn

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// graceAfterDeletion is how long a token outlives the deletion timestamp of what it is bound to;
// upstream's clock leeway.
const graceAfterDeletion = 60 * time.Second

// Bound names an object whose life a token shares.
type Bound struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid,omitempty"`
}

// claims are the body of a service-account token, in the form of upstream's bound tokens
// (KEP-1205).
type claims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  []string `json:"aud"`
	Expiry    int64    `json:"exp"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf"`
	ID        string   `json:"jti"`
	Private   private  `json:"kubernetes.io"`
}

type private struct {
	Namespace string `json:"namespace"`
	Account   Bound  `json:"serviceaccount"`
	Pod       *Bound `json:"pod,omitempty"`
	Node      *Bound `json:"node,omitempty"`
	Secret    *Bound `json:"secret,omitempty"`
}

// Life is what the cluster says of an object that a token names.
type Life struct {
	UID types.UID
	// Deleted is the object's deletion timestamp, zero when it is not being deleted.
	Deleted time.Time
}

// Lives looks up objects by plural ("serviceaccounts", "pods", "nodes", "secrets"), namespace and
// name; false means that there is none. It is asked at each use of a token, so it must be cheap.
type Lives func(plural, namespace, name string) (Life, bool)

// Accounts issues and checks service-account tokens.
type Accounts struct {
	issuer    string
	audiences []string
	key       *ecdsa.PrivateKey
	keyID     string
	lives     Lives
	now       func() time.Time

	// verified remembers tokens whose signature has been checked, which is the dear part. What
	// can change, the life of the objects they name and the time, is checked at each use.
	mu       sync.Mutex
	verified map[string]claims
}

// maxVerified bounds the remembered tokens; past it the memory starts anew.
const maxVerified = 4096

// NewAccounts returns the issuer of the cluster whose API is known to pods under issuer, a URL.
func NewAccounts(issuer string, key *ecdsa.PrivateKey, lives Lives) (*Accounts, error) {
	id, err := keyID(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("service-account key: %w", err)
	}
	return &Accounts{
		issuer: issuer, audiences: []string{issuer}, key: key, keyID: id, lives: lives,
		now: time.Now, verified: map[string]claims{},
	}, nil
}

// Audiences returns what the API server calls itself: tokens for others are not for it.
func (a *Accounts) Audiences() []string { return slices.Clone(a.audiences) }

// Request is what a token is asked for.
type Request struct {
	Namespace string
	Account   Bound
	// At most one of Pod and Secret is set; Node says where Pod runs, or alone binds to a node.
	Pod, Node, Secret *Bound
	// Audiences are the token's readers; empty means the API server.
	Audiences []string
	Lifetime  time.Duration
}

// Issue signs a token and returns it with the time at which it ends.
func (a *Accounts) Issue(r Request) (string, time.Time, error) {
	now := a.now()
	end := now.Add(r.Lifetime)
	if len(r.Audiences) == 0 {
		r.Audiences = a.audiences
	}
	token, err := sign(a.key, a.keyID, claims{
		Issuer:   a.issuer,
		Subject:  serviceaccount.MakeUsername(r.Namespace, r.Account.Name),
		Audience: r.Audiences,
		Expiry:   end.Unix(), IssuedAt: now.Unix(), NotBefore: now.Unix(),
		ID: uuid.NewString(),
		Private: private{
			Namespace: r.Namespace, Account: r.Account, Pod: r.Pod, Node: r.Node, Secret: r.Secret,
		},
	})
	return token, time.Unix(end.Unix(), 0), err
}

// AuthenticateToken implements authenticator.Token for tokens meant for the API server, or, when
// ctx names audiences (authenticator.WithAudiences), for one of those.
func (a *Accounts) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	c, err := a.read(token)
	if err != nil {
		return nil, false, err
	}
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		wanted = a.audiences
	}
	shared := wanted.Intersect(c.Audience)
	if len(shared) == 0 {
		return nil, false, fmt.Errorf("token audiences %q is invalid for the target audiences %q", c.Audience, wanted)
	}
	if err := a.alive(&c); err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: c.user(), Audiences: shared}, true, nil
}

// read returns the claims of a token that we signed.
func (a *Accounts) read(token string) (claims, error) {
	a.mu.Lock()
	c, ok := a.verified[token]
	a.mu.Unlock()
	if ok {
		return c, nil
	}
	if err := verify(&a.key.PublicKey, token, &c); err != nil {
		return claims{}, err
	}
	if c.Issuer != a.issuer {
		return claims{}, fmt.Errorf("token issuer %q is not %q", c.Issuer, a.issuer)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.verified) >= maxVerified {
		clear(a.verified)
	}
	a.verified[strings.Clone(token)] = c
	return c, nil
}

// alive checks what may have changed since the token was issued.
func (a *Accounts) alive(c *claims) error {
	now := a.now()
	switch {
	case now.Unix() >= c.Expiry:
		return errors.New("service account token has expired")
	case now.Add(graceAfterDeletion).Unix() < c.NotBefore:
		return errors.New("service account token is not valid yet")
	}
	p := &c.Private
	if c.Subject != serviceaccount.MakeUsername(p.Namespace, p.Account.Name) {
		return errors.New("service account token's subject is not its account")
	}
	checks := []struct {
		plural, namespace string
		bound             *Bound
	}{
		{"serviceaccounts", p.Namespace, &p.Account},
		{"secrets", p.Namespace, p.Secret},
		{"pods", p.Namespace, p.Pod},
		{"nodes", "", p.Node},
	}
	for _, check := range checks {
		if check.bound == nil || check.plural == "nodes" && p.Pod != nil {
			continue // a pod's token lives as long as the pod
		}
		life, ok := a.lives(check.plural, check.namespace, check.bound.Name)
		switch {
		case !ok:
			return fmt.Errorf("service account token has been invalidated: no %s %q", check.plural, check.bound.Name)
		case life.UID != check.bound.UID:
			return fmt.Errorf("service account token has been invalidated: %s %q was made anew", check.plural, check.bound.Name)
		case !life.Deleted.IsZero() && now.After(life.Deleted.Add(graceAfterDeletion)):
			return fmt.Errorf("service account token has been invalidated: %s %q is deleted", check.plural, check.bound.Name)
		}
	}
	return nil
}

func (c *claims) user() user.Info {
	extra := map[string][]string{user.CredentialIDKey: {"JTI=" + c.ID}}
	if pod := c.Private.Pod; pod != nil {
		extra[serviceaccount.PodNameKey] = []string{pod.Name}
		extra[serviceaccount.PodUIDKey] = []string{string(pod.UID)}
	}
	if node := c.Private.Node; node != nil {
		extra[serviceaccount.NodeNameKey] = []string{node.Name}
		extra[serviceaccount.NodeUIDKey] = []string{string(node.UID)}
	}
	return &user.DefaultInfo{
		Name:   c.Subject,
		UID:    string(c.Private.Account.UID),
		Groups: serviceaccount.MakeGroupNames(c.Private.Namespace),
		Extra:  extra,
	}
}
