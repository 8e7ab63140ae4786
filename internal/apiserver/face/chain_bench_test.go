package face

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	"coracle/internal/apiserver/bounds"
	"coracle/internal/apiserver/codec"
	"coracle/internal/apiserver/fairness"
	"coracle/internal/apiserver/gate"
)

// someone is always the same user.
type someone struct{ user.Info }

func (s someone) AuthenticateRequest(*http.Request) (*authenticator.Response, bool, error) {
	return &authenticator.Response{User: s.Info}, true, nil
}

// BenchmarkChain is what lies between the connection and the handler: request info, identity, authorization, the
// body, the deadline and the seat.
func BenchmarkChain(b *testing.B) {
	next := http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { _, _ = io.Copy(io.Discard, req.Body) })
	policy, err := fairness.Defaults(gate.MostSeats)
	if err != nil {
		b.Fatal(err)
	}
	for name, who := range map[string]user.Info{
		"admin": &user.DefaultInfo{Name: "admin", Groups: []string{"system:masters", "system:authenticated"}},
		"node":  &user.DefaultInfo{Name: "system:node:n", Groups: []string{"system:nodes", "system:authenticated"}},
	} {
		c := newChain(codec.New(), someone{who}, everything{}, next, gate.New(gate.Config{Policy: policy, MaxBody: bounds.Body}), newDrain(), slog.New(slog.DiscardHandler))
		body := strings.Repeat("x", 2000)
		// A server's request can be cancelled; its context is not the background's.
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		for method, size := range map[string]int{"GET": 0, "PUT": len(body)} {
			b.Run(name+"/"+method, func(b *testing.B) {
				w := httptest.NewRecorder()
				b.ReportAllocs()
				for b.Loop() {
					req := httptest.NewRequestWithContext(ctx, method, "/api/v1/namespaces/default/pods/p", strings.NewReader(body[:size]))
					c.ServeHTTP(w, req)
				}
			})
		}
	}
}
