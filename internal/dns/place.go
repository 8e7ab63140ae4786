package dns

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// sort is what a name of the zone stands for.
type sort int

const (
	nothing sort = iota // no name of the schema
	apex                // the zone itself
	version             // dns-version, the schema's
	group               // svc, pod, dns: names below them exist
	nameserver
	space    // ns.svc
	whole    // service.ns.svc
	host     // hostname.service.ns.svc
	protocol // _tcp.service.ns.svc
	port     // _http._tcp.service.ns.svc
	podSpace // ns.pod
	podAddr  // a-b-c-d.ns.pod
)

// place is where a name leads.
type place struct {
	sort    sort
	key     Key // the service; of a pod's address its namespace
	service *service
	host    string
	port    string
	proto   corev1.Protocol
	addr    netip.Addr
}

// cut takes the last label off a name.
func cut(name string) (rest, label string) {
	if at := strings.LastIndexByte(name, '.'); at >= 0 {
		return name[:at], name[at+1:]
	}
	return "", name
}

// relative is a name below the zone's, without the last dot; the name is in lower case and has one.
func (z *Zone) relative(name string) (string, bool) {
	if name == z.origin {
		return "", true
	}
	rest, under := strings.CutSuffix(name, z.origin)
	if !under || rest == "" || rest[len(rest)-1] != '.' {
		return "", false
	}
	return rest[:len(rest)-1], true
}

// locate reads a name relative to the zone, in lower case.
func (z *Zone) locate(name string) place {
	if name == "" {
		return place{sort: apex}
	}
	rest, last := cut(name)
	switch {
	case last == "svc" && rest != "":
		return z.locateService(rest)
	case last == "pod" && rest != "":
		return locatePod(rest)
	case rest == "" && (last == "svc" || last == "pod" || last == "dns"):
		return place{sort: group}
	case rest == "" && last == "dns-version":
		return place{sort: version}
	case last == "dns" && rest == "ns":
		return place{sort: nameserver}
	}
	return place{}
}

func (z *Zone) locateService(name string) place {
	rest, namespace := cut(name)
	if rest == "" {
		if z.spaces[namespace] == 0 {
			return place{key: Key{Namespace: namespace}}
		}
		return place{sort: space, key: Key{Namespace: namespace}}
	}
	rest, label := cut(rest)
	p := place{key: Key{namespace, label}}
	p.service = z.services[p.key]
	switch {
	case rest == "":
		p.sort = whole
	case rest[0] == '_' || strings.Contains(rest, "._"):
		var proto string
		rest, proto = cut(rest)
		switch proto {
		case "_tcp":
			p.proto = corev1.ProtocolTCP
		case "_udp":
			p.proto = corev1.ProtocolUDP
		case "_sctp":
			p.proto = corev1.ProtocolSCTP
		default:
			return place{key: p.key}
		}
		if p.sort = protocol; rest != "" {
			if rest[0] != '_' || strings.Contains(rest, ".") {
				return place{key: p.key}
			}
			p.sort, p.port = port, rest[1:]
		}
	case strings.Contains(rest, "."):
		return place{key: p.key}
	default:
		p.sort, p.host = host, rest
	}
	return p
}

func locatePod(name string) place {
	rest, namespace := cut(name)
	p := place{key: Key{Namespace: namespace}}
	if rest == "" {
		p.sort = podSpace
		return p
	}
	if a, ok := dashed(rest); ok {
		p.sort, p.addr = podAddr, a
	}
	return p
}

// dashed reads an address with dashes for its dots or colons.
func dashed(label string) (netip.Addr, bool) {
	if strings.ContainsAny(label, ".:") {
		return netip.Addr{}, false
	}
	text := strings.ReplaceAll(label, "-", ":")
	if strings.Count(label, "-") == 3 && !strings.Contains(label, "--") {
		text = strings.ReplaceAll(label, "-", ".")
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return a, false
	}
	return a, a.Zone() == ""
}

// dashes writes an address as the label of an endpoint that has no host name.
func dashes(a netip.Addr) string {
	return strings.Map(func(r rune) rune {
		if r == '.' || r == ':' {
			return '-'
		}
		return r
	}, a.String())
}
