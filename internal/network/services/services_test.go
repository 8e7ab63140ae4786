package services

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/network/nft"
	"coracle/internal/network/proxy"
)

// TestClusterIP: pods and the node reach a service's endpoints at its address, all of them, as themselves; a pod reaches
// itself; and what leads nowhere is refused at once.
func TestClusterIP(t *testing.T) {
	inMachine(t, func(w *world) {
		a, ipA := w.sandbox("a")
		b, ipB := w.sandbox("b")
		client, ipClient := w.sandbox("client")
		for path, name := range map[string]string{a: "a", b: "b"} {
			w.serve(path, "tcp4", ":8080", name)
			w.serve(path, "udp4", ":8053", name)
		}
		web := service("web", "10.96.0.10", port("http", corev1.ProtocolTCP, 80), port("dns", corev1.ProtocolUDP, 53))
		both := slice("web", "http", corev1.ProtocolTCP, 8080, ipA, ipB)
		w.put(web, service("empty", "10.96.0.11", port("", corev1.ProtocolTCP, 80), port("u", corev1.ProtocolUDP, 80)), both,
			slice("web", "dns", corev1.ProtocolUDP, 8053, ipA))
		w.settle()

		seen := map[string]int{}
		for range 64 {
			name, saw, err := w.ask(client, "tcp4", "10.96.0.10:80")
			if err != nil {
				t.Error(err)
				break
			}
			if saw != ipClient.String() {
				t.Errorf("the endpoint sees %s, not the client", saw)
			}
			seen[name]++
		}
		if seen["a"] == 0 || seen["b"] == 0 {
			t.Errorf("connections went to %v", seen)
		}
		w.want(client, "udp4", "10.96.0.10:53", "a")
		w.want("", "udp4", "10.96.0.10:53", "a")
		for _, refused := range []string{"10.96.0.11:80", "10.96.0.10:81", "10.96.77.7:80"} {
			for _, from := range []string{client, ""} {
				w.wantRefused(from, "tcp4", refused)
				w.wantRefused(from, "udp4", refused)
			}
		}

		w.put(slice("web", "http", corev1.ProtocolTCP, 8080, ipA))
		w.settle()
		for range 16 {
			w.want(client, "tcp4", "10.96.0.10:80", "a")
			w.want("", "tcp4", "10.96.0.10:80", "a")
		}
		if saw := w.want(a, "tcp4", "10.96.0.10:80", "a"); saw != w.net.Gateway().String() {
			t.Errorf("a pod that reaches itself sees %s", saw)
		}

		w.drop(both)
		w.settle()
		w.wantRefused(client, "tcp4", "10.96.0.10:80")
		w.drop(web)
		w.settle()
		w.wantRefused(client, "udp4", "10.96.0.10:53")
	})
}

// TestNodePort: a node port leads from outside, from pods and from the node, at each address of the node and at 127.0.0.1,
// over TCP and UDP. What else listens at the node's loopback address stays out of the pods' reach.
func TestNodePort(t *testing.T) {
	inMachine(t, func(w *world) {
		out := w.outside()
		a, ipA := w.sandbox("a")
		client, _ := w.sandbox("client")
		w.serve(a, "tcp4", ":8080", "a")
		w.serve(a, "udp4", ":8053", "a")
		w.serve("", "tcp4", "127.0.0.1:9000", "secret")
		w.serve("", "udp4", "127.0.0.1:9000", "secret")
		web := service("web", "10.96.0.10", port("http", corev1.ProtocolTCP, 80), port("dns", corev1.ProtocolUDP, 53))
		web.Spec.Type = corev1.ServiceTypeNodePort
		web.Spec.Ports[0].NodePort, web.Spec.Ports[1].NodePort = 30080, 30080
		empty := service("empty", "10.96.0.11", port("", corev1.ProtocolTCP, 80))
		empty.Spec.Type, empty.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30081
		w.put(web, empty, slice("web", "http", corev1.ProtocolTCP, 8080, ipA), slice("web", "dns", corev1.ProtocolUDP, 8053, ipA))
		w.settle()
		gateway := w.net.Gateway().String()
		for _, network := range []string{"tcp4", "udp4"} {
			if saw := w.want(out, network, "192.0.2.1:30080", "a"); saw != gateway {
				t.Errorf("%s: who comes from outside is seen as %s, so the answer need not come back here", network, saw)
			}
			for _, from := range []string{client, ""} {
				w.want(from, network, "192.0.2.1:30080", "a")
				w.want(from, network, gateway+":30080", "a")
			}
			w.want("", network, "127.0.0.1:30080", "a")
			w.want("", network, "127.7.7.7:30080", "a")
			w.want("", network, "127.0.0.1:9000", "secret")
		}
		for _, at := range []string{"192.0.2.1:30081", "192.0.2.1:30082"} {
			w.wantRefused(out, "tcp4", at)
			w.wantRefused(client, "tcp4", at)
			w.wantRefused("", "tcp4", at)
		}
		w.wantRefused("", "tcp4", "127.0.0.1:30081")
		w.loopbackClosed(client)
	})
}

