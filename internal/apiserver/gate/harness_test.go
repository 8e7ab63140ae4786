package gate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"coracle/internal/apiserver/fairness"
)

// most is the largest body of these tests.
const most = 1 << 20

// door is a gate behind an HTTP/1 server, on connections that are pipes: all of it lives in virtual time.
type door struct {
	*Gate
	t       *testing.T
	next    http.HandlerFunc
	dialled chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

// open starts a door, inside of a synctest bubble. Who asks is the header User, what is asked is the path's last word.
func open(t *testing.T, next http.HandlerFunc) *door {
	t.Helper()
	policy, err := fairness.Defaults(MostSeats)
	if err != nil {
		t.Fatal(err)
	}
	d := &door{
		Gate: New(Config{Policy: policy, MaxBody: most}), t: t, next: next,
		dialled: make(chan net.Conn), closed: make(chan struct{}),
	}
	connections := NewConnections(d, 10_000)
	server := &http.Server{Handler: d, ConnState: connections.State, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(connections) // it ends with the test
	}()
	t.Cleanup(func() {
		_ = server.Close() // as above
		<-done
		time.Sleep(time.Second) // the server's own patience with connections that it has closed
		synctest.Wait()
		if running, waiting := d.Load(); running != 0 || waiting != 0 {
			t.Errorf("%d seats are taken and %d requests wait at the end", running, waiting)
		}
	})
	return d
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.dialled:
		return c, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (d *door) Close() error { d.once.Do(func() { close(d.closed) }); return nil }

// Addr implements net.Listener.
func (d *door) Addr() net.Addr { return &net.TCPAddr{} }

// ServeHTTP does what the chain does around a gate.
func (d *door) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name := req.Header.Get("User")
	groups := []string{"system:authenticated"}
	switch {
	case name == "admin":
		groups = append(groups, "system:masters")
	case strings.HasPrefix(name, "system:serviceaccount:"):
		groups = append(groups, "system:serviceaccounts")
	case strings.HasPrefix(name, "system:node:"):
		groups = append(groups, "system:nodes")
	}
	verb := req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:]
	info := &request.RequestInfo{IsResourceRequest: true, Verb: verb, APIVersion: "v1", Resource: "pods", Namespace: "default"}
	if verb == "exec" {
		info.Verb, info.Subresource = "create", "exec"
	}
	long := verb == "watch" || verb == "exec"
	v, err := d.Begin(req.Context(), w, req, long, verb == "watch")
	defer v.End()
	if err == nil {
		req = req.WithContext(v.Context())
		req.Body = v.Body(req)
		err = v.Serve(w, req, &user.DefaultInfo{Name: name, Groups: groups}, info, d.next)
	}
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		s := status.Status()
		if s.Details != nil && s.Details.RetryAfterSeconds > 0 {
			w.Header().Set("Retry-After", fmt.Sprint(s.Details.RetryAfterSeconds))
		}
		http.Error(w, string(s.Reason)+": "+s.Message, int(s.Code))
	} else if err != nil {
		d.t.Errorf("not a Status error: %v", err)
	}
}

// caller is a client's end of a connection.
type caller struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (d *door) dial() *caller {
	d.t.Helper()
	near, far := net.Pipe()
	d.dialled <- far
	d.t.Cleanup(func() { near.Close() })
	return &caller{d.t, near, bufio.NewReader(near)}
}

// ask writes a request's head.
func (c *caller) ask(user, verb string, headers ...string) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c, "POST /%s HTTP/1.1\r\nHost: x\r\nUser: %s\r\n%s\r\n", verb, user, strings.Join(append(headers, ""), "\r\n")); err != nil {
		c.t.Fatal(err)
	}
}

// answer reads a whole answer.
func (c *caller) answer() (int, string, http.Header) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(raw), resp.Header
}

func (c *caller) want(code int, text string) {
	c.t.Helper()
	if got, body, _ := c.answer(); got != code || !strings.Contains(body, text) {
		c.t.Errorf("answer %d %q, want %d %q", got, body, code, text)
	}
}

const pod = "system:serviceaccount:a:default"
