package dns

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Port is where name servers listen.
const Port = 53

// Routes say whom to ask: for each domain (in lower case, with the last dot) its servers, in the order in which they are
// tried.
type Routes map[string][]netip.AddrPort

// For returns the servers for a name: those of the longest domain that it is in.
func (r Routes) For(name string) []netip.AddrPort {
	for {
		if servers := r[name]; len(servers) > 0 {
			return servers
		}
		_, rest, more := strings.Cut(name, ".")
		if !more || rest == "" {
			return r["."]
		}
		name = rest
	}
}

// ParseRoutes reads DOMAIN=SERVER[;SERVER...], separated by commas. A server is an address, with a port if that is not 53;
// the domain "." is all names.
func ParseRoutes(text string) (Routes, error) {
	out := Routes{}
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		domain, list, ok := strings.Cut(item, "=")
		if !ok || list == "" {
			return nil, fmt.Errorf("%q: want DOMAIN=SERVER, such as corp.example=10.0.0.53", item)
		}
		if _, valid := dns.IsDomainName(domain); !valid || domain == "" {
			return nil, fmt.Errorf("%q: %q is no domain name", item, domain)
		}
		key := canonical(domain)
		if domain == "." {
			key = "."
		}
		if out[key] != nil {
			return nil, fmt.Errorf("%q: %s has servers already; name all of them at once, as %s=A;B", item, domain, domain)
		}
		for text := range strings.SplitSeq(list, ";") {
			server, err := ParseServer(text)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", item, err)
			}
			out[key] = append(out[key], server)
		}
	}
	return out, nil
}

// ParseServer reads a server's address, with or without a port.
func ParseServer(text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a, Port), nil
	}
	p, err := netip.ParseAddrPort(text)
	if err != nil || p.Port() == 0 {
		return p, fmt.Errorf("server %q: want an address, such as 10.0.0.53, 10.0.0.53:5353 or [fd00::53]:53", text)
	}
	return p, nil
}

// ServersIn are the name servers of a resolv.conf(5), without those that are ours: asking ourselves leads nowhere.
func ServersIn(text string, ours func(netip.Addr) bool) (servers []netip.AddrPort, own []netip.Addr) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(fields[1])
		switch {
		case err != nil:
		case ours != nil && ours(a.WithZone("")):
			own = append(own, a)
		default:
			servers = append(servers, netip.AddrPortFrom(a, Port))
		}
	}
	return servers, own
}
