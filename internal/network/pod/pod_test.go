package pod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"coracle/internal/filetree/scratch"
	"coracle/internal/network/nstest"
)

// sandbox makes a network namespace held open by a bind mount, and returns its path.
func sandbox(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(scratch.Dir(t), name)
	nstest.Hold(t, path)
	return path
}

// at runs f on a thread inside the namespace at path.
func at(t *testing.T, path string, f func() error) {
	t.Helper()
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.GetFromPath(path)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	if err := <-result; err != nil {
		t.Errorf("in %s: %v", filepath.Base(path), err)
	}
}

func config(t *testing.T, bridge, cidr string) Config {
	return Config{
		Bridge: bridge, CIDR: netip.MustParsePrefix(cidr), ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"),
		StateDir: t.TempDir(), NFTable: "test-" + bridge, MTU: 1400, SettingsDir: filepath.Join(t.TempDir(), "coracle", "settings"),
	}
}

func mustOpen(t *testing.T, cfg Config) *Network {
	t.Helper()
	n, err := Open(cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return n
}

func mustAttach(t *testing.T, n *Network, path, id string) Attachment {
	t.Helper()
	got, err := n.Attach(context.Background(), path, id)
	if err != nil {
		t.Fatalf("Attach %s: %v", id, err)
	}
	return got
}

// talk serves one connection in a namespace and dials it from another, and returns the address
// the server saw.
func talk(t *testing.T, server string, addr netip.AddrPort, client string) (from netip.Addr) {
	t.Helper()
	var l net.Listener
	at(t, server, func() (err error) {
		l, err = net.Listen("tcp", addr.String())
		return err
	})
	if t.Failed() {
		return
	}
	defer l.Close()
	seen := make(chan netip.Addr, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			close(seen)
			return
		}
		defer c.Close()
		seen <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
	}()
	at(t, client, func() error {
		c, err := net.DialTimeout("tcp", addr.String(), 5*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
	if t.Failed() {
		return
	}
	return <-seen
}

func TestPodsReachEachOther(t *testing.T) {
	nstest.Run(t, func() {
		a := mustOpen(t, config(t, "cora", "10.244.0.0/24"))
		b := mustOpen(t, config(t, "corb", "10.244.1.0/24"))
		defer a.Close()
		defer b.Close()
		one, two, three := sandbox(t, "one"), sandbox(t, "two"), sandbox(t, "three")
		at1, at2, at3 := mustAttach(t, a, one, "one"), mustAttach(t, a, two, "two"), mustAttach(t, b, three, "three")

		want := Attachment{
			Interface: "eth0", IP: netip.MustParseAddr("10.244.0.2"), Gateway: netip.MustParseAddr("10.244.0.1"),
			MAC: net.HardwareAddr{0x0a, 0x58, 10, 244, 0, 2}, MTU: 1400,
		}
		if diff := cmp.Diff(want, at1, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("attachment (-want +got):\n%s", diff)
		}
		if got := talk(t, two, netip.AddrPortFrom(at2.IP, 80), one); got != at1.IP {
			t.Errorf("same node: server saw %s, want %s", got, at1.IP)
		}
		if got := talk(t, three, netip.AddrPortFrom(at3.IP, 80), one); got != at1.IP {
			t.Errorf("other node: server saw %s, want %s: no masquerading inside the cluster", got, at1.IP)
		}
		if got := talk(t, one, netip.MustParseAddrPort("127.0.0.1:80"), one); got != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("loopback: %s", got)
		}
	})
}

// outside joins a namespace to the host by a veth, as a neighbour that knows no route to pods.
func outside(t *testing.T) (path string, ip netip.Addr, host netip.Addr) {
	t.Helper()
	path, ip, host = sandbox(t, "outside"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.1")
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "up1", PeerNamespace: netlink.NsFd(ns)}); err != nil {
		t.Fatal(err)
	}
	configure := func(name string, ip netip.Addr) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(ip, 24)}), netlink.LinkSetUp(l))
	}
	if err := configure("up0", host); err != nil {
		t.Fatal(err)
	}
	at(t, path, func() error { return configure("up1", ip) })
	return path, ip, host
}

func TestTrafficThatLeavesIsMasqueraded(t *testing.T) {
	nstest.Run(t, func() {
		n := mustOpen(t, config(t, "cora", "10.244.0.0/24"))
		defer n.Close()
		one := sandbox(t, "one")
		mustAttach(t, n, one, "one")
		path, ip, host := outside(t)
		if got := talk(t, path, netip.AddrPortFrom(ip, 80), one); got != host {
			t.Errorf("outside saw %s, want the host's %s", got, host)
		}
	})
}

