package services

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"coracle/internal/network/nft"
)

// journal is a log that is read while it is written.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// TestDeletedTableIsTold: whoever deletes the table finds it said in the log, by name, and the table back within a second.
func TestDeletedTableIsTold(t *testing.T) {
	inMachine(t, func(w *world) {
		w.stop()
		log := &journal{}
		w.cfg.Log = slog.New(slog.NewTextHandler(log, nil))
		w.start()
		a, ipA := w.sandbox("a")
		w.serve(a, "tcp4", ":8080", "a")
		w.put(service("web", "10.96.0.10", port("http", corev1.ProtocolTCP, 80)), slice("web", "http", corev1.ProtocolTCP, 8080, ipA))
		w.settle()
		if strings.Contains(log.String(), "somebody else") {
			t.Fatalf("before anybody has: %s", log)
		}
		other, err := nft.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		b := nft.NewBatch(w.cfg.table())
		b.DeleteTable()
		begin := time.Now()
		if err := other.Commit(b); err != nil {
			t.Fatal(err)
		}
		w.patience = 50 * time.Millisecond
		for name := ""; name != "a"; name, _, _ = w.ask("", "tcp4", "10.96.0.10:80") {
			if time.Since(begin) > time.Second {
				t.Fatal("it is not put right within a second")
			}
		}
		if said := log.String(); !strings.Contains(said, "somebody else changed the table of services") || !strings.Contains(said, "table=services-test") {
			t.Errorf("the log says %s", said)
		}
	})
}

// TestOverlap: of two services that want one node port, or one address, the elder has it, and the younger gets it when that
// has gone; nothing else of either is touched.
func TestOverlap(t *testing.T) {
	inMachine(t, func(w *world) {
		for i, name := range []string{"young", "old"} {
			path, ip := w.sandbox(name)
			w.serve(path, "tcp4", ":8080", name)
			s := service(name, fmt.Sprintf("10.96.0.%d", 10+i), port("http", corev1.ProtocolTCP, 80))
			s.Spec.Type, s.Spec.Ports[0].NodePort, s.Spec.ExternalIPs = corev1.ServiceTypeNodePort, 30080, []string{"192.0.2.1"}
			s.CreationTimestamp.Time = time.Unix(int64(100-i), 0)
			w.put(s, slice(name, "http", corev1.ProtocolTCP, 8080, ip))
		}
		out := w.outside()
		w.settle()
		for range 8 {
			w.want(out, "tcp4", "192.0.2.1:30080", "old")
			w.want(out, "tcp4", "192.0.2.1:80", "old")
			w.want("", "tcp4", "10.96.0.10:80", "young")
			w.want("", "tcp4", "10.96.0.11:80", "old")
		}
		w.drop(service("old", ""), slice("old", "http", corev1.ProtocolTCP, 8080))
		w.settle()
		w.want(out, "tcp4", "192.0.2.1:30080", "young")
		w.want(out, "tcp4", "192.0.2.1:80", "young")
		w.wantRefused("", "tcp4", "10.96.0.11:80")
	})
}

// TestNonsense: slices that somebody wrote by hand, with addresses and ports that lead nowhere or where they should not,
// change nothing for others, and come and go without a trace. What is at the node's loopback address stays out of reach.
func TestNonsense(t *testing.T) {
	inMachine(t, func(w *world) {
		a, ipA := w.sandbox("a")
		client, _ := w.sandbox("client")
		w.serve(a, "tcp4", ":8080", "a")
		w.serve("", "tcp4", "127.0.0.1:9000", "secret")
		w.address("lo", "192.0.2.1/32")
		w.serve("", "tcp4", "192.0.2.1:9000", "node")
		web := slice("web", "http", corev1.ProtocolTCP, 8080, ipA)
		w.put(service("web", "10.96.0.10", port("http", corev1.ProtocolTCP, 80)), web)
		w.settle()
		before := w.elements()
		bad := service("bad", "10.96.0.66", port("http", corev1.ProtocolTCP, 80))
		bad.Spec.Type, bad.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30066
		w.put(bad)
		for _, text := range []string{"127.0.0.1", "127.0.0.9", "0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.1.1", "::1", "fe80::1", "nonsense", ""} {
			for _, number := range []int32{9000, 0, -1, 70000} {
				sl := slice("bad", "http", corev1.ProtocolTCP, number, netip.Addr{})
				sl.Endpoints[0].Addresses = []string{text}
				w.put(sl)
				w.settle()
				if name, _, err := w.askBriefly(client, "10.96.0.66:80"); err == nil {
					t.Errorf("%s:%d leads to %s", text, number, name)
				}
			}
		}
		// A cluster IP as an endpoint does not go round in circles; the node's own address is as good as any.
		for text, want := range map[string]string{"10.96.0.66": "", "10.96.0.10": "", "192.0.2.1": "node"} {
			sl := slice("bad", "http", corev1.ProtocolTCP, 9000, netip.MustParseAddr(text))
			w.put(sl)
			w.settle()
			if name, _, _ := w.askBriefly(client, "10.96.0.66:80"); name != want {
				t.Errorf("an endpoint %s leads to %q, want %q", text, name, want)
			}
			w.want(client, "tcp4", "10.96.0.10:80", "a")
		}
		w.put(&discoveryv1.EndpointSlice{ObjectMeta: slice("bad", "http", corev1.ProtocolTCP, 1).ObjectMeta, AddressType: discoveryv1.AddressTypeIPv4,
			Ports: []discoveryv1.EndpointPort{{}, {Name: ptr.To("http")}}, Endpoints: []discoveryv1.Endpoint{{}, {Addresses: []string{"10.244.1.9", "x"}}}})
		w.settle()
		w.drop(bad, slice("bad", "http", corev1.ProtocolTCP, 1))
		w.settle()
		if after := w.elements(); after != before {
			t.Errorf("%d elements before, %d after", before, after)
		}
		if w.router.rebuilt.Load() > 0 || !w.router.Right() {
			t.Error("the table was written anew for it, or is not right")
		}
	})
}