// TestAPI: the kubernetes service leads to a server that listens at the node's loopback address, and to nothing else there.
func TestAPI(t *testing.T) {
	inMachine(t, func(w *world) {
		w.stop()
		w.cfg.API = netip.MustParseAddrPort("127.0.0.1:6443")
		w.start()
		client, ipClient := w.sandbox("client")
		w.serve("", "tcp4", "127.0.0.1:6443", "server")
		w.serve("", "tcp4", "127.0.0.1:9000", "secret")
		w.put(service("kubernetes", "10.96.0.1", port("https", corev1.ProtocolTCP, 443)),
			slice("kubernetes", "https", corev1.ProtocolTCP, 6443, netip.MustParseAddr("198.51.100.7")))
		w.settle()
		if saw := w.want(client, "tcp4", "10.96.0.1:443", "server"); saw != ipClient.String() {
			t.Errorf("the server sees %s", saw)
		}
		w.want("", "tcp4", "10.96.0.1:443", "server")
		w.wantRefused(client, "tcp4", "10.96.0.1:9000")
		w.loopbackClosed(client)
	})
}

// loopbackClosed: a pod that has a route for the node's loopback addresses does not get there.
func (w *world) loopbackClosed(client string) {
	w.t.Helper()
	err := w.in(client, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(lo, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if err := netlink.AddrDel(lo, &a); err != nil {
				return err
			}
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0o644); err != nil {
			return err
		}
		_, local, _ := net.ParseCIDR("127.0.0.0/8")
		return netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: local, Gw: w.net.Gateway().AsSlice()})
	})
	if err != nil {
		w.t.Fatal(err)
	}
	defer func(d time.Duration) { w.patience = d }(w.patience)
	w.patience = 100 * time.Millisecond
	for _, at := range []string{"127.0.0.1:9000", "127.0.0.9:9000"} {
		if name, _, err := w.ask(client, "udp4", at); err == nil {
			w.t.Errorf("a pod reaches the node's loopback address %s: %s", at, name)
		}
	}
}

// TestChangeCostsItself: one endpoint more or less is a few elements, whatever else there is.
func TestChangeCostsItself(t *testing.T) {
	inMachine(t, func(w *world) {
		many(w, 300, 4)
		w.settle()
		before := w.router.written.Load()
		sl := slice("s-7", "http", corev1.ProtocolTCP, 8080, address(7, 0), address(7, 1), address(7, 2), address(9999, 1))
		w.put(sl)
		w.settle()
		if n := w.router.written.Load() - before; n != 2 {
			t.Errorf("another endpoint in place of one wrote %d elements, want 2", n)
		}
	})
}

// many puts services with endpoints into the snapshot.
func many(w *world, services, endpoints int) {
	for i := range services {
		name := fmt.Sprintf("s-%d", i)
		ips := make([]netip.Addr, endpoints)
		for j := range ips {
			ips[j] = address(i, j)
		}
		w.put(service(name, fmt.Sprintf("10.96.%d.%d", 1+i/250, 1+i%250), port("http", corev1.ProtocolTCP, 80)),
			slice(name, "http", corev1.ProtocolTCP, 8080, ips...))
	}
}

// address is of no pod of the node.
func address(i, j int) netip.Addr {
	return netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), byte(j + 1)})
}

