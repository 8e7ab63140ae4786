// Package server is the kubelet's HTTP face: what the API server asks a node for when a user asks
// for logs, a terminal or a port of a pod.
//
// It owns authentication by client certificate, the routes, and the passing on of streams to the
// runtime. It refuses every caller but the cluster's API server and administrators, and knows
// pods only through Backend.
package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/logs"
)

// Who may call: the API server's own certificate, and administrators'.
const (
	apiServerName = "coracle-apiserver"
	adminGroup    = "system:masters"
)

// Backend is what the face needs to know of the node. Errors of type *Refusal carry their HTTP status.
type Backend interface {
	// Log returns the path of a container's log and, for a container that runs, a channel that
	// closes when it ends (closed already for one that does not).
	Log(namespace, pod, container string, previous bool) (path string, ended <-chan struct{}, err error)
	// Container returns the ID of a running container. An empty uid means any.
	Container(namespace, pod string, uid types.UID, container string) (id string, err error)
	// Sandbox returns the ID of a pod's ready sandbox.
	Sandbox(namespace, pod string, uid types.UID) (id string, err error)
	// Pods returns the pods of this node.
	Pods() []*corev1.Pod
}

// Refusal is an error with an HTTP status.
type Refusal struct {
	Status  int
	Message string
}

func (r *Refusal) Error() string { return r.Message }

// Refuse returns a *Refusal.
func Refuse(status int, format string, args ...any) error {
	return &Refusal{status, fmt.Sprintf(format, args...)}
}

// Server serves the face.
type Server struct {
	Backend Backend
	Runtime runtimeapi.RuntimeServiceClient
	TLS     *tls.Config
	Log     *slog.Logger
	// Private is the directory whose paths stand in no answer; empty hides none.
	Private string
}

// Serve serves on l until ctx ends, then closes every connection, streams included.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	cfg := s.TLS.Clone()
	cfg.MinVersion = tls.VersionTLS12
	cfg.ClientAuth = tls.VerifyClientCertIfGiven
	cfg.NextProtos = []string{"http/1.1"} // streams upgrade, which HTTP/2 cannot
	srv := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 90 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	err := srv.Serve(tls.NewListener(l, cfg))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Handler returns the routes, each behind authentication but /healthz.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	for _, method := range []string{"GET", "POST"} {
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", s.exec)
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{uid}/{container}", s.exec)
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{container}", s.attach)
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{uid}/{container}", s.attach)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}", s.portForward)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}/{uid}", s.portForward)
	}
	mux.HandleFunc("GET /pods", s.pods)
	outer := http.NewServeMux()
	outer.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	outer.Handle("/", authenticated(mux))
	return outer
}

func authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			http.Error(w, "Unauthorized: a client certificate of the cluster is needed", http.StatusUnauthorized)
			return
		}
		subject := r.TLS.VerifiedChains[0][0].Subject
		if subject.CommonName != apiServerName && !slices.Contains(subject.Organization, adminGroup) {
			http.Error(w, fmt.Sprintf("Forbidden (user=%s)", subject.CommonName), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// refuse answers with an error, less the paths of the node's files, which the log has.
func (s *Server) refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	var r *Refusal
	if errors.As(err, &r) {
		status = r.Status
	}
	switch grpcstatus.Code(err) { // what the runtime says of the request
	case codes.InvalidArgument:
		status = http.StatusBadRequest
	case codes.NotFound:
		status = http.StatusNotFound
	}
	http.Error(w, s.words(err.Error()), status)
}

func (s *Server) words(message string) string {
	told := withoutPaths(message, s.Private)
	if told != message {
		s.Log.Warn("a request failed", "err", message)
	}
	return told
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	o, previous, err := logOptions(r.URL.Query(), time.Now())
	if err != nil {
		s.refuse(w, err)
		return
	}
	path, ended, err := s.Backend.Log(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"), previous)
	if err != nil {
		s.refuse(w, err)
		return
	}
	o.Ended = ended
	out := &flushing{w: w, flush: o.Follow}
	if err := logs.Read(r.Context(), out, path, o); err != nil && !out.begun {
		s.refuse(w, fmt.Errorf("failed to read log: %w", err))
		return
	}
	if !out.begun {
		out.begin()
	}
}

// logOptions reads PodLogOptions from a query.
func logOptions(q url.Values, now time.Time) (o logs.Options, previous bool, err error) {
	o = logs.Options{Tail: -1, Limit: -1}
	number := func(key string, into *int64, least int64) {
		if text := q.Get(key); text != "" && err == nil {
			if *into, err = strconv.ParseInt(text, 10, 64); err != nil || *into < least {
				err = Refuse(http.StatusBadRequest, "invalid %s %q: give a whole number of at least %d", key, text, least)
			}
		}
	}
	flag := func(key string) bool {
		v, _ := strconv.ParseBool(q.Get(key))
		return v
	}
	number("tailLines", &o.Tail, 0)
	number("limitBytes", &o.Limit, 1)
	var seconds int64
	number("sinceSeconds", &seconds, 1)
	if seconds > 0 {
		o.Since = now.Add(-time.Duration(seconds) * time.Second)
	}
	if text := q.Get("sinceTime"); text != "" && err == nil {
		if o.Since, err = time.Parse(time.RFC3339, text); err != nil {
			err = Refuse(http.StatusBadRequest, "invalid sinceTime %q: give an RFC 3339 time", text)
		}
	}
	switch q.Get("stream") {
	case "Stdout":
		o.Stream = "stdout"
	case "Stderr":
		o.Stream = "stderr"
	}
	o.Follow, o.Timestamps = flag("follow"), flag("timestamps")
	return o, flag("previous"), err
}

// flushing sends what is written at once when a log is followed.
type flushing struct {
	w     http.ResponseWriter
	flush bool
	begun bool
}

func (f *flushing) begin() {
	f.begun = true
	f.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	f.w.WriteHeader(http.StatusOK)
	if fl, ok := f.w.(http.Flusher); ok && f.flush {
		fl.Flush()
	}
}

func (f *flushing) Write(b []byte) (int, error) {
	if !f.begun {
		f.begin()
	}
	n, err := f.w.Write(b)
	if fl, ok := f.w.(http.Flusher); ok && f.flush {
		fl.Flush()
	}
	return n, err
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	id, err := s.container(r)
	if err != nil {
		s.refuse(w, err)
		return
	}
	q := r.URL.Query()
	if !slices.ContainsFunc(q["command"], func(word string) bool { return word != "" }) {
		s.refuse(w, Refuse(http.StatusBadRequest, "command: Required value: say what to execute, as command=WORD for each word"))
		return
	}
	stdin, stdout, stderr, tty := streams(q)
	res, err := s.Runtime.Exec(r.Context(), &runtimeapi.ExecRequest{
		ContainerId: id, Cmd: q["command"], Tty: tty, Stdin: stdin, Stdout: stdout, Stderr: stderr,
	})
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.pass(w, r, res.Url)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	id, err := s.container(r)
	if err != nil {
		s.refuse(w, err)
		return
	}
	stdin, stdout, stderr, tty := streams(r.URL.Query())
	res, err := s.Runtime.Attach(r.Context(), &runtimeapi.AttachRequest{
		ContainerId: id, Tty: tty, Stdin: stdin, Stdout: stdout, Stderr: stderr,
	})
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.pass(w, r, res.Url)
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	id, err := s.Backend.Sandbox(r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid")))
	if err != nil {
		s.refuse(w, err)
		return
	}
	var ports []int32
	for _, text := range r.URL.Query()["port"] {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			s.refuse(w, Refuse(http.StatusBadRequest, "invalid port %q", text))
			return
		}
		ports = append(ports, int32(n))
	}
	res, err := s.Runtime.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: id, Port: ports})
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.pass(w, r, res.Url)
}

func (s *Server) container(r *http.Request) (string, error) {
	return s.Backend.Container(r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid")), r.PathValue("container"))
}

// streams reads which streams are wanted: the kubelet's own parameter names, or PodExecOptions'.
func streams(q url.Values) (stdin, stdout, stderr, tty bool) {
	on := func(keys ...string) bool {
		for _, k := range keys {
			if v, err := strconv.ParseBool(q.Get(k)); err == nil && v {
				return true
			}
		}
		return false
	}
	tty = on("tty")
	// A terminal has one output; runtimes refuse a second beside it.
	return on("input", "stdin"), on("output", "stdout"), on("error", "stderr") && !tty, tty
}

// pass hands the request to the runtime's streaming server, upgrade included.
func (s *Server) pass(w http.ResponseWriter, r *http.Request, to string) {
	target, err := url.Parse(to)
	if err != nil {
		s.refuse(w, fmt.Errorf("the runtime's streaming URL: %w", err))
		return
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = target
			p.Out.Host = target.Host
		},
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "stream to the runtime: "+s.words(err.Error()), http.StatusBadGateway)
		},
	}
	proxy.ServeHTTP(w, r)
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{}
	list.APIVersion, list.Kind = "v1", "PodList"
	for _, p := range s.Backend.Pods() {
		list.Items = append(list.Items, *p)
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(&list); err != nil {
		s.Log.Debug("write the list of pods", "err", err)
	}
}
