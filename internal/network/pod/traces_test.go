package pod

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"coracle/internal/network/nstest"
)

// machine is all that a network may change of its machine: settings, links, addresses, routes,
// rules, and remembered connections of the range.
func machine(t *testing.T, cidr netip.Prefix) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // what goes away meanwhile
		}
		raw, err := os.ReadFile(path)
		// The count of connections counts those of the machine itself too.
		if err == nil && filepath.Base(path) != "nf_conntrack_count" {
			all = append(all, path+"="+strings.TrimSpace(string(raw)))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Error(err)
	}
	for _, l := range links {
		all = append(all, "link "+l.Attrs().Name)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Error(err)
	}
	for _, a := range addrs {
		all = append(all, "address "+a.String())
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Error(err)
	}
	for _, r := range routes {
		all = append(all, "route "+r.String())
	}
	return append(append(all, ruleset(t)...), connections(t, cidr)...)
}

func ruleset(t *testing.T) (all []string) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	chains, err := c.ListChains()
	if err != nil {
		t.Error(err)
	}
	for _, ch := range chains {
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			t.Error(err)
		}
		all = append(all, fmt.Sprintf("chain %s %s: %d rules", ch.Table.Name, ch.Name, len(rules)))
	}
	return all
}

func connections(t *testing.T, cidr netip.Prefix) (all []string) {
	t.Helper()
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		t.Logf("connections cannot be listed here: %v", err)
	}
	for _, f := range flows {
		for _, ip := range []net.IP{f.Forward.SrcIP, f.Forward.DstIP, f.Reverse.SrcIP, f.Reverse.DstIP} {
			if a, ok := netip.AddrFromSlice(ip); ok && cidr.Contains(a.Unmap()) {
				all = append(all, "connection "+f.String())
				break
			}
		}
	}
	return all
}

// TestNoTraceOnTheMachine compares the machine before and after: opened, used, destroyed; and with
// nobody left to destroy it but a removal from outside.
func TestNoTraceOnTheMachine(t *testing.T) {
	for _, how := range []string{"Destroy", "Remove"} {
		nstest.Run(t, func() {
			lo, err := netlink.LinkByName("lo")
			if err != nil || netlink.LinkSetUp(lo) != nil {
				t.Fatal(err)
			}
			for path, value := range map[string]string{"ip_forward": "0", "conf/all/accept_redirects": "0"} {
				if err := os.WriteFile("/proc/sys/net/ipv4/"+path, []byte(value), 0); err != nil {
					t.Fatal(err)
				}
			}
			// Another's firewall, which drops what it forwards, as Docker's does.
			c, err := nftables.New()
			if err != nil {
				t.Fatal(err)
			}
			drop := nftables.ChainPolicyDrop
			theirs := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
			c.AddChain(&nftables.Chain{
				Name: "FORWARD", Table: theirs, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
				Priority: nftables.ChainPriorityFilter, Policy: &drop,
			})
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
			cfg := config(t, "cora", "10.244.0.0/24")
			before := machine(t, cfg.CIDR)
			n := mustOpen(t, cfg)
			if raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || string(raw) != "1\n" {
				t.Errorf("not forwarding: %q %v", raw, err)
			}
			a := mustAttach(t, n, sandbox(t, "a"), "a")
			if err := n.Publish("a", []Port{{HostPort: 8080, ContainerPort: 80, Protocol: "UDP"}}); err != nil {
				t.Fatal(err)
			}
			conn, err := net.DialTimeout("udp4", net.JoinHostPort(a.IP.String(), "9"), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte("hello")); err != nil {
				t.Error(err)
			}
			conn.Close()
			if len(connections(t, cfg.CIDR)) == 0 {
				t.Log("this kernel remembers no connection")
			}
			if how == "Remove" {
				n.Close()
				err = Remove(cfg)
			} else {
				err = n.Destroy()
			}
			if err != nil {
				t.Errorf("%s: %v", how, err)
			}
			if diff := cmp.Diff(before, machine(t, cfg.CIDR)); diff != "" {
				t.Errorf("%s (-before +after):\n%s", how, diff)
			}
			if err := Remove(cfg); err != nil {
				t.Errorf("nothing is left to remove: %v", err)
			}
		})
	}
}
