package fuzz

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"coracle/internal/apiserver"
	"coracle/internal/apiserver/authn"
	"coracle/internal/apiserver/bounds"
	"coracle/internal/pki"
	"coracle/internal/store"
)

// token is the administrator's.
const token = "fuzz"

// Request is one request, in full.
type Request struct {
	Method, Path, Query string
	Format              string // Content-Type
	Accept              string
	Header              http.Header
	Body                []byte
}

// String shows a request, cut where it is long.
func (r Request) String() string {
	path := r.Path
	if r.Query != "" {
		path += "?" + r.Query
	}
	return fmt.Sprintf("%s %s [%s] %v %d bytes: %s", r.Method, cut(path, 300), cut(r.Format, 80), r.Header, len(r.Body),
		cut(fmt.Sprintf("%q", r.Body), 600))
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n*2/3] + " ... " + s[len(s)-n/3:]
}

// size is what a client paid for a request, in bytes.
func (r Request) size() int {
	n := len(r.Path) + len(r.Query) + len(r.Format) + len(r.Accept) + len(r.Body)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v)
		}
	}
	return n
}

// Outcome is what a request led to.
type Outcome struct {
	Code int
	Body []byte
	// Allocated is what the process allocated meanwhile, in bytes; CPU what it computed, the collector's share included.
	Allocated int
	CPU, Wall time.Duration
	// Left says that the client did not wait for the end.
	Left bool
}

// Server is an API server in this process, without a listener, on a store in memory.
type Server struct {
	handler http.Handler
	// panics counts the panics that the server caught.
	panics atomic.Int64
}

// NewServer starts a server; end ends it.
func NewServer(ca *pki.Authority) (s *Server, end func(), err error) {
	st, err := store.Open(store.Config{})
	if err != nil {
		return nil, nil, fmt.Errorf("fuzz: %w", err)
	}
	s = &Server{}
	api, err := apiserver.New(apiserver.Config{
		Store: st, PKI: ca,
		Advertise:   netip.MustParseAddrPort("127.0.0.1:1"),
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
		Tokens:      map[string]authn.User{token: {Name: "admin", Groups: []string{pki.MastersGroup}}},
		Log:         slog.New(listener{s}),
	})
	if err != nil {
		st.Close()
		return nil, nil, fmt.Errorf("fuzz: %w", err)
	}
	s.handler = api.Handler()
	return s, func() { st.Close() }, nil
}

// listener hears of the panics that a server has caught.
type listener struct{ s *Server }

func (l listener) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }
func (l listener) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l listener) WithGroup(string) slog.Handler                    { return l }
func (l listener) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "panic") {
		l.s.panics.Add(1)
	}
	return nil
}

// recorder is a client that stays: upstream's watches want to be told when it goes.
type recorder struct{ *httptest.ResponseRecorder }

// CloseNotify implements http.CloseNotifier.
func (recorder) CloseNotify() <-chan bool { return nil }

// watchTime is how long a watch may last: it sends what is there, and is left.
const watchTime = 20 * time.Millisecond

// Do serves a request and measures it. Nothing else may run meanwhile.
func (s *Server) Do(r Request) Outcome {
	req, err := http.NewRequest(r.Method, "http://fuzz"+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return Outcome{Code: http.StatusBadRequest} // net/http would not have parsed it either
	}
	req.RequestURI, req.RemoteAddr = req.URL.RequestURI(), "192.0.2.1:1"
	req.URL.RawQuery = r.Query
	for name, values := range r.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if r.Format != "" {
		req.Header.Set("Content-Type", r.Format)
	}
	if r.Accept != "" {
		req.Header.Set("Accept", r.Accept)
	}
	ctx := req.Context()
	if strings.Contains(r.Query, "watch") || strings.Contains(r.Path, "/watch") {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, watchTime)
		defer cancel()
	}
	w := recorder{httptest.NewRecorder()}
	memory, cpu, began := allocated(), computed(), time.Now()
	s.handler.ServeHTTP(w, req.WithContext(ctx))
	return Outcome{
		Code: w.Code, Body: w.Body.Bytes(),
		Allocated: int(allocated() - memory), CPU: computed() - cpu, Wall: time.Since(began), Left: ctx.Err() != nil,
	}
}

// allocated returns how much the process has allocated since it began, in bytes.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// computed returns how long the process has computed since it began.
func computed() time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		return 0
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// What a request may compute: a constant, for the costliest merge that bounds.Work allows, and a share for each
// byte of it.
const (
	computeBase    = 5 * time.Second
	computePerByte = 2 * time.Microsecond
)

// Judge returns what is wrong with an outcome, "" if nothing is. stored is what the server holds, in bytes, as an
// answer may have to tell all of it.
func (s *Server) Judge(r Request, o Outcome, stored int) string {
	n := r.size()
	switch {
	case s.panics.Swap(0) > 0:
		return "a panic was caught"
	case o.Code == http.StatusGatewayTimeout && o.Left:
		return "" // nobody was there to read it
	case o.Code == http.StatusGatewayTimeout && bytes.Contains(o.Body, []byte("ResourceVersionTooLarge")):
		return "" // upstream's answer to a revision that is still to come, by which clients know to try again
	case o.Code >= 500:
		return fmt.Sprintf("status %d: %s", o.Code, cut(string(o.Body), 600))
	case o.Code >= 400 && r.Method != http.MethodHead && !isStatus(o.Body):
		return fmt.Sprintf("status %d without a Status that says why: %s", o.Code, cut(string(o.Body), 600))
	case o.Allocated > bounds.Base+bounds.PerByte*n+10*stored:
		return fmt.Sprintf("%.1f MB allocated for a request of %d bytes (status %d)", float64(o.Allocated)/1e6, n, o.Code)
	case o.CPU > computeBase+computePerByte*time.Duration(n):
		return fmt.Sprintf("%v computed for a request of %d bytes (status %d)", o.CPU, n, o.Code)
	}
	return ""
}

// isStatus says whether an answer is a Status with a message, in whatever form was asked for.
func isStatus(body []byte) bool {
	if bytes.HasPrefix(body, bounds.ProtobufMagic) {
		return bytes.Contains(body, []byte("Status"))
	}
	var status struct{ Kind, Message string }
	if json.Unmarshal(body, &status) == nil {
		return status.Kind == "Status" && status.Message != ""
	}
	return bytes.Contains(body, []byte("kind: Status"))
}
