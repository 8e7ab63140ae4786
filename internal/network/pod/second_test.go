package pod

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"coracle/internal/network/nstest"
)

func dualConfig(t *testing.T, bridge, cidr, cidr6 string) Config {
	c := config(t, bridge, cidr)
	c.IPv6 = Second{CIDR: netip.MustParsePrefix(cidr6), ClusterCIDR: netip.MustParsePrefix("fd00:244::/56"), Services: netip.MustParsePrefix("fd00:96::/112")}
	return c
}

func needsIPv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("this kernel has no IPv6: ", err)
	}
	l.Close()
}

// addresses6 are the IPv6 addresses in a namespace, but for loopback.
func addresses6(t *testing.T, path string) (out []string) {
	t.Helper()
	at(t, path, func() error {
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
		for _, a := range addrs {
			if !a.IP.IsLoopback() {
				out = append(out, a.IPNet.String())
			}
			if a.Flags&unix.IFA_F_TENTATIVE != 0 {
				t.Errorf("%s is tentative", a.IPNet)
			}
		}
		return err
	})
	return out
}

// TestSecondFamily: pods reach each other by IPv6 at once, as themselves, on one node and on two, and others as the node; a port
// of the host's leads to a pod by both families; pods have no address of their link's own, and get the same again.
func TestSecondFamily(t *testing.T) {
	needsIPv6(t)
	nstest.Run(t, func() {
		cfg := dualConfig(t, "cora", "10.244.0.0/24", "fd00:244::/64")
		a, b := mustOpen(t, cfg), mustOpen(t, dualConfig(t, "corb", "10.244.1.0/24", "fd00:244:0:1::/64"))
		defer b.Close()
		one, two, three := sandbox(t, "one"), sandbox(t, "two"), sandbox(t, "three")
		at1, at2, at3 := mustAttach(t, a, one, "one"), mustAttach(t, a, two, "two"), mustAttach(t, b, three, "three")
		if at1.IP.String() != "10.244.0.2" || at1.IP6.String() != "fd00:244::2" || at1.Gateway6.String() != "fd00:244::1" || at3.IP6.String() != "fd00:244:0:1::2" {
			t.Errorf("attached %+v, %+v", at1, at3)
		}
		if got := addresses6(t, one); !cmp.Equal(got, []string{"fd00:244::2/128"}) {
			t.Errorf("the pod has %v", got)
		}
		for name, c := range map[string]struct {
			path string
			ip   netip.Addr
		}{"same node": {two, at2.IP6}, "other node": {three, at3.IP6}} {
			if got := talk(t, c.path, netip.AddrPortFrom(c.ip, 80), one); got != at1.IP6 {
				t.Errorf("%s: server saw %s, want %s", name, got, at1.IP6)
			}
		}
		away, _, _ := outside(t)
		add := func(link, cidr string) error {
			l, err := netlink.LinkByName(link)
			if err != nil {
				return err
			}
			addr, err := netlink.ParseAddr(cidr)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			return netlink.AddrAdd(l, addr)
		}
		if err := add("up0", "2001:db8::1/64"); err != nil {
			t.Fatal(err)
		}
		at(t, away, func() error { return add("up1", "2001:db8::2/64") })
		if got := talk(t, away, netip.MustParseAddrPort("[2001:db8::2]:80"), one); got.String() != "2001:db8::1" {
			t.Errorf("outside saw %s, want the host", got)
		}

		serveAt(t, two, netip.AddrPortFrom(at2.IP6, 80))
		if err := a.Publish("two", []Port{{HostPort: 8080, ContainerPort: 80}, {HostPort: 8081, ContainerPort: 80, HostIP: netip.MustParseAddr("2001:db8::77")}}); err != nil {
			t.Fatal(err)
		}
		for from, path := range map[string]string{"outside": away, "a pod": one, "the pod": two, "the host": ""} {
			if got := ask(t, path, netip.MustParseAddrPort("[2001:db8::1]:8080")); got == "" {
				t.Errorf("%s does not reach the port of the host", from)
			}
		}
		if got := ask(t, away, netip.MustParseAddrPort("[2001:db8::1]:8081")); got != "" {
			t.Errorf("a port of another address of the host leads: %q", got)
		}

		a.Close()
		a = mustOpen(t, cfg)
		defer a.Close()
		if again := mustAttach(t, a, one, "one"); again.IP6 != at1.IP6 {
			t.Errorf("attached again: %+v", again)
		}
		if err := a.Detach("two"); err != nil {
			t.Fatal(err)
		}
		neighbours, err := netlink.NeighList(0, netlink.FAMILY_V6)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range neighbours {
			if n.IP.String() == at2.IP6.String() && n.State&netlink.NUD_PERMANENT != 0 {
				t.Error("the node still knows where the pod was")
			}
		}
	})
}

// TestSecondFamilyLeavesNoTrace: a network of two families changes of the machine what it puts back, and a link that takes what
// routers advertise goes on with it meanwhile.
func TestSecondFamilyLeavesNoTrace(t *testing.T) {
	needsIPv6(t)
	nstest.Run(t, func() {
		outside(t)
		settled := func() bool { // its own link-local address is no longer tentative
			addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
			for _, a := range addrs {
				if a.Flags&unix.IFA_F_TENTATIVE != 0 {
					return false
				}
			}
			return err == nil && len(addrs) > 0
		}
		for end := time.Now().Add(10 * time.Second); !settled(); <-time.After(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the link's own address is not ready")
			}
		}
		const path = "/proc/sys/net/ipv6/conf/up0/accept_ra"
		if err := os.WriteFile(path, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
		cfg := dualConfig(t, "cora", "10.244.0.0/24", "fd00:244::/64")
		before := machine(t, cfg.CIDR)
		n := mustOpen(t, cfg)
		if raw, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(raw)) != "2" {
			t.Errorf("accept_ra of the machine's link is %q, %v: it loses its routers", raw, err)
		}
		one, two := sandbox(t, "one"), sandbox(t, "two")
		mustAttach(t, n, one, "one")
		at2 := mustAttach(t, n, two, "two")
		talk(t, two, netip.AddrPortFrom(at2.IP6, 80), one)
		if err := n.Destroy(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, machine(t, cfg.CIDR)); diff != "" {
			t.Errorf("(-before +after):\n%s", diff)
		}
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET6)
		if err != nil {
			t.Log(err)
		}
		for _, f := range flows {
			if a, ok := netip.AddrFromSlice(f.Forward.SrcIP); ok && cfg.IPv6.CIDR.Contains(a) {
				t.Errorf("remembered: %s", f)
			}
		}
	})
}

// TestSecondRefused: what cannot be a second family, and a machine without IPv6, by name.
func TestSecondRefused(t *testing.T) {
	for _, c := range []struct{ cidr, cluster, want string }{
		{"fd00:244::/121", "fd00:244::/56", "at least as many addresses as 10.244.0.0/24"},
		{"10.245.0.0/24", "fd00:244::/56", "give an IPv6 range"},
		{"fd00:245::/64", "fd00:244::/56", "it must contain the node's range"},
	} {
		cfg := config(t, "cora", "10.244.0.0/24")
		cfg.IPv6 = Second{CIDR: netip.MustParsePrefix(c.cidr), ClusterCIDR: netip.MustParsePrefix(c.cluster)}
		if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s of %s: %v", c.cidr, c.cluster, err)
		}
	}
	if err := set6("nolink", "accept_ra", "0"); !errors.Is(err, ErrNoIPv6) || !strings.Contains(err.Error(), "create the cluster with IPv4 ranges alone") {
		t.Error(err)
	}
}
