package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestHTTP(t *testing.T) {
	var seen http.Header
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) { seen = r.Header.Clone(); seen.Set("Host", r.Host) })
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) })
	mux.HandleFunc("/there", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/bad", http.StatusFound) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) { // until the prober has enough
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	plain, secure := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	defer plain.Close()
	defer secure.Close()
	base, err := url.Parse(plain.URL)
	if err != nil {
		t.Fatal(err)
	}
	target := Target{PodIP: base.Hostname(), Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(portOf(t, base.Host))}}}
	for name, c := range map[string]struct {
		get  corev1.HTTPGetAction
		want Result
	}{
		"by number":     {corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromInt(portOf(t, base.Host))}, Result{OK: true}},
		"by name":       {corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("web"), HTTPHeaders: []corev1.HTTPHeader{{Name: "Host", Value: "example.com"}, {Name: "X-A", Value: "1"}}}, Result{OK: true}},
		"refused":       {corev1.HTTPGetAction{Path: "/bad", Port: intstr.FromString("web")}, Result{Message: "HTTP probe failed with statuscode: 503"}},
		"redirect":      {corev1.HTTPGetAction{Path: "/there", Port: intstr.FromString("web")}, Result{Message: "HTTP probe failed with statuscode: 503"}},
		"redirect away": {corev1.HTTPGetAction{Path: "/away", Port: intstr.FromString("web")}, Result{OK: true}},
		"endless":       {corev1.HTTPGetAction{Path: "/endless", Port: intstr.FromString("web")}, Result{OK: true}},
		"over TLS":      {corev1.HTTPGetAction{Path: "/ok", Scheme: corev1.URISchemeHTTPS, Port: intstr.FromInt(portOf(t, secure.Listener.Addr().String()))}, Result{OK: true}},
	} {
		got := Once(t.Context(), &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &c.get}, TimeoutSeconds: 10}, target)
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		if name == "by name" && (seen.Get("Host") != "example.com" || seen.Get("X-A") != "1" || !strings.HasPrefix(seen.Get("User-Agent"), "kube-probe/")) {
			t.Errorf("headers: %v", seen)
		}
	}
	slow := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/slow", Port: intstr.FromString("web")}}, TimeoutSeconds: 1}
	if got := Once(t.Context(), slow, target); got.OK || got.Unknown || !strings.Contains(got.Message, "deadline exceeded") {
		t.Errorf("slow: %+v", got)
	}
}

func TestTCPAndGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, state := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, state)
	go func() { _ = srv.Serve(l) }()
	defer srv.Stop()
	target := Target{PodIP: "127.0.0.1"}
	port := portOf(t, l.Addr().String())
	state.SetServingStatus("db", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	db := "db"
	ask := func(h corev1.ProbeHandler) Result {
		return Once(t.Context(), &corev1.Probe{ProbeHandler: h, TimeoutSeconds: 10}, target)
	}
	if got := ask(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(port)}}); !got.OK {
		t.Errorf("tcp: %+v", got)
	}
	if got := ask(corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port)}}); !got.OK {
		t.Errorf("grpc: %+v", got)
	}
	if got := ask(corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port), Service: &db}}); got.Message != `service unhealthy (responded with "NOT_SERVING")` {
		t.Errorf("grpc of a service: %+v", got)
	}
	srv.Stop()
	if got := ask(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(port)}}); got.OK || !strings.Contains(got.Message, "connection refused") {
		t.Errorf("tcp to nobody: %+v", got)
	}
}

func TestExec(t *testing.T) {
	answer := func(out string, code int32, err error) Result {
		return Once(t.Context(), &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}, Target{
			Exec: func(context.Context, []string, time.Duration) (string, int32, error) { return out, code, err },
		})
	}
	for name, c := range map[string]struct{ got, want Result }{
		"well":       {answer("", 0, nil), Result{OK: true}},
		"ill":        {answer("ouch", 2, nil), Result{Message: "ouch"}},
		"impossible": {answer("", 0, errors.New("no such container")), Result{Unknown: true, Message: "no such container", Killed: true}},
		"no runtime": {answer("", 0, fmt.Errorf("dial: %w", ErrAway)), Result{Unknown: true}},
	} {
		if c.got != c.want {
			t.Errorf("%s: %+v, want %+v", name, c.got, c.want)
		}
	}
}

// TestFollow: thresholds and rhythm, in virtual time.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		answers := []int32{0, 1, 1, 0, 1, 1, 1, 0, 0}
		var got []string
		p := &corev1.Probe{
			ProbeHandler:        corev1.ProbeHandler{Exec: &corev1.ExecAction{}},
			InitialDelaySeconds: 5, PeriodSeconds: 10, FailureThreshold: 3, SuccessThreshold: 2,
		}
		n := 0
		Follow(t.Context(), p, Target{Exec: func(context.Context, []string, time.Duration) (string, int32, error) {
			time.Sleep(time.Second / 2) // a slow answer does not shift the rhythm
			n++
			return "", answers[n-1], nil
		}}, func(r Report) bool {
			got = append(got, fmt.Sprintf("%s ok=%v decided=%v", time.Since(began), r.OK, r.Decided))
			return n == len(answers)
		})
		want := []string{
			"5.5s ok=true decided=false", "15.5s ok=false decided=false", "25.5s ok=false decided=false", "35.5s ok=true decided=false",
			"45.5s ok=false decided=false", "55.5s ok=false decided=false", "1m5.5s ok=false decided=true", "1m15.5s ok=true decided=false", "1m25.5s ok=true decided=true",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestPort(t *testing.T) {
	ports := []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}
	for _, c := range []struct {
		port intstr.IntOrString
		want int
		ok   bool
	}{
		{intstr.FromInt(80), 80, true}, {intstr.FromString("web"), 8080, true}, {intstr.FromString("81"), 81, true}, {intstr.FromString("none"), 0, false},
	} {
		if got, err := Port(c.port, ports); got != c.want || (err == nil) != c.ok {
			t.Errorf("%v: %d %v", c.port, got, err)
		}
	}
}
