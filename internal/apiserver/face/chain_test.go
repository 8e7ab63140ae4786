package face

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"coracle/internal/apiserver/bounds"
	"coracle/internal/apiserver/codec"
	"coracle/internal/apiserver/fairness"
	"coracle/internal/apiserver/gate"
)

type everything struct{}

func (everything) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

func (everything) AuthenticateRequest(*http.Request) (*authenticator.Response, bool, error) {
	return &authenticator.Response{User: &user.DefaultInfo{Name: "u"}}, true, nil
}

func bareChain(next http.HandlerFunc) *chain {
	policy, err := fairness.Defaults(gate.MostSeats)
	if err != nil {
		panic(err)
	}
	entrance := gate.New(gate.Config{Policy: policy, MaxBody: bounds.Body})
	return newChain(codec.New(), everything{}, everything{}, next, entrance, newDrain(), slog.New(slog.NewTextHandler(io.Discard, nil)))
}

func ask(c *chain, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	c.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

func TestPanicIsAnswered(t *testing.T) {
	c := bareChain(func(http.ResponseWriter, *http.Request) { panic("oops") })
	if w := ask(c, "/api/v1/pods"); w.Code != http.StatusInternalServerError {
		t.Errorf("status %d", w.Code)
	}
	if n, _ := c.gate.Load(); n != 0 {
		t.Errorf("%d seats taken after the panic", n)
	}
}

// TestTooManyAtOnce: a level that has no queues, which is where a user of no group ends up, refuses at once.
func TestTooManyAtOnce(t *testing.T) {
	release := make(chan struct{})
	c := bareChain(func(http.ResponseWriter, *http.Request) { <-release })
	refused := make(chan *httptest.ResponseRecorder, 2*gate.MostSeats)
	var all sync.WaitGroup
	for range gate.MostSeats {
		all.Go(func() {
			if w := ask(c, "/api/v1/pods"); w.Code != http.StatusOK {
				refused <- w
			}
		})
	}
	select {
	case w := <-refused:
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "TooManyRequests") {
			t.Errorf("status %d %v %s", w.Code, w.Header(), w.Body)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("%d requests are served at once, and none is refused", gate.MostSeats)
	}
	close(release)
	all.Wait()
	if w := ask(c, "/api/v1/pods"); w.Code != http.StatusOK {
		t.Errorf("status %d when all have gone", w.Code)
	}
}

func TestDrainWaitsForShortRequestsAndCutsLongOnes(t *testing.T) {
	begun, release := make(chan struct{}, 2), make(chan struct{})
	c := bareChain(func(_ http.ResponseWriter, req *http.Request) {
		begun <- struct{}{}
		if req.URL.Query().Has("watch") {
			<-req.Context().Done()
			return
		}
		<-release
	})
	var long, short sync.WaitGroup
	long.Go(func() { ask(c, "/api/v1/pods?watch=1") })
	short.Go(func() { ask(c, "/api/v1/pods") })
	<-begun
	<-begun
	idle := c.drain.start()
	long.Wait()
	select {
	case <-idle:
		t.Error("idle while a request is served")
	default:
	}
	if w := ask(c, "/api/v1/pods"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("a late request got %d", w.Code)
	}
	close(release)
	short.Wait()
	<-idle
}
