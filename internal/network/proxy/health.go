package proxy

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// HealthChecked says whether load balancers ask each node if it has endpoints of a service.
func HealthChecked(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal &&
		s.Spec.HealthCheckNodePort > 0 && s.Spec.HealthCheckNodePort <= 65535
}

// LocalEndpoints counts the endpoints in the slices of a service that are ready, on a node or where here says, each address
// once: of the family that has more of them, since those of two families are the same pods.
func LocalEndpoints(all []*discoveryv1.EndpointSlice, node string, here func(netip.Addr) bool) int {
	seen, most := map[netip.Addr]bool{}, map[Family]int{}
	for _, sl := range all {
		f, ok := FamilyOfSlice(sl)
		if !ok {
			continue
		}
		for i := range sl.Endpoints {
			e := &sl.Endpoints[i]
			c, ok := candidateOf(f, e, 1)
			at := f.Addr(c.Address)
			if !ok || !c.ready || seen[at] {
				continue
			}
			if c.node == node || here != nil && here(at) {
				seen[at] = true
				most[f]++
			}
		}
	}
	return max(most[IPv4], most[IPv6])
}
