package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/logs"
)

// backend knows one pod, ns/web, with one container, main.
type backend struct {
	log   string
	ended chan struct{}
}

func (b *backend) Log(namespace, pod, ctr string, previous bool) (string, <-chan struct{}, error) {
	if previous {
		return "", nil, Refuse(http.StatusBadRequest, "previous terminated container %q in pod %q not found", ctr, pod)
	}
	if _, err := b.Container(namespace, pod, "", ctr); err != nil {
		return "", nil, err
	}
	return b.log, b.ended, nil
}

func (b *backend) Container(namespace, pod string, uid types.UID, ctr string) (string, error) {
	if namespace != "ns" || pod != "web" || ctr != "main" || (uid != "" && uid != "u") {
		return "", Refuse(http.StatusNotFound, "container not found (%q)", ctr)
	}
	return "id-main", nil
}

func (b *backend) Sandbox(namespace, pod string, _ types.UID) (string, error) {
	return "box-" + pod, nil
}

func (b *backend) Pods() []*corev1.Pod {
	return []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "web"}}}
}

// runtime answers streaming requests with a URL that shows what was asked.
type runtime struct {
	runtimeapi.RuntimeServiceClient
	url string
}

func (r *runtime) at(kind string, req any) string {
	return r.url + "/" + kind + "?asked=" + url.QueryEscape(strings.Join(strings.Fields(fmt.Sprint(req)), " "))
}

func (r *runtime) Exec(_ context.Context, req *runtimeapi.ExecRequest, _ ...grpc.CallOption) (*runtimeapi.ExecResponse, error) {
	if req.Cmd[0] == "refused" {
		return nil, status.Error(codes.InvalidArgument, "one of stdin, stdout, or stderr must be set")
	}
	return &runtimeapi.ExecResponse{Url: r.at("exec", fmt.Sprint(req.ContainerId, req.Cmd, req.Stdin, req.Stdout, req.Stderr, req.Tty))}, nil
}

func (r *runtime) Attach(_ context.Context, req *runtimeapi.AttachRequest, _ ...grpc.CallOption) (*runtimeapi.AttachResponse, error) {
	return &runtimeapi.AttachResponse{Url: r.at("attach", fmt.Sprint(req.ContainerId, req.Stdin, req.Stdout, req.Stderr, req.Tty))}, nil
}

func (r *runtime) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest, _ ...grpc.CallOption) (*runtimeapi.PortForwardResponse, error) {
	return &runtimeapi.PortForwardResponse{Url: r.at("portforward", fmt.Sprint(req.PodSandboxId, req.Port))}, nil
}

func newFace(t *testing.T) (*Server, *backend) {
	t.Helper()
	streaming := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprintf(w, "%s %s", r.URL.Path, r.URL.Query().Get("asked"))
			return
		}
		// A stream: switch protocols and echo one line.
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		buf.Flush()
		line, _ := buf.ReadString('\n')
		fmt.Fprintf(buf, "echo %s", line)
		buf.Flush()
	}))
	t.Cleanup(streaming.Close)
	b := &backend{log: filepath.Join(t.TempDir(), "0.log"), ended: make(chan struct{})}
	if err := os.WriteFile(b.log, []byte("2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Server{Backend: b, Runtime: &runtime{url: streaming.URL}, Log: slog.New(slog.DiscardHandler)}, b
}

// as makes a request look as if it came with a verified certificate.
func as(name, group string, req *http.Request) *http.Request {
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: []string{group}}}
	req.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}
	return req
}

func TestWhoMayCall(t *testing.T) {
	s, _ := newFace(t)
	for name, c := range map[string]struct {
		req    *http.Request
		status int
	}{
		"the API server":    {as("coracle-apiserver", "", httptest.NewRequest("GET", "/pods", nil)), 200},
		"an administrator":  {as("admin", "system:masters", httptest.NewRequest("GET", "/pods", nil)), 200},
		"another node":      {as("system:node:two", "system:nodes", httptest.NewRequest("GET", "/pods", nil)), 403},
		"nobody":            {httptest.NewRequest("GET", "/pods", nil), 401},
		"nobody, of health": {httptest.NewRequest("GET", "/healthz", nil), 200},
	} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, c.req)
		if w.Code != c.status {
			t.Errorf("%s: %d, want %d", name, w.Code, c.status)
		}
	}
}

