package services

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"coracle/internal/network/healthcheck"
	"coracle/internal/network/pod"
	"coracle/internal/network/proxy"
	"coracle/internal/network/relay"
)

// inHost runs a function on a thread of the test's machine, for those whose goroutines are elsewhere.
func (w *world) inHost(f func() error) error { return w.in(w.host, f) }

// TestLoopback6: a node port leads from ::1, over TCP and UDP, for as long as it leads anywhere; what else listens there stays
// what it is.
func TestLoopback6(t *testing.T) {
	if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip("this kernel has no IPv6: ", err)
	} else {
		l.Close()
	}
	t.Run("IPv4 services", func(t *testing.T) { testLoopback6(t, pod.Second{}, "10.96.0.") })
	t.Run("IPv6 services", func(t *testing.T) { testLoopback6(t, six, "fd00:96::") })
}

func testLoopback6(t *testing.T, second pod.Second, services string) {
	inMachineOf(t, second, func(w *world) {
		w.stop()
		passing := relay.New(slog.New(slog.NewTextHandler(t.Output(), nil)), w.inHost)
		defer passing.Close()
		w.cfg.Leads = func(at netip.Addr, port uint16, protocol uint8, leads bool) {
			if protocol != proxy.SCTP {
				passing.Set(relay.Port{Number: port, UDP: protocol == proxy.UDP}, at, leads)
			}
		}
		w.start()
		a, both := w.attach("a")
		ipA := both.IP
		if second.CIDR.IsValid() {
			ipA = both.IP6
		}
		w.serve(a, "tcp", ":8080", "a")
		w.serve(a, "udp", ":8053", "a")
		w.serve("", "tcp6", "[::1]:30099", "node")
		web := service("web", services+"10", port("http", corev1.ProtocolTCP, 80), port("dns", corev1.ProtocolUDP, 53))
		web.Spec.Type = corev1.ServiceTypeNodePort
		web.Spec.Ports[0].NodePort, web.Spec.Ports[1].NodePort = 30080, 30080
		http, dns := slice("web", "http", corev1.ProtocolTCP, 8080, ipA), slice("web", "dns", corev1.ProtocolUDP, 8053, ipA)
		taken := service("taken", services+"11", port("http", corev1.ProtocolTCP, 80))
		taken.Spec.Type, taken.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30099
		w.put(web, http, dns, taken, slice("taken", "http", corev1.ProtocolTCP, 8080, ipA))
		w.settle()
		for range 3 {
			w.want("", "tcp6", "[::1]:30080", "a")
			w.want("", "udp6", "[::1]:30080", "a")
		}
		w.want("", "tcp6", "[::1]:30099", "node")
		w.half("[::1]:30080")

		w.drop(http)
		w.settle()
		w.wantRefused("", "tcp6", "[::1]:30080")
		w.want("", "udp6", "[::1]:30080", "a")
		w.put(http)
		w.settle()
		w.want("", "tcp6", "[::1]:30080", "a")
		w.stop()
		w.start() // a new agent, whose table is as it was, learns which ports lead
		passing.Close()
		passing = relay.New(slog.New(slog.DiscardHandler), w.inHost)
		w.put(slice("web", "http", corev1.ProtocolTCP, 8080, ipA))
		w.settle()
		w.drop(web)
		w.settle()
		w.wantRefused("", "tcp6", "[::1]:30080")
		w.wantRefused("", "udp6", "[::1]:30080")
	})
}

// half: the client's end of its sending is passed on, and what comes after it is still received.
func (w *world) half(address string) {
	w.t.Helper()
	conn, err := net.DialTimeout("tcp6", address, w.patience)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(w.patience))
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		w.t.Error(err)
	}
	if all, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(all), "a ") {
		w.t.Errorf("after the client's end comes %q, %v", all, err)
	}
}

// health asks at a health check port of the node.
func (w *world) health(from string, port int) (code int, header http.Header, body []byte, err error) {
	err = w.in(from, func() error {
		conn, err := net.DialTimeout("tcp4", fmt.Sprintf("192.0.2.1:%d", port), w.patience)
		if err != nil {
			return err
		}
		client := http.Client{Timeout: w.patience, Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }, DisableKeepAlives: true,
		}}
		res, err := client.Get("http://node/healthz")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		code, header = res.StatusCode, res.Header
		body, err = io.ReadAll(res.Body)
		return err
	})
	return code, header, body, err
}

