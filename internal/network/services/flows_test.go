package services

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"coracle/internal/network/conntrack"
	"coracle/internal/network/proxy"
)

// nothing takes what a table emits.
type nothing struct{}

func (nothing) Element(proxy.Op)                    {}
func (nothing) AddClass(proxy.Class, proxy.Number)  {}
func (nothing) DropClass(proxy.Class, proxy.Number) {}

// TestStrayed: which flows a new agent ends, and which it leaves.
func TestStrayed(t *testing.T) {
	own := netip.MustParsePrefix("10.244.1.0/24")
	table := proxy.NewTable(proxy.IPv4, own)
	lead := func(to string, outside bool, endpoints ...proxy.Endpoint) {
		at := netip.MustParseAddrPort(to)
		address, _ := proxy.IPv4.Address(at.Addr())
		d := proxy.Destination{Address: address, Port: at.Port(), Protocol: proxy.UDP, Outside: outside}
		table.Apply(proxy.Change{Destination: d, Route: &proxy.Route{Endpoints: endpoints}}, nothing{})
	}
	a, far := proxy.Endpoint{Address: proxy.Address{10, 244, 1, 2}, Port: 53}, proxy.Endpoint{Address: proxy.Address{10, 244, 2, 2}, Port: 53}
	lead("10.96.0.10:53", false, a, far)
	lead("0.0.0.0:30053", false, a)
	lead("0.0.0.0:30054", true) // only another node has endpoints for who comes from outside
	lead("0.0.0.0:30054", false, a, far)
	lead("10.96.0.11:53", false)
	f := flows{
		table: table, all: true, local: map[proxy.Address]bool{{192, 0, 2, 1}: true}, pods: netip.MustParsePrefix("10.244.0.0/16"), own: own,
	}
	for name, c := range map[string]struct {
		from, to, led string
		ends          bool
	}{
		"to an endpoint":                        {"10.244.1.9:1000", "10.96.0.10:53", "10.244.1.2:53", false},
		"to one that is none any more":          {"10.244.1.9:1000", "10.96.0.10:53", "10.244.1.3:53", true},
		"to another port of one":                {"10.244.1.9:1000", "10.96.0.10:53", "10.244.1.2:54", true},
		"by a node port":                        {"192.0.2.2:1000", "192.0.2.1:30053", "10.244.1.2:53", false},
		"by a node port at loopback":            {"127.0.0.1:1000", "127.0.0.1:30053", "10.244.1.3:53", true},
		"of a service that is gone":             {"10.244.1.9:1000", "10.96.0.99:53", "10.244.1.3:53", true},
		"of another node's pod":                 {"10.244.2.9:1000", "10.96.0.10:53", "10.244.1.3:53", false},
		"led by another node's table":           {"192.0.2.2:1000", "192.0.2.1:30054", "10.244.2.3:53", false},
		"of a service that refuses":             {"10.244.1.9:1000", "10.96.0.11:53", "10.244.1.3:53", true},
		"to a pod itself":                       {"10.244.1.9:1000", "10.244.1.3:53", "10.244.1.3:53", false},
		"to the world":                          {"10.244.1.9:1000", "198.51.100.1:53", "198.51.100.1:53", false},
		"led by others to others":               {"192.0.2.2:1000", "192.0.2.1:777", "198.51.100.1:53", false},
		"to a service while there was no table": {"10.244.1.9:1000", "10.96.0.10:53", "10.96.0.10:53", true},
	} {
		from, to, led := netip.MustParseAddrPort(c.from), netip.MustParseAddrPort(c.to), netip.MustParseAddrPort(c.led)
		flow := conntrack.Flow{Protocol: unix.IPPROTO_UDP, Sent: conntrack.Ends{From: from, To: to}, Answered: conntrack.Ends{From: led, To: from}}
		if got := f.ends(&flow); got != c.ends {
			t.Errorf("%s: ends: %v", name, got)
		}
	}
}
