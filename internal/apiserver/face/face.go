package face

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/endpoints/filters"

	"coracle/internal/apiserver/admit"
	"coracle/internal/apiserver/authn"
	"coracle/internal/apiserver/authz"
	"coracle/internal/apiserver/body"
	"coracle/internal/apiserver/codec"
	"coracle/internal/apiserver/gate"
	"coracle/internal/apiserver/measure"
	"coracle/internal/apiserver/openapi"
	"coracle/internal/apiserver/registry"
	"coracle/internal/store"
)

// faceConfig says what is served over HTTP, and to whom.
type Config struct {
	// Kinds are the registries, and Groups what is served of them, in order of preference.
	Kinds  *registry.Set
	Groups []Group
	Types  *openapi.Types
	// Store tells of its health and size.
	Store *store.Store
	Authn *authn.Requests
	Authz *authz.Authorizer
	Admit *admit.Chain
	// Address is where users reach the server, for discovery.
	Address string
	// Extra serves paths that are no resources, by how they begin.
	Extra map[string]http.Handler
	Log   *slog.Logger
}

// face is the HTTP face of a server.
type Face struct {
	codecs  codec.Codecs
	kinds   *registry.Set
	store   *store.Store
	routes  *routes
	docs    *openapi.Documents
	gate    *gate.Gate
	metrics http.Handler
	drain   *drain
	handler http.Handler
	log     *slog.Logger
}

// newFace installs the groups, and all that requests pass on their way.
func New(cfg Config) (*Face, error) {
	body.LimitCopies()
	f := &Face{codecs: codec.New(), kinds: cfg.Kinds, store: cfg.Store, drain: newDrain(), log: cfg.Log}
	container := newContainer(f.codecs)
	groups := &api{codecs: f.codecs, container: container, types: cfg.Types, admit: cfg.Admit, authz: cfg.Authz, address: cfg.Address}
	if err := groups.install(cfg.Groups); err != nil {
		return nil, err
	}
	f.docs = newDocuments(container)
	f.routes = newRoutes(container)
	f.routes.shorten(f.codecs, f.kinds)
	f.routes.listShared(f.kinds)
	inner := filters.WithWarningRecorder(extras{cfg.Extra, &root{f.routes, f, bounded{f.codecs, f.kinds, f.routes}}})
	var err error
	if f.gate, err = newGate(f.kinds); err != nil {
		return nil, err
	}
	requests := &measure.Requests{}
	f.metrics = newMetrics(requests, f)
	entrance := newChain(f.codecs, cfg.Authn, cfg.Authz, inner, f.gate, f.drain, f.log)
	entrance.counts, entrance.known = requests, newOperations(f.routes)
	f.handler = entrance
	return f, nil
}

// Handler returns the whole of the face.
func (f *Face) Handler() http.Handler { return f.handler }

// Patches serves PATCH requests of the process itself: without authentication, authorization or bounds.
func (f *Face) Patches() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		f.routes.ServeHTTP(w, req.WithContext(unaudited(req.Context())))
	})
}

// Idle says that Serve has ended, or is about to, and that every short request was answered before.
func (f *Face) Idle() bool {
	select {
	case <-f.drain.idle:
		return true
	default:
		return false
	}
}

// Serve answers on l, with TLS, until ctx ends; then it ends watches at once, lets short requests
// finish (for at most five seconds) and returns nil.
func (f *Face) Serve(ctx context.Context, l net.Listener, certificate tls.Certificate) error {
	connections := gate.NewConnections(l, maxConnections())
	srv := &http.Server{
		Handler:           f.handler,
		ConnContext:       authn.ConnContext,
		ConnState:         connections.State,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       90 * time.Second,
		ErrorLog:          slog.NewLogLogger(f.log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{
			MinVersion:   tls.VersionTLS12,
			Certificates: []tls.Certificate{certificate},
			ClientAuth:   tls.RequestClientCert,
			NextProtos:   []string{"h2", "http/1.1"},

			GetConfigForClient: connections.Hello,
		},
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(connections, "", "") }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	idle := f.drain.start()
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
