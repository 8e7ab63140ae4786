package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// The zones of names for addresses (RFC 1035 3.5, RFC 3596 2.5).
const (
	arpa4 = ".in-addr.arpa."
	arpa6 = ".ip6.arpa."
)

// reversed reads the address out of a name below in-addr.arpa or ip6.arpa.
func reversed(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, arpa4); ok {
		labels := strings.Split(rest, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		var b [4]byte
		for i, l := range labels {
			n, err := strconv.ParseUint(l, 10, 8)
			if err != nil {
				return netip.Addr{}, false
			}
			b[3-i] = byte(n)
		}
		return netip.AddrFrom4(b), true
	}
	rest, ok := strings.CutSuffix(name, arpa6)
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		n, err := strconv.ParseUint(rest[2*i:2*i+1], 16, 8)
		if err != nil || i < 31 && rest[2*i+1] != '.' {
			return netip.Addr{}, false
		}
		if i%2 == 0 {
			b[15-i/2] = byte(n)
		} else {
			b[15-i/2] |= byte(n) << 4
		}
	}
	return netip.AddrFrom16(b), true
}

// namesOf are the names of an address: of a service, or of the endpoints of headless services (specification 2.3.3,
// 2.4.3), those with host names first. ours is false where others must be asked.
func (z *Zone) namesOf(a netip.Addr) (names []string, ours bool) {
	if k, ok := z.clusterIPs[a]; ok {
		return []string{k.Name + "." + k.Namespace + ".svc." + z.origin}, true
	}
	list := slices.Clone(z.endpoints[a])
	slices.SortFunc(list, func(x, y behind) int {
		if (x.host == "") != (y.host == "") {
			return strings.Compare(y.host, x.host)
		}
		return strings.Compare(x.of.key.Namespace+"."+x.of.key.Name+"."+x.host, y.of.key.Namespace+"."+y.of.key.Name+"."+y.host)
	})
	for _, b := range slices.Compact(list) {
		names = append(names, endpoint{a, b.host}.label()+"."+b.of.key.Name+"."+b.of.key.Namespace+".svc."+z.origin)
	}
	return names, len(names) > 0 || z.owns(a)
}

// pointer answers a question for the name of an address.
func (z *Zone) pointer(owner string, a netip.Addr, qtype uint16) (r result, ours bool) {
	names, ours := z.namesOf(a)
	r.exists = len(names) > 0
	if qtype == dns.TypePTR || qtype == dns.TypeANY {
		for _, n := range names {
			r.records = append(r.records, &dns.PTR{Hdr: head(owner, dns.TypePTR, serviceTTL), Ptr: n})
		}
	}
	return r, ours
}
