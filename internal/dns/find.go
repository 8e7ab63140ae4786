package dns

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Finding is what a zone says of a name, and from what.
type Finding struct {
	// Name is the name in full.
	Name string
	// Ours: the zone answers for it; Exists: it has such a name.
	Ours, Exists bool
	// Records are what it leads to, such as "A 10.96.0.1". Alias is the name that it is another word for.
	Records []string
	Alias   string
	// Service is the one whose name it is, or that it lies below; empty for other names. Known: there is such a service.
	Service Key
	Known   bool
	// Headless: its name leads to what stands behind it. Of these Ready are named, and NotReady are not.
	Headless        bool
	Ready, NotReady int
	// Host is the endpoint asked for, Port the named port.
	Host, Port string
	// Namespace is the one that the name speaks of.
	Namespace string
	// Slices are the EndpointSlices that the answer was made from.
	Slices []string
}

// Find says what a name leads to.
func (z *Zone) Find(name string) Finding {
	f := Finding{Name: canonical(name)}
	rel, ours := z.relative(f.Name)
	if !ours {
		if a, is := reversed(f.Name); is {
			var r result
			r, f.Ours = z.pointer(f.Name, a, dns.TypePTR)
			f.Exists, f.Records = r.exists, texts(r)
		}
		return f
	}
	r := z.look(f.Name, rel, dns.TypeANY, 0)
	f.Ours, f.Exists, f.Records, f.Alias = true, r.exists, texts(r), r.alias
	p := z.locate(rel)
	f.Namespace = p.key.Namespace
	if p.key.Name == "" || p.sort == podSpace || p.sort == podAddr {
		return f
	}
	f.Service, f.Host, f.Port = p.key, p.host, p.port
	s := z.services[p.key]
	if s == nil {
		return f
	}
	f.Known, f.Headless = s.object != nil, s.headless()
	if !f.Headless && f.Host == "" {
		return f
	}
	for _, part := range s.parts {
		f.Ready += len(part.ready)
		f.NotReady += len(part.slice.Endpoints)
		f.Slices = append(f.Slices, part.slice.Name)
	}
	f.NotReady = max(0, f.NotReady-f.Ready)
	slices.Sort(f.Slices)
	return f
}

func texts(r result) []string {
	var out []string
	for _, rr := range append(addresses(".", r.ttl, r.addrs), r.records...) {
		out = append(out, dns.TypeToString[rr.Header().Rrtype]+" "+strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return out
}

// Address reads the address that a name is about: a pod's, or one whose name is asked for.
func (z *Zone) Address(name string) (netip.Addr, bool) {
	name = canonical(name)
	if rel, ours := z.relative(name); ours {
		p := z.locate(rel)
		return p.addr, p.sort == podAddr
	}
	return reversed(name)
}

// Valid says whether a text is a name, and of how many labels.
func Valid(name string) (labels int, ok bool) {
	labels, ok = dns.IsDomainName(name)
	return labels, ok && name != "" && !strings.ContainsAny(name, "/\\ ")
}
