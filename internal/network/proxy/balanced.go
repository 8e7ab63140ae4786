package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	netutils "k8s.io/utils/net"
)

// balanced adds the addresses that a load balancer has given the service, unless packets only reach the node with its own
// address (ipMode Proxy, KEP-1860), or the port leads elsewhere there: then its status has an error.
func (r *routing) balanced(p *corev1.ServicePort, at func(ip string, port int32) (Destination, bool), cluster, local Route) {
	sources, limited := sourcesOf(r.node.Family, r.service)
	for i := range r.service.Status.LoadBalancer.Ingress {
		in := &r.service.Status.LoadBalancer.Ingress[i]
		if in.IPMode != nil && *in.IPMode != corev1.LoadBalancerIPModeVIP || leadsElsewhere(in, p) {
			continue
		}
		d, ok := at(in.IP, p.Port)
		if !ok {
			continue
		}
		if limited && len(sources) == 0 {
			// None of the ranges is of this family: nobody may come.
			r.external(d, Route{Drop: true}, Route{Drop: true})
			continue
		}
		cluster.Sources, local.Sources = sources, sources
		r.external(d, cluster, local)
	}
}

// leadsElsewhere says whether a load balancer told of an error of a port at an address.
func leadsElsewhere(in *corev1.LoadBalancerIngress, p *corev1.ServicePort) bool {
	return slices.ContainsFunc(in.Ports, func(st corev1.PortStatus) bool {
		return st.Error != nil && st.Port == p.Port && protocolOf(st.Protocol) == protocolOf(p.Protocol)
	})
}

// sourcesOf are the ranges of clients that a load balancer's addresses are for: of the spec or, where that has none, of the
// annotation that came before it. What the API takes is understood, such as 010.0.0.0/8.
func sourcesOf(f Family, s *corev1.Service) (out []netip.Prefix, limited bool) {
	texts := s.Spec.LoadBalancerSourceRanges
	if len(texts) == 0 {
		if ranges := strings.TrimSpace(s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]); ranges != "" {
			texts = strings.Split(ranges, ",")
		}
	}
	for _, text := range texts {
		_, n, err := netutils.ParseCIDRSloppy(strings.TrimSpace(text))
		if err != nil {
			continue
		}
		if a, ok := netip.AddrFromSlice(n.IP); ok && FamilyOf(a.Unmap()) == f {
			ones, _ := n.Mask.Size()
			out = append(out, netip.PrefixFrom(a.Unmap(), ones))
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return apart(out), len(texts) > 0
}

// apart leaves out the ranges within others, which are said already: the kernel refuses ranges that overlap. They come in
// order, a wide one before those within it.
func apart(ranges []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range ranges {
		if len(out) == 0 || !out[len(out)-1].Contains(p.Addr()) {
			out = append(out, p)
		}
	}
	return out
}