// dropForward makes what Docker makes of iptables' FORWARD chain.
func dropForward(t *testing.T) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	policy := nftables.ChainPolicyDrop
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
	c.AddChain(&nftables.Chain{
		Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &policy,
	})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

func foreignRules(t *testing.T) int {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}
	rules, err := c.GetRules(table, &nftables.Chain{Name: "FORWARD", Table: table})
	if err != nil {
		t.Fatal(err)
	}
	return len(rules)
}

func TestForwardDropPolicyOfOthers(t *testing.T) {
	nstest.Run(t, func() {
		dropForward(t)
		cfgA, cfgB := config(t, "cora", "10.244.0.0/24"), config(t, "corb", "10.244.1.0/24")
		a, b := mustOpen(t, cfgA), mustOpen(t, cfgB)
		defer b.Close()
		one, two, three := sandbox(t, "one"), sandbox(t, "two"), sandbox(t, "three")
		mustAttach(t, a, one, "one")
		to2, to3 := mustAttach(t, a, two, "two"), mustAttach(t, b, three, "three")
		talk(t, two, netip.AddrPortFrom(to2.IP, 80), one)
		talk(t, three, netip.AddrPortFrom(to3.IP, 80), one)
		a.Close()
		a = mustOpen(t, cfgA) // again: the rules must not pile up
		if got := foreignRules(t); got != 4 {
			t.Errorf("rules in FORWARD after reopening: %d, want 2 for each bridge", got)
		}
		if err := a.Destroy(); err != nil {
			t.Errorf("Destroy: %v", err)
		}
		if got := foreignRules(t); got != 2 {
			t.Errorf("rules in FORWARD after Destroy: %d, want only the other bridge's 2", got)
		}
	})
}

func TestReopenKeepsPods(t *testing.T) {
	nstest.Run(t, func() {
		cfg := config(t, "cora", "10.244.0.0/24")
		n := mustOpen(t, cfg)
		one, two := sandbox(t, "one"), sandbox(t, "two")
		at1, at2 := mustAttach(t, n, one, "one"), mustAttach(t, n, two, "two")
		n.Close()
		n = mustOpen(t, cfg)
		defer n.Close()
		if again := mustAttach(t, n, one, "one"); again.IP != at1.IP {
			t.Errorf("address after reopening: %s, want %s", again.IP, at1.IP)
		}
		talk(t, two, netip.AddrPortFrom(at2.IP, 80), one)
		if got := len(n.Sandboxes()); got != 2 {
			t.Errorf("Sandboxes: %d, want 2", got)
		}
		// The namespace vanished with its link (a crash, a reboot): the address stays.
		fresh := sandbox(t, "fresh")
		if got := mustAttach(t, n, fresh, "one"); got.IP != at1.IP {
			t.Errorf("address in a new namespace: %s, want %s", got.IP, at1.IP)
		}
		talk(t, fresh, netip.AddrPortFrom(at1.IP, 80), two)
	})
}

func TestDetachAndDestroy(t *testing.T) {
	nstest.Run(t, func() {
		cfg := config(t, "cora", "10.244.0.0/24")
		n := mustOpen(t, cfg)
		one := sandbox(t, "one")
		first := mustAttach(t, n, one, "one")
		for range 2 {
			if err := n.Detach("one"); err != nil {
				t.Fatalf("Detach: %v", err)
			}
		}
		if err := n.Detach("never"); err != nil {
			t.Errorf("Detach of an unknown sandbox: %v", err)
		}
		if again := mustAttach(t, n, one, "other"); again.IP == first.IP {
			t.Errorf("address %s was used again at once", again.IP)
		}
		if err := n.Destroy(); err != nil {
			t.Fatalf("Destroy: %v", err)
		}
		links, err := netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if l.Type() == "bridge" || l.Type() == "veth" {
				t.Errorf("left behind: %s %s", l.Type(), l.Attrs().Name)
			}
		}
		c, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		if tables, err := c.ListTables(); err != nil || len(tables) != 0 {
			t.Errorf("tables left behind: %v %v", tables, err)
		}
	})
}

func TestAttachFailureLeavesNothing(t *testing.T) {
	nstest.Run(t, func() {
		n := mustOpen(t, config(t, "cora", "10.244.0.0/24"))
		defer n.Close()
		if _, err := n.Attach(context.Background(), "/no/such/ns", "one"); err == nil || !strings.Contains(err.Error(), "/no/such/ns") {
			t.Errorf("error %v does not name the path", err)
		}
		if got := n.Sandboxes(); len(got) != 0 {
			t.Errorf("leases kept: %v", got)
		}
	})
}

