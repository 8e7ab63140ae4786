package dns

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
)

// How long others may keep an answer, in seconds. A service's address stays for as long as the service; what stands
// behind one changes with every pod, and that there is no name is true of this instant only: nobody may go on believing
// it. The schema's version changes with the program.
const (
	serviceTTL  = 5
	endpointTTL = 1
	negativeTTL = 0
	versionTTL  = 28800
)

// schema is the version of the specification.
const schema = "1.1.0"

// result is what the zone says to a question. A name that does not exist has no records.
type result struct {
	exists bool
	// addrs are addresses of the name asked for, all with one ttl; records what else is the answer; extra helps.
	addrs   []netip.Addr
	ttl     uint32
	records []dns.RR
	extra   []dns.RR
	// alias is the name that the name asked for is another word for.
	alias string
}

// wants says whether a question asks for addresses of a's family.
func wants(qtype uint16, a netip.Addr) bool {
	return qtype == dns.TypeANY || qtype == dns.TypeA && a.Is4() || qtype == dns.TypeAAAA && a.Is6()
}

// look answers a question for a name relative to the zone. owner is the name as it was asked, spin turns lists of
// addresses, so that those who take the first do not all take the same.
func (z *Zone) look(owner, name string, qtype uint16, spin int) result {
	p := z.locate(name)
	r := result{exists: true, ttl: serviceTTL}
	switch p.sort {
	case nothing:
		r.exists = false
	case apex:
		r.records = z.apex(owner, qtype)
	case version:
		if qtype == dns.TypeTXT || qtype == dns.TypeANY {
			r.records = []dns.RR{&dns.TXT{Hdr: head(owner, dns.TypeTXT, versionTTL), Txt: []string{schema}}}
		}
	case nameserver:
		r.addrs = only(z.servers, qtype)
	case podAddr:
		if r.exists = z.owns(p.addr) || len(z.endpoints[p.addr]) > 0 || slices.Contains(z.servers, p.addr); r.exists {
			r.addrs = only([]netip.Addr{p.addr}, qtype)
		}
	case whole, host, protocol, port:
		if p.service == nil || p.service.object == nil {
			r.exists = false
			break
		}
		z.ofService(&r, p, owner, qtype, spin)
	}
	return r
}

func (z *Zone) ofService(r *result, p place, owner string, qtype uint16, spin int) {
	s := p.service
	if s.object.Spec.Type == corev1.ServiceTypeExternalName {
		r.exists = p.sort == whole
		if a, err := netip.ParseAddr(s.object.Spec.ExternalName); err == nil {
			r.addrs = only([]netip.Addr{a}, qtype)
		} else {
			r.alias = canonical(s.object.Spec.ExternalName)
		}
		return
	}
	switch p.sort {
	case whole:
		if !s.headless() {
			r.addrs = only(s.addresses(), qtype)
			return
		}
		r.ttl = endpointTTL
		r.exists, r.addrs = s.readyAddrs(qtype, spin)
	case host:
		r.ttl = endpointTTL
		r.exists, r.addrs = s.hostAddrs(p.host, qtype)
	case protocol:
		r.exists = slices.ContainsFunc(s.object.Spec.Ports, func(q corev1.ServicePort) bool { return q.Name != "" && protocolOf(&q) == p.proto }) &&
			(!s.headless() || s.anyReady())
	case port:
		z.srv(r, p, owner, qtype, spin)
	}
}

func protocolOf(p *corev1.ServicePort) corev1.Protocol {
	if p.Protocol == "" {
		return corev1.ProtocolTCP
	}
	return p.Protocol
}

func only(list []netip.Addr, qtype uint16) []netip.Addr {
	out := make([]netip.Addr, 0, 2)
	for _, a := range list {
		if wants(qtype, a) {
			out = append(out, a)
		}
	}
	return out
}

func (s *service) anyReady() bool {
	for _, p := range s.parts {
		if len(p.ready) > 0 {
			return true
		}
	}
	return false
}

