package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/apiserver/access"
	"coracle/internal/apiserver/admit"
	"coracle/internal/apiserver/authn"
	"coracle/internal/apiserver/authz"
	"coracle/internal/apiserver/charge"
	"coracle/internal/apiserver/face"
	"coracle/internal/apiserver/local"
	"coracle/internal/apiserver/openapi"
	"coracle/internal/apiserver/registry"
	"coracle/internal/apiserver/tunnel"
	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/pki"
	"coracle/internal/resource"
	"coracle/internal/scheme"
	"coracle/internal/store"
)

// Config says what a server serves, from where, and to whom.
type Config struct {
	// Store holds the cluster's state; the server does not close it.
	Store *store.Store
	// PKI signs: it verifies clients, and its key signs service-account tokens.
	PKI *pki.Authority
	// Advertise is the address at which users reach the server.
	Advertise netip.AddrPort
	// Endpoint is the kubernetes service's: where pods reach the server; default Advertise.
	Endpoint netip.AddrPort
	// ServiceCIDR is the range of cluster IPs. Its first address is the kubernetes service's.
	ServiceCIDR netip.Prefix
	// SecondServiceCIDR, when valid, is that of the other family.
	SecondServiceCIDR netip.Prefix
	// ClusterDomain is the DNS suffix of the cluster; empty means cluster.local.
	ClusterDomain string
	// Tokens maps static bearer tokens to users, for bootstrap; empty allows none.
	Tokens map[string]authn.User
	// Extra serves paths that are no resources, each key the beginning of such paths, such as
	// "/coracle/why/". They pass authentication and authorization: only the group system:masters
	// reaches them, and whoever a ClusterRole names their paths for.
	Extra map[string]http.Handler
	// Log receives what an operator must know; nil discards.
	Log *slog.Logger
}

// Server is the API server of one cluster.
type Server struct {
	cfg     Config
	log     *slog.Logger
	set     *registry.Set
	authz   *authz.Authorizer
	tunnels *tunnel.Tunnels
	quotas  *charge.Books
	face    *face.Face
	local   local.Client
}

// New builds a server. It reads what hooks must restore from the store and writes the objects
// every cluster has (namespaces, the kubernetes service, ...); it does not listen yet.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.PKI == nil {
		return nil, errors.New("apiserver: Config needs Store and PKI")
	}
	if !cfg.ServiceCIDR.IsValid() {
		return nil, errors.New("apiserver: Config.ServiceCIDR is missing, such as 10.96.0.0/16")
	}
	if !cfg.Advertise.IsValid() {
		return nil, errors.New("apiserver: Config.Advertise is missing: say at which address and port the server is reached")
	}
	if !cfg.Endpoint.IsValid() {
		cfg.Endpoint = cfg.Advertise
	}
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, log: cfg.Log, set: registry.NewSet(cfg.Log)}
	if err := s.build(); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	return s, nil
}

// build makes the parts, from the store up to the face, and then what every cluster has.
func (s *Server) build() error {
	accounts, err := authn.NewAccounts(issuer(s.cfg.ClusterDomain), s.cfg.PKI.AccountKey(), s.set.Life)
	if err != nil {
		return err
	}
	requests := authn.New(authn.Config{CA: s.cfg.PKI.CAPool(), Static: s.cfg.Tokens, Accounts: accounts})
	s.authz = authz.New(s.set.Relations())
	if s.tunnels, err = tunnel.New(s.set, s.authz, s.cfg.PKI); err != nil {
		return err
	}
	s.quotas = charge.NewBooks(s.set, s.log)
	chain := admit.New(s.set.Admission(s.quotas))
	types := openapi.NewTypes(scheme.Scheme)
	if err := s.set.Open(s.cfg.Store, registry.Config{Chain: chain, Quotas: s.quotas, Types: types, Authz: s.authz, Ranges: s.cfg.serviceRanges()}); err != nil {
		return err
	}
	s.face, err = face.New(face.Config{
		Kinds: s.set, Groups: s.groups(requests, accounts), Types: types, Store: s.cfg.Store, Authn: requests, Authz: s.authz, Admit: chain,
		Address: s.cfg.Advertise.String(), Extra: s.cfg.Extra, Log: s.log,
	})
	if err != nil {
		return err
	}
	s.local = local.New(s.set, chain, s.quotas.Correct, s.face.Patches())
	if err := s.set.Restore(); err != nil {
		return err
	}
	if err := s.set.Observe(s.authz); err != nil {
		return err
	}
	if err := s.bootstrap(context.Background()); err != nil {
		return err
	}
	s.keepPolicy(context.Background())
	return nil
}