func TestAttachMany(t *testing.T) {
	nstest.Run(t, func() {
		n := mustOpen(t, config(t, "cora", "10.244.0.0/24"))
		defer n.Close()
		const pods = 12
		type result struct {
			at  Attachment
			err error
		}
		results := make(chan result)
		for i := range pods {
			path := sandbox(t, fmt.Sprint("pod", i))
			go func() {
				at, err := n.Attach(context.Background(), path, fmt.Sprint("pod", i))
				results <- result{at, err}
			}()
		}
		seen := map[netip.Addr]bool{}
		for range pods {
			r := <-results
			if r.err != nil || seen[r.at.IP] {
				t.Errorf("attach: %+v", r)
			}
			seen[r.at.IP] = true
		}
	})
}

func TestRefusals(t *testing.T) {
	nstest.Run(t, func() {
		n := mustOpen(t, config(t, "cora", "10.244.0.0/24"))
		defer n.Close()
		for name, c := range map[string]struct {
			change func(*Config)
			want   string
		}{
			"overlap":    {func(c *Config) { c.CIDR = netip.MustParsePrefix("10.244.0.128/25") }, "overlaps 10.244.0.1/24 of link cora"},
			"long name":  {func(c *Config) { c.Bridge = "a-name-far-too-long" }, "Bridge"},
			"no name":    {func(c *Config) { c.Bridge = "" }, "Bridge"},
			"IPv6":       {func(c *Config) { c.CIDR = netip.MustParsePrefix("fd00::/64") }, "CIDR"},
			"tiny range": {func(c *Config) { c.CIDR = netip.MustParsePrefix("10.244.7.0/31") }, "CIDR"},
			"no range":   {func(c *Config) { c.CIDR = netip.Prefix{} }, "CIDR"},
			"not inside": {func(c *Config) { c.CIDR = netip.MustParsePrefix("10.9.0.0/24") }, "ClusterCIDR"},
			"no state":   {func(c *Config) { c.StateDir = "" }, "StateDir"},
			"no table":   {func(c *Config) { c.NFTable = "" }, "NFTable"},
			"not bridge": {func(c *Config) { c.Bridge = "lo" }, "not a bridge"},
		} {
			cfg := config(t, "corb", "10.244.1.0/24")
			c.change(&cfg)
			if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: error %v, want one with %q", name, err, c.want)
			}
		}
	})
}

func BenchmarkAttachDetach(b *testing.B) {
	b.ReportAllocs()
	nstest.Run(b, func() {
		n, err := Open(Config{
			Bridge: "corb", CIDR: netip.MustParsePrefix("10.244.0.0/24"), ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"),
			StateDir: b.TempDir(), NFTable: "bench", SettingsDir: filepath.Join(b.TempDir(), "coracle", "settings"),
		})
		if err != nil {
			b.Error(err)
			return
		}
		defer n.Close()
		path := make(chan string)
		over := make(chan struct{})
		defer close(over)
		go func() {
			runtime.LockOSThread()
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				b.Error(err)
			}
			path <- fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
			<-over
		}()
		ns := <-path
		for b.Loop() {
			if _, err := n.Attach(context.Background(), ns, "bench"); err != nil {
				b.Error(err)
				return
			}
			if err := n.Detach("bench"); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkForget is what it costs to have the kernel forget an address of which it remembers nothing, among ten thousand
// connections of others.
func BenchmarkForget(b *testing.B) {
	nstest.Run(b, func() {
		host, err := netns.Get()
		if err != nil {
			b.Error(err)
			return
		}
		defer host.Close()
		for i := range 10000 {
			ends := netlink.IPTuple{Protocol: unix.IPPROTO_UDP, SrcIP: net.IPv4(10, 1, 0, 1), DstIP: net.IPv4(10, 2, 0, 1), SrcPort: uint16(i + 1), DstPort: 53}
			back := netlink.IPTuple{Protocol: unix.IPPROTO_UDP, SrcIP: ends.DstIP, DstIP: ends.SrcIP, SrcPort: 53, DstPort: ends.SrcPort}
			if err := netlink.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, &netlink.ConntrackFlow{
				FamilyType: unix.AF_INET, Forward: ends, Reverse: back, TimeOut: 600,
			}); err != nil {
				b.Error(err)
				return
			}
		}
		n := &Network{host: host}
		b.ResetTimer()
		for range b.N {
			if err := n.forget(netip.MustParseAddr("10.3.0.1")); err != nil {
				b.Error(err)
			}
		}
	})
}