func TestRoutes(t *testing.T) {
	s, _ := newFace(t)
	for _, c := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/containerLogs/ns/web/main", 200, "one\ntwo\n"},
		{"GET", "/containerLogs/ns/web/main?tailLines=1&timestamps=true", 200, "2026-01-01T00:00:02Z two\n"},
		{"GET", "/containerLogs/ns/web/main?stream=Stdout", 200, "one\n"},
		{"GET", "/containerLogs/ns/web/main?sinceTime=2026-01-01T00:00:02Z", 200, "two\n"},
		{"GET", "/containerLogs/ns/web/main?previous=true", 400, "previous terminated container \"main\" in pod \"web\" not found\n"},
		{"GET", "/containerLogs/ns/web/main?tailLines=-1", 400, "invalid tailLines \"-1\": give a whole number of at least 0\n"},
		{"GET", "/containerLogs/ns/web/main?sinceTime=soon", 400, "invalid sinceTime \"soon\": give an RFC 3339 time\n"},
		{"GET", "/containerLogs/ns/web/other", 404, "container not found (\"other\")\n"},
		{"POST", "/exec/ns/web/main?command=sh&command=-c&input=1&output=1&error=1", 200, "/exec id-main[sh -c] true true true false"},
		{"POST", "/exec/ns/web/main?command=sh&input=1&output=1&error=1&tty=1", 200, "/exec id-main[sh] true true false true"},
		{"GET", "/exec/ns/web/u/main?command=sh&stdout=true", 200, "/exec id-main[sh] false true false false"},
		{"POST", "/exec/ns/web/stale/main?command=sh", 404, "container not found (\"main\")\n"},
		{"POST", "/exec/ns/web/main", 400, "command: Required value: say what to execute, as command=WORD for each word\n"},
		{"POST", "/exec/ns/web/main?command=&output=1", 400, "command: Required value: say what to execute, as command=WORD for each word\n"},
		{"POST", "/exec/ns/web/main?command=refused", 400, "rpc error: code = InvalidArgument desc = one of stdin, stdout, or stderr must be set\n"},
		{"POST", "/attach/ns/web/main?output=1", 200, "/attach id-mainfalse true false false"},
		{"POST", "/portForward/ns/web?port=80&port=8080", 200, "/portforward box-web[80 8080]"},
		{"POST", "/portForward/ns/web?port=80000", 400, "invalid port \"80000\"\n"},
		{"GET", "/nothing", 404, "404 page not found\n"},
	} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, as("coracle-apiserver", "", httptest.NewRequest(c.method, c.path, nil)))
		if diff := cmp.Diff(fmt.Sprint(c.status, " ", c.body), fmt.Sprint(w.Code, " ", w.Body.String())); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.method, c.path, diff)
		}
	}
}

// serveHandler serves over plain TCP, where upgrades can be tried.
func serveHandler(t *testing.T, s *Server) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Handler().ServeHTTP(w, as("coracle-apiserver", "", r))
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func TestUpgradesPassThrough(t *testing.T) {
	s, _ := newFace(t)
	for _, protocol := range []string{"SPDY/3.1", "websocket"} {
		conn, err := net.Dial("tcp", serveHandler(t, s))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /exec/ns/web/main?command=sh HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
		r := bufio.NewReader(conn)
		res, err := http.ReadResponse(r, nil) //nolint:bodyclose // switched protocols: the connection is closed
		if err != nil || res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != protocol {
			t.Fatalf("%s: %v %v", protocol, res, err)
		}
		fmt.Fprint(conn, "hello\n")
		if line, err := r.ReadString('\n'); err != nil || line != "echo hello\n" {
			t.Errorf("%s: %q %v", protocol, line, err)
		}
		conn.Close()
	}
}

func TestFollowedLogsArriveAsTheyAreWritten(t *testing.T) {
	s, b := newFace(t)
	res, err := http.Get("http://" + serveHandler(t, s) + "/containerLogs/ns/web/main?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	for _, want := range []string{"one\n", "two\n"} {
		if line, err := r.ReadString('\n'); err != nil || line != want {
			t.Fatalf("%q %v", line, err)
		}
	}
	f, err := os.OpenFile(b.log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprint(f, "2026-01-01T00:00:03Z stdout F three\n")
	if line, err := r.ReadString('\n'); err != nil || line != "three\n" {
		t.Fatalf("%q %v", line, err)
	}
	close(b.ended)
	if rest, err := io.ReadAll(r); err != nil || len(rest) != 0 {
		t.Errorf("after the end: %q %v", rest, err)
	}
}

func TestLogOptions(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 1, 0, 0, time.UTC)
	o, previous, err := logOptions(url.Values{"sinceSeconds": {"60"}, "limitBytes": {"9"}, "follow": {"true"}, "previous": {"1"}, "stream": {"Stderr"}}, now)
	want := logs.Options{Tail: -1, Limit: 9, Since: now.Add(-time.Minute), Follow: true, Stream: "stderr"}
	if err != nil || !previous || o != want {
		t.Errorf("%+v %v %v, want %+v", o, previous, err, want)
	}
}
