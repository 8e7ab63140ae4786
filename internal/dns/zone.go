// Package dns answers questions for a cluster's names: by the Kubernetes DNS specification 1.1
// (https://github.com/kubernetes/dns/blob/master/docs/specification.md) from Services and EndpointSlices, and what else
// is asked by a word about whom to ask.
//
// It owns the zone (a snapshot of the services, indexed by name and by address), what the zone says to a question, the
// form of questions and answers on the wire (bytes in, bytes out), the search lists of pods, the cache of what others
// answered, and why a name is answered as it is. It is pure: it has no clock, no socket and no goroutine. Whoever feeds
// a zone must not let others read it meanwhile. It refuses zones of others, transfers and updates.
package dns

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Key names a namespaced object.
type Key struct{ Namespace, Name string }

// Config is what a zone is made for.
type Config struct {
	// Domain is the cluster's suffix, such as cluster.local.
	Domain string
	// Ranges are the cluster's own, of pods and of services: addresses in them are the cluster's to name, and no upstream is
	// asked about them.
	Ranges []netip.Prefix
	// Servers are the addresses under which the zone is served.
	Servers []netip.Addr
}

// Zone is a snapshot of a cluster's services. Its reading methods may be called concurrently; nobody may read while it
// is changed.
type Zone struct {
	origin   string // in lower case, with the last dot
	ranges   []netip.Prefix
	servers  []netip.Addr
	services map[Key]*service
	// owners are the services that known slices speak of, by slice.
	owners map[Key]Key
	// spaces counts the services of each namespace.
	spaces map[string]int
	// clusterIPs are the services by address; endpoints the headless ones by the addresses of what stands behind them.
	clusterIPs map[netip.Addr]Key
	endpoints  map[netip.Addr][]behind
	revision   uint64
}

// behind is an endpoint's place.
type behind struct {
	of   *service
	host string // empty: it is called by its address
}

// service is what is known of one name. object is nil where there are slices only.
type service struct {
	key    Key
	object *corev1.Service
	parts  map[string]*part
}

// part is what one slice adds.
type part struct {
	slice *discoveryv1.EndpointSlice
	ready []endpoint
	// named finds the endpoints by their host names.
	named map[string][]int
}

type endpoint struct {
	addr netip.Addr
	host string
}

// New returns a zone without services.
func New(c Config) *Zone {
	return &Zone{
		origin: canonical(c.Domain), ranges: c.Ranges, servers: c.Servers,
		services: map[Key]*service{}, owners: map[Key]Key{}, spaces: map[string]int{},
		clusterIPs: map[netip.Addr]Key{}, endpoints: map[netip.Addr][]behind{},
	}
}

// canonical is a name in lower case, with a last dot.
func canonical(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, ".")) + "."
}

// Origin is the zone's name, with the last dot.
func (z *Zone) Origin() string { return z.origin }

// Serve says under which addresses the zone is served.
func (z *Zone) Serve(servers ...netip.Addr) { z.servers = servers }

// Claim says which ranges are the cluster's own.
func (z *Zone) Claim(ranges ...netip.Prefix) { z.ranges = ranges }

// Saw says how recent the snapshot is.
func (z *Zone) Saw(revision uint64) { z.revision = max(z.revision, revision) }

// Revision is the newest one that the snapshot shows.
func (z *Zone) Revision() uint64 { return z.revision }

// Services counts the services.
func (z *Zone) Services() int {
	n := 0
	for _, count := range z.spaces {
		n += count
	}
	return n
}

func (z *Zone) at(k Key) *service {
	s := z.services[k]
	if s == nil {
		s = &service{key: k, parts: map[string]*part{}}
		z.services[k] = s
	}
	return s
}

// tidy forgets a service of which nothing is known any more.
func (z *Zone) tidy(s *service) {
	if s.object == nil && len(s.parts) == 0 {
		delete(z.services, s.key)
	}
}

// SetService puts a service into the snapshot, in place of an older one of its name.
func (z *Zone) SetService(object *corev1.Service) {
	s := z.at(Key{object.Namespace, object.Name})
	z.unlink(s)
	if s.object == nil {
		z.spaces[s.key.Namespace]++
	}
	published := s.object != nil && s.object.Spec.PublishNotReadyAddresses
	s.object = object
	for name, p := range s.parts {
		if published != object.Spec.PublishNotReadyAddresses {
			s.parts[name] = s.read(p.slice)
		}
	}
	z.link(s)
}

