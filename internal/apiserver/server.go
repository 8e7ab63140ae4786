package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/apiserver/admit"
	"coracle/internal/apiserver/authn"
	"coracle/internal/apiserver/authz"
	"coracle/internal/apiserver/gate"
	"coracle/internal/apiserver/measure"
	"coracle/internal/apiserver/openapi"
	"coracle/internal/kind"
	"coracle/internal/kind/address"
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
	codecs  codecs
	types   *openapi.Types
	objects map[resource.Resource]*registry
	// subs are all subresources, by name.
	subs    map[resource.Resource]map[string]rest.Storage
	routes  *routes
	handler http.Handler
	drain   *drain
	docs    *openapi.Documents
	// accounts signs and checks service-account tokens.
	accounts *authn.Accounts
	authn    *authn.Requests
	authz    *authz.Authorizer
	admit    *admit.Chain
	quotas   *quotaBooks
	requests *measure.Requests
	metrics  http.Handler
	gate     *gate.Gate
	// nodes is the way to the kubelet faces, and strangers the way to what pods serve.
	nodes, strangers *http.Transport
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
	limitCopies()
	s := &Server{
		cfg:     cfg,
		log:     cfg.Log,
		codecs:  newCodecs(),
		types:   openapi.NewTypes(scheme.Scheme),
		objects: map[resource.Resource]*registry{},
		subs:    map[resource.Resource]map[string]rest.Storage{},
		drain:   newDrain(),

		strangers: newStrangerTransport(),
		requests:  &measure.Requests{},
	}
	var err error
	if s.accounts, err = authn.NewAccounts(issuer(cfg.ClusterDomain), cfg.PKI.AccountKey(), s.life); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	if s.nodes, err = newNodeTransport(cfg.PKI); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	s.authn = authn.New(authn.Config{CA: cfg.PKI.CAPool(), Static: cfg.Tokens, Accounts: s.accounts})
	s.authz = authz.New(relations{s})
	s.quotas = newQuotaBooks(s)
	s.admit = admit.New(looker{s})
	groups, err := s.groups()
	if err != nil {
		return nil, err
	}
	face := &api{
		codecs:    s.codecs,
		container: newContainer(s.codecs),
		types:     s.types,
		admit:     s.admit,
		authz:     s.authz,
		address:   cfg.Advertise.String(),
	}
	if err := face.install(groups); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	if err := s.restore(); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	if err := s.followRoles(); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	if err := s.bootstrap(context.Background()); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	s.keepPolicy(context.Background())
	s.docs = newDocuments(face.container)
	s.routes = newRoutes(face.container)
	s.shorten(s.routes)
	inner := filters.WithWarningRecorder(extras{cfg.Extra, &root{s.routes, s, bounded{s, s.routes}}})
	if s.gate, err = s.newGate(); err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	s.metrics = s.newMetrics()
	entrance := newChain(s.codecs, s.authn, s.authz, inner, s.gate, s.drain, s.log)
	entrance.counts, entrance.known = s.requests, newOperations(s.routes)
	s.handler = entrance
	return s, nil
}

// groups makes the storage of every kind and sorts it into group versions.
func (s *Server) groups() ([]group, error) {
	byVersion := map[schema.GroupVersion]map[string]rest.Storage{}
	kinds := kind.All()
	stored, err := collections(s.cfg.Store, kinds)
	if err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	book, err := address.New(s.cfg.ServiceCIDR, [2]int{})
	if err != nil {
		return nil, fmt.Errorf("apiserver: Config.ServiceCIDR: %w", err)
	}
	for _, k := range kinds {
		o := newObject(k, stored[k.Resource], s.admit, s.quotas, s.types, kind.Cluster{ServiceRange: s.cfg.ServiceCIDR, Book: book})
		o.grants = grantingOf(s.authz, k.Resource)
		s.objects[k.Resource] = o
		gv := k.GVK().GroupVersion()
		if byVersion[gv] == nil {
			byVersion[gv] = map[string]rest.Storage{}
		}
		served := byVersion[gv]
		served[k.Plural] = o
		if k.Resource == resource.Namespaces {
			served[k.Plural] = namespaces{o}
		}
		subs := s.subresources(o)
		s.subs[k.Resource] = subs
		for name, sub := range subs {
			served[k.Plural+"/"+name] = sub
		}
		for _, alias := range k.Aliases {
			// The scheme knows the objects under the alias's group too, and converts.
			gv := alias.GVK().GroupVersion()
			if byVersion[gv] == nil {
				byVersion[gv] = map[string]rest.Storage{}
			}
			byVersion[gv][alias.Plural] = o
		}
	}
	if pods := s.objects[resource.Pods]; pods != nil {
		byVersion[schema.GroupVersion{Version: "v1"}]["bindings"] = bindings{&binding{pods}}
	}
	byVersion[authenticationv1.SchemeGroupVersion] = s.authenticationReviews()
	byVersion[authorizationv1.SchemeGroupVersion] = authorizationReviews(s.authz)
	var groups []group
	for _, gv := range scheme.Groups {
		if len(byVersion[gv]) > 0 {
			groups = append(groups, group{gv, byVersion[gv]})
		}
	}
	return groups, nil
}

// subresources makes the storage of a kind's subresources, by name.
func (s *Server) subresources(o *registry) map[string]rest.Storage {
	subs := map[string]rest.Storage{}
	for name, p := range o.parts {
		subs[name] = p
	}
	if o.kind.Scale != nil {
		subs["scale"] = newScale(o)
	}
	switch o.kind.Resource {
	case resource.Pods:
		subs["binding"] = &binding{o}
		subs["eviction"] = &eviction{s}
		for name, options := range streams {
			subs[name] = &stream{server: s, name: name, options: options}
		}
		subs["log"] = &podLog{s}
		subs["proxy"] = s.podProxy()
	case resource.Services:
		subs["proxy"] = s.serviceProxy()
	case resource.Nodes:
		subs["proxy"] = s.nodeProxy()
	case resource.ServiceAccounts:
		subs["token"] = &token{s}
	}
	return subs
}

// Handler returns the whole HTTP face, for serving by other means than Serve.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers on l, with TLS, until ctx ends; then it ends watches at once, lets short requests
// finish (for at most five seconds) and returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	connections := gate.NewConnections(l, maxConnections())
	srv := &http.Server{
		Handler:           s.handler,
		ConnContext:       authn.ConnContext,
		ConnState:         connections.State,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       90 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{
			MinVersion:   tls.VersionTLS12,
			Certificates: []tls.Certificate{s.cfg.PKI.Server()},
			ClientAuth:   tls.RequestClientCert,
			NextProtos:   []string{"h2", "http/1.1"},

			GetConfigForClient: connections.Hello,
		},
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(connections, "", "") }()
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
	select {
	case err := <-ended:
		return fmt.Errorf("apiserver: serve: %w", err)
	case <-ctx.Done():
	}
	idle := s.drain.start()
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	select {
	case <-idle:
	case <-limit.Done():
	}
	// What was answered is on its way; idle HTTP/2 connections would be kept for a second.
	flush, done := context.WithTimeout(limit, 50*time.Millisecond)
	defer done()
	if err := srv.Shutdown(flush); err != nil {
		_ = srv.Close()
	}
	<-ended //nolint:errcheck // it was told to end
	return nil
}

// advertised returns the host and port of the server's endpoint.
func (s *Server) advertised() (string, int32) {
	host, portText, _ := net.SplitHostPort(s.cfg.Endpoint.String())
	port, _ := strconv.Atoi(portText)
	return host, int32(port)
}