// readyAddrs are the addresses behind a headless service, each once. Without any, the name does not exist
// (specification 2.4.1).
func (s *service) readyAddrs(qtype uint16, spin int) (exists bool, out []netip.Addr) {
	count := 0
	for _, p := range s.parts {
		count += len(p.ready)
	}
	out = make([]netip.Addr, 0, count)
	for _, p := range s.parts {
		for i := range p.ready {
			if a := p.ready[i].addr; wants(qtype, a) {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return count > 0, turn(slices.Compact(out), spin)
}

// turn begins a list elsewhere.
func turn[T any](list []T, spin int) []T {
	if len(list) < 2 {
		return list
	}
	at := spin % len(list)
	slices.Reverse(list[:at])
	slices.Reverse(list[at:])
	slices.Reverse(list)
	return list
}

// hostAddrs are the addresses of the endpoints of a host name, or of the one that has none and this address.
func (s *service) hostAddrs(name string, qtype uint16) (exists bool, out []netip.Addr) {
	addr, isAddr := dashed(name)
	for _, p := range s.parts {
		for _, at := range p.named[name] {
			exists = true
			if a := p.ready[at].addr; wants(qtype, a) && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
		if isAddr && slices.Contains(p.ready, endpoint{addr: addr}) {
			exists = true
			if wants(qtype, addr) && !slices.Contains(out, addr) {
				out = append(out, addr)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return exists, out
}

// srv answers for a named port (specification 2.3.2, 2.4.2).
func (z *Zone) srv(r *result, p place, owner string, qtype uint16, spin int) {
	s := p.service
	r.exists = false
	ask := qtype == dns.TypeSRV || qtype == dns.TypeANY
	own := "." + s.key.Namespace + ".svc." + z.origin
	if !s.headless() {
		for i := range s.object.Spec.Ports {
			q := &s.object.Spec.Ports[i]
			if q.Name == "" || strings.ToLower(q.Name) != p.port || protocolOf(q) != p.proto {
				continue
			}
			if r.exists = true; ask {
				target := s.key.Name + own
				r.records = append(r.records, record(owner, serviceTTL, 100, uint16(q.Port), target))
				r.extra = append(r.extra, addresses(target, serviceTTL, s.addresses())...)
			}
		}
		return
	}
	for _, part := range s.parts {
		for i := range part.slice.Ports {
			q := &part.slice.Ports[i]
			if q.Name == nil || *q.Name == "" || strings.ToLower(*q.Name) != p.port || q.Port == nil || len(part.ready) == 0 ||
				(q.Protocol != nil && *q.Protocol != p.proto) || (q.Protocol == nil && p.proto != corev1.ProtocolTCP) {
				continue
			}
			if r.exists = true; !ask {
				continue
			}
			for _, e := range part.ready {
				target := e.label() + "." + s.key.Name + own
				r.records = append(r.records, record(owner, endpointTTL, 100, uint16(*q.Port), target))
				r.extra = append(r.extra, addresses(target, endpointTTL, []netip.Addr{e.addr})...)
			}
		}
	}
	r.records = turn(distinct(r.records), spin)
	r.extra = distinct(r.extra)
	share(r.records)
}

// distinct orders records and has each once: an endpoint may be in two slices while it moves.
func distinct(list []dns.RR) []dns.RR {
	slices.SortFunc(list, func(a, b dns.RR) int { return strings.Compare(a.String(), b.String()) })
	return slices.CompactFunc(list, func(a, b dns.RR) bool { return dns.IsDuplicate(a, b) })
}

// share divides the weight of 100 among equals.
func share(list []dns.RR) {
	for _, rr := range list {
		rr.(*dns.SRV).Weight = uint16(max(1, 100/len(list)))
	}
}

// label is what the endpoint is called under its service.
func (e endpoint) label() string {
	if e.host != "" {
		return e.host
	}
	return dashes(e.addr)
}

func record(owner string, ttl uint32, weight, port uint16, target string) dns.RR {
	return &dns.SRV{Hdr: head(owner, dns.TypeSRV, ttl), Weight: weight, Port: port, Target: target}
}

func head(owner string, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// addresses are the records of addresses.
func addresses(owner string, ttl uint32, list []netip.Addr) []dns.RR {
	out := make([]dns.RR, 0, len(list))
	for _, a := range list {
		if a.Is4() {
			out = append(out, &dns.A{Hdr: head(owner, dns.TypeA, ttl), A: a.AsSlice()})
		} else {
			out = append(out, &dns.AAAA{Hdr: head(owner, dns.TypeAAAA, ttl), AAAA: a.AsSlice()})
		}
	}
	return out
}

func (z *Zone) apex(owner string, qtype uint16) []dns.RR {
	switch qtype {
	case dns.TypeSOA:
		return []dns.RR{z.soa(owner)}
	case dns.TypeNS:
		return []dns.RR{&dns.NS{Hdr: head(owner, dns.TypeNS, serviceTTL), Ns: "ns.dns." + z.origin}}
	case dns.TypeANY:
		return []dns.RR{z.soa(owner), &dns.NS{Hdr: head(owner, dns.TypeNS, serviceTTL), Ns: "ns.dns." + z.origin}}
	}
	return nil
}

// soa goes with every answer that there is nothing. Its serial is the snapshot's revision.
func (z *Zone) soa(owner string) *dns.SOA {
	return &dns.SOA{
		Hdr: head(owner, dns.TypeSOA, negativeTTL), Ns: "ns.dns." + z.origin, Mbox: "hostmaster." + z.origin,
		Serial: uint32(z.revision), Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: negativeTTL,
	}
}