// DeleteService takes a service out of the snapshot.
func (z *Zone) DeleteService(k Key) {
	s := z.services[k]
	if s == nil || s.object == nil {
		return
	}
	z.unlink(s)
	s.object = nil
	if z.spaces[k.Namespace]--; z.spaces[k.Namespace] == 0 {
		delete(z.spaces, k.Namespace)
	}
	z.tidy(s)
}

// SetSlice puts a slice into the snapshot, in place of an older one of its name.
func (z *Zone) SetSlice(slice *discoveryv1.EndpointSlice) {
	at := Key{slice.Namespace, slice.Name}
	of := Key{slice.Namespace, slice.Labels[discoveryv1.LabelServiceName]}
	if was, known := z.owners[at]; known && was != of {
		z.DeleteSlice(at)
	}
	if of.Name == "" || slice.AddressType == discoveryv1.AddressTypeFQDN {
		z.DeleteSlice(at)
		return
	}
	z.owners[at] = of
	s := z.at(of)
	z.unlinkPart(s, s.parts[slice.Name])
	p := s.read(slice)
	s.parts[slice.Name] = p
	z.linkPart(s, p)
}

// DeleteSlice takes a slice out of the snapshot.
func (z *Zone) DeleteSlice(k Key) {
	of, known := z.owners[k]
	if !known {
		return
	}
	delete(z.owners, k)
	s := z.services[of]
	z.unlinkPart(s, s.parts[k.Name])
	delete(s.parts, k.Name)
	z.tidy(s)
}

// read takes from a slice what names lead to: endpoints that are ready, or all where the service wants that.
func (s *service) read(slice *discoveryv1.EndpointSlice) *part {
	p := &part{slice: slice}
	all := s.object != nil && s.object.Spec.PublishNotReadyAddresses
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		if !all && !isReady(e) {
			continue
		}
		host := ""
		if e.Hostname != nil {
			host = strings.ToLower(*e.Hostname)
		}
		for _, text := range e.Addresses {
			addr, err := netip.ParseAddr(text)
			if err != nil || addr.Zone() != "" {
				continue
			}
			if host != "" {
				if p.named == nil {
					p.named = map[string][]int{}
				}
				p.named[host] = append(p.named[host], len(p.ready))
			}
			p.ready = append(p.ready, endpoint{addr.Unmap(), host})
		}
	}
	return p
}

// isReady: what is not said counts as ready (discovery/v1 EndpointConditions).
func isReady(e *discoveryv1.Endpoint) bool {
	return e.Conditions.Ready == nil || *e.Conditions.Ready
}

func (s *service) headless() bool {
	return s.object != nil && s.object.Spec.Type != corev1.ServiceTypeExternalName && s.object.Spec.ClusterIP == corev1.ClusterIPNone
}

// addresses are the service's own.
func (s *service) addresses() []netip.Addr {
	if s.object == nil || s.object.Spec.Type == corev1.ServiceTypeExternalName || s.headless() {
		return nil
	}
	list := s.object.Spec.ClusterIPs
	if len(list) == 0 && s.object.Spec.ClusterIP != "" {
		list = []string{s.object.Spec.ClusterIP}
	}
	out := make([]netip.Addr, 0, len(list))
	for _, text := range list {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// link files a service under its addresses.
func (z *Zone) link(s *service) {
	for _, a := range s.addresses() {
		z.clusterIPs[a] = s.key
	}
	for _, p := range s.parts {
		z.linkPart(s, p)
	}
}

func (z *Zone) unlink(s *service) {
	for _, a := range s.addresses() {
		if z.clusterIPs[a] == s.key {
			delete(z.clusterIPs, a)
		}
	}
	for _, p := range s.parts {
		z.unlinkPart(s, p)
	}
}

func (z *Zone) linkPart(s *service, p *part) {
	if !s.headless() {
		return
	}
	for _, e := range p.ready {
		z.endpoints[e.addr] = append(z.endpoints[e.addr], behind{s, e.host})
	}
}

func (z *Zone) unlinkPart(s *service, p *part) {
	if p == nil || !s.headless() {
		return
	}
	for _, e := range p.ready {
		list := z.endpoints[e.addr]
		at := slices.Index(list, behind{s, e.host})
		if at < 0 {
			continue
		}
		if list = slices.Delete(list, at, at+1); len(list) == 0 {
			delete(z.endpoints, e.addr)
		} else {
			z.endpoints[e.addr] = list
		}
	}
}

// owns says whether an address is the cluster's to name.
func (z *Zone) owns(a netip.Addr) bool {
	return slices.ContainsFunc(z.ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}