// issuer is the URL by which pods know the API server, and the default audience of tokens.
func issuer(domain string) string { return "https://kubernetes.default.svc." + domain }

// Client returns the in-process client. What it returns and watches deliver is shared and must
// not be changed.
func (s *Server) Client() client.Interface { return s.local }

// LogTail reads the end of a container's log, as far as the user of ctx may: what a get of pods/log would answer, or the
// API's refusal. It reads bytes at most.
func (s *Server) LogTail(ctx context.Context, pod object.Key, container string, previous bool, lines, bytes int64) ([]byte, error) {
	return s.tunnels.LogTail(ctx, pod, container, previous, lines, bytes)
}

// groups sorts what is served of each kind into group versions.
func (s *Server) groups(requests *authn.Requests, accounts *authn.Accounts) []face.Group {
	byVersion := map[schema.GroupVersion]map[string]rest.Storage{}
	served := func(gv schema.GroupVersion) map[string]rest.Storage {
		if byVersion[gv] == nil {
			byVersion[gv] = map[string]rest.Storage{}
		}
		return byVersion[gv]
	}
	for res, o := range s.set.All {
		for name, sub := range s.tunnels.Subresources(res) {
			o.Subresources[name] = sub
		}
		if res == resource.ServiceAccounts {
			o.Subresources["token"] = access.NewToken(s.set, accounts)
		}
		for path, storage := range o.Served() {
			served(o.Kind.GVK().GroupVersion())[path] = storage
		}
		for _, alias := range o.Kind.Aliases {
			// The scheme knows the objects under the alias's group too, and converts.
			served(alias.GVK().GroupVersion())[alias.Plural] = o
		}
	}
	if bindings := s.set.Bindings(); bindings != nil {
		served(schema.GroupVersion{Version: "v1"})["bindings"] = bindings
	}
	byVersion[authenticationv1.SchemeGroupVersion] = access.AuthenticationReviews(requests)
	byVersion[authorizationv1.SchemeGroupVersion] = access.AuthorizationReviews(s.authz)
	var groups []face.Group
	for _, gv := range scheme.Groups {
		if len(byVersion[gv]) > 0 {
			groups = append(groups, face.Group{GroupVersion: gv, Storage: byVersion[gv]})
		}
	}
	return groups
}

// Handler returns the whole HTTP face, for serving by other means than Serve.
func (s *Server) Handler() http.Handler { return s.face.Handler() }

// Serve answers on l, with TLS, until ctx ends; then it ends watches at once, lets short requests
// finish (for at most five seconds) and returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	guarding, relax := context.WithCancel(ctx)
	guarded := make(chan struct{})
	go func() {
		defer close(guarded)
		s.guard(guarding)
	}()
	defer func() { // nothing of the server touches the store once it has returned
		relax()
		<-guarded
	}()
	if err := s.face.Serve(ctx, l, s.cfg.PKI.Server()); err != nil {
		return fmt.Errorf("apiserver: %w", err)
	}
	return nil
}

// advertised returns the host and port of the server's endpoint.
func (s *Server) advertised() (string, int32) {
	host, portText, _ := net.SplitHostPort(s.cfg.Endpoint.String())
	port, _ := strconv.Atoi(portText)
	return host, int32(port)
}
