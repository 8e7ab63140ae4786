package services

import (
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"coracle/internal/network/pod"
	"coracle/internal/servicerange"
)

var six = pod.Second{
	CIDR: netip.MustParsePrefix("fd00:244:0:1::/64"), ClusterCIDR: netip.MustParsePrefix("fd00:244::/56"), Services: netip.MustParsePrefix("fd00:96::/112"),
}

// inDual runs a test on a machine whose pods have both families, with the router of IPv6.
func inDual(t *testing.T, test func(w *world)) {
	t.Helper()
	if _, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	inMachineOf(t, six, test)
}

// outside6 gives the machine beside this one IPv6 addresses too.
func (w *world) outside6() string {
	w.t.Helper()
	path := w.outside()
	w.address6("wire", "2001:db8::1/64")
	if err := w.in(path, func() error {
		w.address6("wire", "2001:db8::2/64")
		link, err := netlink.LinkByName("wire")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP("2001:db8::1")})
	}); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *world) address6(link, cidr string) {
	w.t.Helper()
	l, err := netlink.LinkByName(link)
	if err == nil {
		var addr *netlink.Addr
		if addr, err = netlink.ParseAddr(cidr); err == nil {
			addr.Flags = unix.IFA_F_NODAD
			err = netlink.AddrAdd(l, addr)
		}
	}
	if err != nil {
		w.t.Error(err)
	}
}

// TestClusterIP6: what TestClusterIP says holds of IPv6 addresses too.
func TestClusterIP6(t *testing.T) {
	inDual(t, func(w *world) {
		a, ipA := w.sandbox6("a")
		b, ipB := w.sandbox6("b")
		client, ipClient := w.sandbox6("client")
		for path, name := range map[string]string{a: "a", b: "b"} {
			w.serve(path, "tcp6", ":8080", name)
			w.serve(path, "udp6", ":8053", name)
		}
		web := service("web", "fd00:96::10", port("http", corev1.ProtocolTCP, 80), port("dns", corev1.ProtocolUDP, 53))
		both := slice("web", "http", corev1.ProtocolTCP, 8080, ipA, ipB)
		w.put(web, service("empty", "fd00:96::11", port("", corev1.ProtocolTCP, 80), port("u", corev1.ProtocolUDP, 80)), both,
			slice("web", "dns", corev1.ProtocolUDP, 8053, ipA), service("other", "10.96.0.10", port("", corev1.ProtocolTCP, 80)))
		w.settle()
		seen := map[string]int{}
		for range 64 {
			name, saw, err := w.ask(client, "tcp6", "[fd00:96::10]:80")
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
		w.want(client, "udp6", "[fd00:96::10]:53", "a")
		w.want("", "udp6", "[fd00:96::10]:53", "a")
		for _, refused := range []string{"[fd00:96::11]:80", "[fd00:96::10]:81", "[fd00:96::77]:80"} {
			for _, from := range []string{client, ""} {
				w.wantRefused(from, "tcp6", refused)
				w.wantRefused(from, "udp6", refused)
			}
		}
		w.put(slice("web", "http", corev1.ProtocolTCP, 8080, ipA))
		w.settle()
		w.want("", "tcp6", "[fd00:96::10]:80", "a")
		if saw := w.want(a, "tcp6", "[fd00:96::10]:80", "a"); saw != w.net.Gateway6().String() {
			t.Errorf("a pod that reaches itself sees %s", saw)
		}
		// A new agent finds all of it as it should be.
		w.stop()
		w.start()
		w.settle()
		if n := w.router.written.Load(); n != 0 {
			t.Errorf("a new agent writes %d elements", n)
		}
		w.drop(both, web)
		w.settle()
		w.wantRefused(client, "tcp6", "[fd00:96::10]:80")
	})
}

// TestNodePort6: a node port leads from outside, from pods and from the node, at each IPv6 address of the node.
func TestNodePort6(t *testing.T) {
	inDual(t, func(w *world) {
		out := w.outside6()
		a, ipA := w.sandbox6("a")
		client, _ := w.sandbox6("client")
		w.serve(a, "tcp6", ":8080", "a")
		w.serve(a, "udp6", ":8053", "a")
		w.serve("", "tcp6", "[::1]:9000", "secret")
		web := service("web", "fd00:96::10", port("http", corev1.ProtocolTCP, 80), port("dns", corev1.ProtocolUDP, 53))
		web.Spec.Type = corev1.ServiceTypeNodePort
		web.Spec.Ports[0].NodePort, web.Spec.Ports[1].NodePort = 30080, 30080
		empty := service("empty", "fd00:96::11", port("", corev1.ProtocolTCP, 80))
		empty.Spec.Type, empty.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30081
		w.put(web, empty, slice("web", "http", corev1.ProtocolTCP, 8080, ipA), slice("web", "dns", corev1.ProtocolUDP, 8053, ipA))
		w.settle()
		gateway := w.net.Gateway6().String()
		for _, network := range []string{"tcp6", "udp6"} {
			if saw := w.want(out, network, "[2001:db8::1]:30080", "a"); saw != gateway {
				t.Errorf("%s: who comes from outside is seen as %s, so the answer need not come back here", network, saw)
			}
			for _, from := range []string{client, ""} {
				w.want(from, network, "[2001:db8::1]:30080", "a")
				w.want(from, network, "["+gateway+"]:30080", "a")
			}
		}
		w.want("", "tcp6", "[::1]:9000", "secret")
		for _, at := range []string{"[2001:db8::1]:30081", "[2001:db8::1]:30082"} {
			w.wantRefused(out, "tcp6", at)
			w.wantRefused(client, "tcp6", at)
			w.wantRefused("", "tcp6", at)
		}
		// ::1 is the relay's: what listens there answers, whatever the services say.
		w.serve("", "tcp6", "[::1]:30081", "own")
		w.want("", "tcp6", "[::1]:30081", "own")
	})
}

// TestSourcesAndAffinity6: external addresses, those of load balancers with their ranges of clients, clients that stay with an
// endpoint, and the end of flows to one that is gone.
func TestSourcesAndAffinity6(t *testing.T) {
	inDual(t, func(w *world) {
		out := w.outside6()
		a, ipA := w.sandbox6("a")
		b, ipB := w.sandbox6("b")
		client, _ := w.sandbox6("client")
		for path, name := range map[string]string{a: "a", b: "b"} {
			w.serve(path, "tcp6", ":8080", name)
			w.serve(path, "udp6", ":8053", name)
		}
		web := service("web", "fd00:96::10", port("http", corev1.ProtocolTCP, 80), port("dns", corev1.ProtocolUDP, 53))
		web.Spec.Type, web.Spec.ExternalIPs = corev1.ServiceTypeLoadBalancer, []string{"2001:db8:9::8", "192.0.2.8"}
		web.Spec.LoadBalancerSourceRanges = []string{"2001:db8::2/128", "192.0.2.0/24"}
		web.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		web.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](60)}}
		web.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "2001:db8:9::9"}}
		w.put(web, slice("web", "http", corev1.ProtocolTCP, 8080, ipA, ipB), slice("web", "dns", corev1.ProtocolUDP, 8053, ipA, ipB))
		w.settle()
		for _, at := range []string{"[2001:db8:9::8]:80", "[2001:db8:9::9]:80"} {
			// The neighbour's route leads here, as a load balancer's announcement does.
			first, _, err := w.ask(out, "tcp6", at)
			if err != nil {
				t.Errorf("%s: %v", at, err)
				continue
			}
			for range 16 {
				w.want(out, "tcp6", at, first)
			}
		}
		w.wantSilence(client, "tcp6", "[2001:db8:9::9]:80")

		// One socket of UDP: its flow goes on to the other when its endpoint goes.
		name, _, err := w.ask(client, "udp6", "[fd00:96::10]:53")
		if err != nil {
			t.Error(err)
			return
		}
		stays, other := ipA, "a"
		if name == "a" {
			stays, other = ipB, "b"
		}
		w.put(slice("web", "dns", corev1.ProtocolUDP, 8053, stays), slice("web", "http", corev1.ProtocolTCP, 8080, stays))
		w.settle()
		w.want(client, "udp6", "[fd00:96::10]:53", other)
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V6)
		if err != nil {
			t.Error(err)
		}
		gone := map[string]netip.Addr{"a": ipA, "b": ipB}[name].String()
		for _, f := range flows {
			if f.Forward.Protocol == unix.IPPROTO_UDP && f.Reverse.SrcIP.String() == gone {
				t.Errorf("a flow to an endpoint that is gone: %s", f)
			}
		}
	})
}