func (w *world) askBriefly(from, to string) (name, saw string, err error) {
	defer func(d time.Duration) { w.patience = d }(w.patience)
	w.patience = 100 * time.Millisecond
	return w.ask(from, "tcp4", to)
}

// TestEverything: a service that selects every pod of a large cluster costs its own endpoints once, and then each change.
func TestEverything(t *testing.T) {
	inMachine(t, func(w *world) {
		all := service("all", "10.96.0.10", port("http", corev1.ProtocolTCP, 80))
		all.Spec.Type, all.Spec.Ports[0].NodePort, all.Spec.SessionAffinity = corev1.ServiceTypeNodePort, 30080, corev1.ServiceAffinityClientIP
		w.put(all)
		const slices, each = 100, 100
		part := func(i, leave int) *discoveryv1.EndpointSlice {
			var ips []netip.Addr
			for j := leave; j < each; j++ {
				ips = append(ips, address(i, j))
			}
			sl := slice("all", "http", corev1.ProtocolTCP, 8080, ips...)
			sl.Name = fmt.Sprintf("all-%d", i)
			return sl
		}
		for i := range slices {
			w.put(part(i, 0))
		}
		w.settle()
		if n := w.elements(); n < slices*each {
			t.Errorf("%d endpoints are %d elements", slices*each, n)
		}
		before := w.router.written.Load()
		w.put(part(50, 1))
		w.settle()
		if n := w.router.written.Load() - before; n > 20 {
			t.Errorf("one endpoint less of %d wrote %d elements", slices*each, n)
		}
	})
}

// TestAnyService: whatever the objects say, in the snapshot and out of it again, the table stays right and ends empty.
func TestAnyService(t *testing.T) {
	inMachine(t, func(w *world) {
		w.settle()
		before := w.elements()
		rapid.Check(t, func(rt *rapid.T) {
			number := rapid.Int32Range(-1, 65537)
			text := rapid.SampledFrom([]string{"10.96.0.10", "10.96.0.11", "None", "", "192.0.2.1", "x", "127.0.0.1", "fd00::1", "255.255.255.255"})
			for range rapid.IntRange(1, 6).Draw(rt, "services") {
				name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name")
				s := service(name, text.Draw(rt, "ip"), port("", corev1.ProtocolTCP, number.Draw(rt, "port")), port("u", "UDP", 53), port("z", "NONE", 1))
				s.Spec.Type = rapid.SampledFrom([]corev1.ServiceType{"", "NodePort", "LoadBalancer", "ExternalName", "Other"}).Draw(rt, "type")
				s.Spec.Ports[0].NodePort, s.Spec.HealthCheckNodePort = number.Draw(rt, "node port"), number.Draw(rt, "health")
				s.Spec.ExternalIPs = []string{text.Draw(rt, "external")}
				s.Spec.ExternalTrafficPolicy = rapid.SampledFrom([]corev1.ServiceExternalTrafficPolicy{"", "Local", "x"}).Draw(rt, "policy")
				s.Spec.LoadBalancerSourceRanges = []string{rapid.SampledFrom([]string{"", "10.0.0.0/8", "10.1.0.0/16", "x/8", "0.0.0.0/0"}).Draw(rt, "source"), "10.1.2.0/24"}
				s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: text.Draw(rt, "balancer")}, {IP: text.Draw(rt, "balancer 2")}}
				w.put(s)
				sl := slice(name, "", corev1.ProtocolTCP, number.Draw(rt, "target"), netip.MustParseAddr("10.244.1.9"))
				sl.Endpoints[0].Addresses = []string{text.Draw(rt, "endpoint")}
				w.put(sl)
			}
			w.settle()
			if !w.router.Right() {
				rt.Fatal("the kernel does not take it")
			}
		})
		for _, name := range []string{"a", "b", "c"} {
			w.drop(service(name, ""), slice(name, "", corev1.ProtocolTCP, 1))
		}
		w.settle()
		if after := w.elements(); after != before || w.router.rebuilt.Load() > 0 {
			t.Errorf("%d elements before, %d after, %d times written anew", before, after, w.router.rebuilt.Load())
		}
	})
}
