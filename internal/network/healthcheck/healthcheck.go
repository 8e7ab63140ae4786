// Package healthcheck answers, at a node, the question of load balancers whether it has endpoints of a service: at the
// service's health check node port, over HTTP (spec.healthCheckNodePort, externalTrafficPolicy: Local).
//
// It owns the listeners and the answer. It refuses to say what the machine's other nodes would not say too: those share the
// port, as they share its addresses, so that each counts the endpoints of the machine. The answer is upstream's, header by
// header: https://kubernetes.io/docs/reference/networking/virtual-ips/ and KEP-3458.
package healthcheck

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/behind"
	"coracle/internal/network/proxy"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// Config says for whom to answer.
type Config struct {
	// Node is the node's name.
	Node string
	// Snapshot is what is counted from; it is whole once Ready is closed.
	Snapshot *view.View
	Ready    <-chan struct{}
	// Routed says whether the node leads services as the snapshot shows them.
	Routed func() bool
	// Here returns what says whether an address is of an endpoint on this machine, as it is now.
	Here func() func(netip.Addr) bool
	// In, where given, runs a function in the network namespace of the node.
	In  func(func() error) error
	Log *slog.Logger
}

// Server answers at the health check ports of all services. Make it with New.
type Server struct {
	cfg    Config
	http   *http.Server
	cancel func()
	wake   chan struct{}

	mu    sync.Mutex
	moved map[object.Key]bool
	// open are the listeners by port, of those the service that it is of.
	open map[int32]*listener
	// wanted is the port of each service that has one.
	wanted map[object.Key]int32
	// failed are the services whose port could not be opened last time: that is told once.
	failed map[object.Key]bool
	// busy are the goroutines of listeners.
	busy sync.WaitGroup
}

type listener struct {
	net.Listener
	of object.Key
}

// New returns a server that listens nowhere before Run.
func New(cfg Config) *Server {
	if cfg.In == nil {
		cfg.In = func(f func() error) error { return f() }
	}
	s := &Server{cfg: cfg, wake: make(chan struct{}, 1), moved: map[object.Key]bool{}, open: map[int32]*listener{}, wanted: map[object.Key]int32{}}
	const patience = 5 * time.Second
	s.http = &http.Server{
		Handler: s, ReadTimeout: patience, WriteTimeout: patience, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	cfg.Snapshot.AddIndexes(behind.Index)
	s.cancel = cfg.Snapshot.Subscribe(s.saw)
	return s
}

func (s *Server) saw(ch view.Change) {
	if ch.Resource != resource.Services || portOf(ch.Before) == portOf(ch.After) {
		return
	}
	o := ch.After
	if o == nil {
		o = ch.Before
	}
	s.mu.Lock()
	s.moved[object.KeyOf(o)] = true
	s.mu.Unlock()
	s.again()
}

func (s *Server) again() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func portOf(o object.Object) int32 {
	if svc, ok := o.(*corev1.Service); ok && svc != nil && proxy.HealthChecked(svc) {
		return svc.Spec.HealthCheckNodePort
	}
	return 0
}

// retry is when to try again to listen at a port that another process has.
const retry = 5 * time.Second

// Run listens where services have health check ports, until ctx ends.
func (s *Server) Run(ctx context.Context) {
	defer s.busy.Wait()
	defer s.http.Close()
	defer s.cancel()
	select {
	case <-ctx.Done():
		return
	case <-s.cfg.Ready:
	}
	s.mu.Lock()
	for _, o := range s.cfg.Snapshot.List(resource.Services, "") {
		if portOf(o) != 0 {
			s.moved[object.KeyOf(o)] = true
		}
	}
	s.mu.Unlock()
	s.again()
	timer := time.AfterFunc(retry, s.again)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		if timer.Stop(); !s.follow() {
			timer.Reset(retry)
		}
	}
}

// follow opens and closes what has changed, and says whether that succeeded; what did not is tried again.
func (s *Server) follow() (done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.moved {
		port := int32(0)
		if o, ok := s.cfg.Snapshot.Get(resource.Services, key.Namespace, key.Name); ok {
			port = portOf(o)
		}
		if was := s.wanted[key]; was != port {
			s.close(key, was)
			delete(s.wanted, key)
		}
		if port != 0 {
			s.wanted[key] = port
		}
	}
	done = true
	again := map[object.Key]bool{}
	for key := range s.moved {
		port := s.wanted[key]
		if port == 0 || s.open[port] != nil && s.open[port].of == key {
			continue
		}
		if err := s.listen(key, port); err != nil {
			if !s.failed[key] {
				s.cfg.Log.Warn("load balancers are not answered whether this node has endpoints; trying again", "service", key.String(), "port", port, "err", err)
			}
			again[key], done = true, false
		}
	}
	s.moved, s.failed = again, maps.Clone(again)
	return done
}

var errTaken = errors.New("another service has the port still")

// listen opens a port. The agents of several nodes of one machine share it.
func (s *Server) listen(key object.Key, port int32) error {
	if s.open[port] != nil {
		return errTaken
	}
	config := net.ListenConfig{Control: shared}
	return s.cfg.In(func() error {
		l, err := config.Listen(context.Background(), "tcp", net.JoinHostPort("", strconv.Itoa(int(port))))
		if err != nil {
			return err
		}
		s.open[port] = &listener{l, key}
		s.busy.Go(func() { _ = s.http.Serve(l) })
		return nil
	})
}

func (s *Server) close(key object.Key, port int32) {
	if l := s.open[port]; l != nil && l.of == key {
		l.Close()
		delete(s.open, port)
	}
}

func shared(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); e != nil {
		return e
	}
	return err
}

// answer is the body of an answer.
type answer struct {
	Service   subject `json:"service"`
	Endpoints int     `json:"localEndpoints"`
	Healthy   bool    `json:"serviceProxyHealthy"`
}

type subject struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// ServeHTTP implements http.Handler: whatever is asked for, the answer is 200 where the machine has endpoints of the
// service whose port it is and the node leads to them, and else 503.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	addr, _ := req.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	s.mu.Lock()
	var of *listener
	if addr != nil {
		of = s.open[int32(addr.Port)]
	}
	s.mu.Unlock()
	if of == nil {
		http.NotFound(w, req) // closed while the question was on its way
		return
	}
	a := answer{
		Service:   subject{of.of.Namespace, of.of.Name},
		Endpoints: proxy.LocalEndpoints(behind.Slices(s.cfg.Snapshot, of.of), s.cfg.Node, s.cfg.Here()), Healthy: s.cfg.Routed(),
	}
	body, err := json.MarshalIndent(a, "", "\t")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(a.Endpoints))
	if a.Endpoints == 0 || !a.Healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(body)
}