// TestMoreRanges6: a range more is led, and one that the machine uses is left to it and told of.
func TestMoreRanges6(t *testing.T) {
	inDual(t, func(w *world) {
		w.outside6()
		a, ipA := w.sandbox6("a")
		w.serve(a, "tcp6", ":8080", "a")
		w.put(service("web", "fd00:97::10", port("http", corev1.ProtocolTCP, 80)), slice("web", "http", corev1.ProtocolTCP, 8080, ipA),
			moreRange("more", "fd00:97::/112", metav1.ConditionTrue), moreRange("harm", "2001:db8::/112", metav1.ConditionTrue))
		w.settle()
		w.want("", "tcp6", "[fd00:97::10]:80", "a")
		w.wantRefused("", "tcp6", "[fd00:97::11]:80")
		want := []servicerange.Left{{Range: netip.MustParsePrefix("2001:db8::/112"), Route: netip.MustParsePrefix("2001:db8::/64")}}
		if left := w.router.LeftAlone(); !slices.Equal(left, want) {
			t.Errorf("left alone: %v", left)
		}
		w.drop(moreRange("harm", "2001:db8::/112", metav1.ConditionTrue))
		w.settle()
		if left := w.router.LeftAlone(); len(left) > 0 {
			t.Errorf("left alone: %v", left)
		}
	})
}

// TestShown6: what is in the table is shown by nft(8) as what it is.
func TestShown6(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("no nft here")
	}
	inDual(t, func(w *world) {
		_, ipA := w.sandbox6("a")
		w.put(service("web", "fd00:96::10", port("http", corev1.ProtocolTCP, 80)), slice("web", "http", corev1.ProtocolTCP, 8080, ipA))
		w.settle()
		out, err := exec.Command("nft", "list", "table", "ip6", w.cfg.Table).CombinedOutput()
		if want := "fd00:96::10 . tcp . 80 . 0x00000000 : " + ipA.String() + " . 8080"; err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%v; want %q in\n%s", err, want, out)
		}
	})
}