// TestHealthCheck: a load balancer hears from outside whether the machine has ready endpoints, in upstream's words.
func TestHealthCheck(t *testing.T) {
	inMachine(t, func(w *world) {
		out := w.outside()
		links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			t.Fatal(err)
		}
		defer links.Close()
		server := healthcheck.New(healthcheck.Config{
			Node: nodeName, Snapshot: w.snapshot, Ready: w.ready, Routed: func() bool { return w.router.Right() },
			Here: healthcheck.Machine(links, "cor-"), In: w.inHost, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
		defer w.run(server.Run)()
		web := balanced("web", "10.96.0.10", port("http", corev1.ProtocolTCP, 80))
		web.Spec.ExternalTrafficPolicy, web.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, 32000
		ours, theirs := netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("10.244.9.7")
		sl := slice("web", "http", corev1.ProtocolTCP, 8080, ours)
		w.put(web, sl)
		w.settle()
		w.answers(out, 32000, http.StatusOK, 1)

		twice := slice("web", "https", corev1.ProtocolTCP, 8443, ours, netip.MustParseAddr("10.244.1.8"))
		sibling := "two"
		twice.Endpoints[1].NodeName = &sibling // whose pods are on this machine
		w.put(twice)
		w.settle()
		w.answers(out, 32000, http.StatusOK, 2)

		for name, change := range map[string]func(*discoveryv1.EndpointSlice){
			"elsewhere": func(s *discoveryv1.EndpointSlice) {
				s.Endpoints[0].NodeName, s.Endpoints[0].Addresses = &sibling, []string{theirs.String()}
			},
			"not ready": func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Conditions.Ready = new(bool) },
		} {
			next := sl.DeepCopy()
			change(next)
			w.drop(twice)
			w.put(next)
			w.settle()
			t.Log(name)
			w.answers(out, 32000, http.StatusServiceUnavailable, 0)
		}
		moved := web.DeepCopy()
		moved.Spec.HealthCheckNodePort = 32001
		w.put(moved, sl)
		w.settle()
		w.answers(out, 32001, http.StatusOK, 1)
		w.refuses(out, 32000)
		cluster := moved.DeepCopy()
		cluster.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
		w.put(cluster)
		w.refuses(out, 32001)
	})
}

// run runs a shell beside the test, and returns what ends it.
func (w *world) run(f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		f(ctx)
	}()
	return func() {
		cancel()
		<-over
	}
}

// answers waits until the health check port answers so, and looks at the whole answer.
func (w *world) answers(from string, port, code, endpoints int) {
	w.t.Helper()
	var got int
	var header http.Header
	var body []byte
	var err error
	for end := time.Now().Add(w.patience); time.Now().Before(end); {
		if got, header, body, err = w.health(from, port); err == nil && got == code {
			break
		}
	}
	var plain bytes.Buffer
	if e := json.Compact(&plain, body); e != nil {
		w.t.Errorf("the body is no JSON: %q", body)
	}
	want := fmt.Sprintf(`{"service":{"namespace":"default","name":"web"},"localEndpoints":%d,"serviceProxyHealthy":true}`, endpoints)
	if err != nil || got != code || plain.String() != want {
		w.t.Errorf("%d: %s, %v; want %d: %s", got, &plain, err, code, want)
		return
	}
	for key, want := range map[string]string{
		"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "X-Load-Balancing-Endpoint-Weight": fmt.Sprint(endpoints),
	} {
		if header.Get(key) != want {
			w.t.Errorf("%s: %q, want %q", key, header.Get(key), want)
		}
	}
}

func (w *world) refuses(from string, port int) {
	w.t.Helper()
	var err error
	for end := time.Now().Add(w.patience); time.Now().Before(end); {
		if _, _, _, err = w.health(from, port); errors.Is(err, unix.ECONNREFUSED) {
			return
		}
	}
	w.t.Errorf("port %d: %v, want a refusal", port, err)
}