// TestRestart: a new agent takes the table as it finds it: what is right is not touched, what has changed meanwhile is.
func TestRestart(t *testing.T) {
	inMachine(t, func(w *world) {
		a, ipA := w.sandbox("a")
		b, ipB := w.sandbox("b")
		w.serve(a, "tcp4", ":8080", "a")
		w.serve(b, "tcp4", ":8080", "b")
		many(w, 50, 3)
		local := service("web", "10.96.0.10", port("http", corev1.ProtocolTCP, 80))
		local.Spec.Type, local.Spec.Ports[0].NodePort = corev1.ServiceTypeLoadBalancer, 30080
		local.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		local.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.1"}}
		local.Spec.LoadBalancerSourceRanges = []string{"10.244.0.0/16", "0.0.0.0/32"}
		w.put(local, slice("web", "http", corev1.ProtocolTCP, 8080, ipA))
		w.settle()
		w.want("", "tcp4", "10.96.0.10:80", "a")
		w.stop()
		w.start()
		w.settle()
		if n := w.router.written.Load(); n != 0 {
			t.Errorf("an agent that finds all as it should be writes %d elements", n)
		}
		w.stop()
		w.put(slice("web", "http", corev1.ProtocolTCP, 8080, ipB))
		w.drop(service("s-3", ""), slice("s-3", "http", corev1.ProtocolTCP, 8080))
		w.start()
		w.settle()
		w.want("", "tcp4", "10.96.0.10:80", "b")
		w.wantRefused("", "tcp4", "10.96.1.4:80")
		if n := w.router.written.Load(); n == 0 || n > 20 {
			t.Errorf("two changes during the restart wrote %d elements", n)
		}
	})
}

// TestDamage: whatever somebody else does to the table, it is put right within a second.
func TestDamage(t *testing.T) {
	inMachine(t, func(w *world) {
		a, ipA := w.sandbox("a")
		w.serve(a, "tcp4", ":8080", "a")
		w.put(service("web", "10.96.0.10", port("http", corev1.ProtocolTCP, 80)), slice("web", "http", corev1.ProtocolTCP, 8080, ipA))
		w.settle()
		other, err := nft.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		table := w.cfg.table()
		w.patience = 50 * time.Millisecond // what is on its way while there is no table is lost
		for name, damage := range map[string]func(*nft.Batch){
			"table deleted":   func(b *nft.Batch) { b.DeleteTable() },
			"element deleted": func(b *nft.Batch) { b.Delete("services", nft.Element{Key: destinationKey}) },
			"rule added":      func(b *nft.Batch) { b.AddRule("pass", accept()...) },
			"chain added":     func(b *nft.Batch) { b.AddChain("intruder", nil) },
		} {
			begin := time.Now()
			b := nft.NewBatch(table)
			damage(b)
			if err := other.Commit(b); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for {
				got, _, _ := w.ask("", "tcp4", "10.96.0.10:80")
				if got == "a" && w.router.rebuilt.Load() > 0 {
					break
				}
				if time.Since(begin) > time.Second {
					t.Fatalf("%s: it is not put right within a second", name)
				}
			}
			w.router.rebuilt.Store(0)
			w.settle()
		}
	})
}

var destinationKey = []byte{10, 96, 0, 10, unix.IPPROTO_TCP, 0, 0, 0, 0, 80, 0, 0}

// TestDatagrams: a client that goes on sending from one socket is led elsewhere within 50 ms when its endpoint goes.
func TestDatagrams(t *testing.T) {
	inMachine(t, func(w *world) {
		out := w.outside()
		a, ipA := w.sandbox("a")
		b, ipB := w.sandbox("b")
		client, _ := w.sandbox("client")
		w.serve(a, "udp4", ":8053", "a")
		w.serve(b, "udp4", ":8053", "b")
		dns := service("dns", "10.96.0.10", port("", corev1.ProtocolUDP, 53))
		dns.Spec.Type, dns.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30053
		w.put(dns, slice("dns", "", corev1.ProtocolUDP, 8053, ipA))
		w.settle()
		var asks []func() string
		for from, to := range map[string]string{client: "10.96.0.10:53", out: "192.0.2.1:30053", "": "127.0.0.1:30053"} {
			asks = append(asks, w.socket(from, to))
		}
		for _, ask := range asks {
			if got := ask(); got != "a" {
				t.Fatalf("at first %q answers", got)
			}
		}
		// Whose turn it is on a busy machine is chance: the best of several counts.
		best := time.Hour
		for i := range 6 {
			ip, name := ipB, "b"
			if i%2 == 1 {
				ip, name = ipA, "a"
			}
			w.put(slice("dns", "", corev1.ProtocolUDP, 8053, ip))
			begin := time.Now()
			w.settle()
			best = min(best, time.Since(begin))
			for i, ask := range asks {
				if got := ask(); got != name {
					t.Errorf("client %d is answered by %q, not %s", i, got, name)
				}
			}
		}
		if best > 50*time.Millisecond {
			t.Errorf("connections end %s after their endpoint", best)
		}
	})
}

