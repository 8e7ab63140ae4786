package dns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// ownMachine are the addresses of localhost.
var ownMachine = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// search answers a name that is not the cluster's, but that a pod asks for because its resolver tries the search list
// first, with what the rest of the list leads to: so that a name outside the cluster costs one round trip and not as
// many as the list is long. found is false for a name that nobody but the zone should be asked for.
func (z *Zone) search(m *dns.Msg, rel string, who *Asker, limit int, out []byte) (e *Errand, reply []byte, found bool) {
	base, ok := z.searched(rel, who)
	if !ok {
		return nil, nil, false
	}
	q := m.Question[0]
	outside := 0
	var names []string
	for _, domain := range append(who.Searches[1:len(who.Searches):len(who.Searches)], "") {
		name := base + "." + domain
		if len(name) > longestName {
			continue
		}
		under, ours := z.relative(name)
		if !ours {
			names = append(names, name)
			if domain != "" {
				outside++
			}
			continue
		}
		r := z.look(name, under, q.Qtype, int(m.Id))
		if !r.exists {
			continue
		}
		chain := []dns.RR{&dns.CNAME{Hdr: head(q.Name, dns.TypeCNAME, 0), Target: name}}
		if len(names) > 0 { // those who come first in the list must be asked first
			break
		}
		reply, e = z.follow(m, name, r, chain, limit, out)
		return e, reply, true
	}
	if len(names) == 0 || outside == 0 && !strings.Contains(base, ".") {
		return nil, nil, false
	}
	e = z.errand(m, names, nil, limit)
	e.Spare = true
	return e, nil, true
}

// longestName is how many bytes a name has at most in text (RFC 1035 2.3.4).
const longestName = 254

// searched takes the first domain of a pod's search list off a name. It refuses names that speak of a service that
// there is: whoever looks for a pod that is not ready yet does not mean the internet.
func (z *Zone) searched(rel string, who *Asker) (base string, ok bool) {
	if who == nil || len(who.Searches) == 0 {
		return "", false
	}
	first, ours := z.relative(who.Searches[0])
	if !ours || first == "" {
		return "", false
	}
	base, ok = strings.CutSuffix(rel, "."+first)
	if !ok || base == "" {
		return "", false
	}
	p := z.locate(rel)
	return base, p.service == nil || p.service.object == nil
}

// Finish answers with what was found for the first of the names that exists; nil where nobody could be asked.
func (e *Errand) Finish(name string, found *dns.Msg, out []byte) []byte {
	switch {
	case found == nil && e.Spare, found != nil && e.Spare && found.Rcode != dns.RcodeSuccess:
		return tell(e.request, result{}, nil, e.origin, e.limit, out)
	case found == nil:
		return pack(e.failed(), e.limit, out)
	}
	reply := begin(e.request)
	reply.Rcode = found.Rcode
	reply.AuthenticatedData = found.AuthenticatedData && e.Secure
	reply.Answer = append(e.chain, e.answers(name, found)...)
	reply.Ns = found.Ns
	return pack(reply, e.limit, out)
}

func (e *Errand) failed() *dns.Msg {
	reply := begin(e.request)
	reply.Rcode = dns.RcodeServerFailure
	reply.Answer = e.chain
	return reply
}

// answers are the records found, under the name that was asked for, in its case.
func (e *Errand) answers(name string, found *dns.Msg) []dns.RR {
	asked := e.request.Question[0].Name
	out := make([]dns.RR, 0, len(found.Answer)+1)
	if e.Spare && !satisfied(e.Type, nil) {
		out = append(out, &dns.CNAME{Hdr: head(asked, dns.TypeCNAME, shortest(found)), Target: name})
	}
	for _, rr := range found.Answer {
		if !e.Spare && !e.alias && strings.EqualFold(rr.Header().Name, asked) && rr.Header().Name != asked {
			rr = dns.Copy(rr)
			rr.Header().Name = asked
		}
		out = append(out, rr)
	}
	return out
}

// shortest is the time for which all of an answer may be kept.
func shortest(m *dns.Msg) uint32 {
	least := uint32(0)
	for i, rr := range m.Answer {
		if i == 0 || rr.Header().Ttl < least {
			least = rr.Header().Ttl
		}
	}
	return least
}