// socket asks over one socket, again and again.
func (w *world) socket(path, to string) func() string {
	w.t.Helper()
	var conn net.Conn
	err := w.in(path, func() (err error) {
		conn, err = net.Dial("udp4", to)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return func() string {
		buf := make([]byte, 64)
		_ = conn.SetDeadline(time.Now().Add(w.patience))
		if _, err := conn.Write([]byte("?")); err != nil {
			return err.Error()
		}
		n, err := conn.Read(buf)
		if err != nil {
			return err.Error()
		}
		name, _, _ := strings.Cut(string(buf[:n]), " ")
		return name
	}
}

// TestSticky: a client stays with its endpoint as long as there is one, and is led elsewhere at once when there is not.
func TestSticky(t *testing.T) {
	inMachine(t, func(w *world) {
		web := service("web", "10.96.0.10", port("", corev1.ProtocolTCP, 80))
		web.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		var ips []netip.Addr
		for _, name := range []string{"a", "b", "c"} {
			path, ip := w.sandbox(name)
			w.serve(path, "tcp4", ":8080", name)
			ips = append(ips, ip)
		}
		client, _ := w.sandbox("client")
		w.put(web, slice("web", "", corev1.ProtocolTCP, 8080, ips...))
		w.settle()
		if nft, err := exec.LookPath("nft"); err == nil {
			// The tools of the machine's owner must be able to read what is in the kernel.
			if out, err := exec.Command(nft, "list", "table", w.cfg.Table).CombinedOutput(); err != nil {
				t.Errorf("nft cannot list the table: %v: %s", err, out)
			}
		}
		first, _, err := w.ask(client, "tcp4", "10.96.0.10:80")
		if err != nil {
			t.Fatal(err)
		}
		for range 32 {
			w.want(client, "tcp4", "10.96.0.10:80", first)
		}
		at := int(first[0] - 'a')
		w.put(slice("web", "", corev1.ProtocolTCP, 8080, slices.Delete(slices.Clone(ips), at, at+1)...))
		w.settle()
		second, _, err := w.ask(client, "tcp4", "10.96.0.10:80")
		if err != nil || second == first {
			t.Fatalf("after %s has gone: %q, %v", first, second, err)
		}
		w.put(slice("web", "", corev1.ProtocolTCP, 8080, ips...))
		w.settle()
		for range 32 {
			w.want(client, "tcp4", "10.96.0.10:80", second)
		}
	})
}

// TestNothingLeft: ten thousand services that came and went leave no element and no chain behind.
func TestNothingLeft(t *testing.T) {
	inMachine(t, func(w *world) {
		w.settle()
		before := w.elements()
		for _, endpoints := range []int{1, 3} {
			fill(w, 10000, endpoints)
			w.settle()
			if n := w.elements() - before; n < 10000*(1+endpoints) {
				t.Errorf("10000 services of %d endpoints are %d elements", endpoints, n)
			}
		}
		fill(w, 0, 0)
		w.settle()
		if after := w.elements(); after != before {
			t.Errorf("%d elements before, %d after", before, after)
		}
	})
}

// elements counts all that the kernel holds.
func (w *world) elements() (n int) {
	w.t.Helper()
	s, err := nft.Open()
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	for _, set := range wires[proxy.IPv4].sets() {
		if err := s.Elements(w.cfg.table(), set.Name, func(nft.Element) error { n++; return nil }); err != nil {
			w.t.Fatal(err)
		}
	}
	return n
}
