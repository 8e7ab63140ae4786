package kind

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/address"
)

// settleService completes an update: a manifest names neither the addresses that the Service was
// given nor, after a change of type, those that it must give up. It is idempotent.
func settleService(s, old *corev1.Service) {
	dropOutlived(s, old)
	keepGiven(s, old)
	syncClusterIPs(s, old)
}

// dropOutlived clears what the new type has no use for, unless the user changed it: then
// validation tells.
func dropOutlived(s, old *corev1.Service) {
	if address.NeedsClusterIP(old) && !address.NeedsClusterIP(s) {
		if s.Spec.ClusterIP == old.Spec.ClusterIP && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
		}
		if slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
			s.Spec.IPFamilies = nil
		}
		if ptr.Equal(s.Spec.IPFamilyPolicy, old.Spec.IPFamilyPolicy) {
			s.Spec.IPFamilyPolicy = nil
		}
	}
	if address.NeedsNodePorts(old) && !address.NeedsNodePorts(s) && sameNodePorts(s, old) {
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	}
	if address.NeedsHealthCheckPort(old) && !address.NeedsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == old.Spec.HealthCheckNodePort {
		s.Spec.HealthCheckNodePort = 0
	}
	balanced := func(x *corev1.Service) bool { return x.Spec.Type == corev1.ServiceTypeLoadBalancer }
	if balanced(old) && !balanced(s) {
		if ptr.Equal(s.Spec.AllocateLoadBalancerNodePorts, old.Spec.AllocateLoadBalancerNodePorts) {
			s.Spec.AllocateLoadBalancerNodePorts = nil
		}
		if ptr.Equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
			s.Spec.LoadBalancerClass = nil
		}
	}
	if reachedFromOutside(old) && !reachedFromOutside(s) && s.Spec.ExternalTrafficPolicy == old.Spec.ExternalTrafficPolicy {
		s.Spec.ExternalTrafficPolicy = ""
	}
}

// sameNodePorts says whether every node port of s was one of old's.
func sameNodePorts(s, old *corev1.Service) bool {
	for i := range s.Spec.Ports {
		port := s.Spec.Ports[i].NodePort
		if port != 0 && !slices.ContainsFunc(old.Spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort == port }) {
			return false
		}
	}
	return true
}

// keepGiven copies over the addresses that the Service has and the update leaves out.
func keepGiven(s, old *corev1.Service) {
	if address.NeedsClusterIP(old) && address.NeedsClusterIP(s) {
		if s.Spec.ClusterIP == "" && len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = old.Spec.ClusterIP, old.Spec.ClusterIPs
		} else if len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP == old.Spec.ClusterIP {
			s.Spec.ClusterIPs = old.Spec.ClusterIPs
		}
	}
	if address.NeedsNodePorts(old) && address.NeedsNodePorts(s) {
		keepNodePorts(s, old)
	}
	if address.NeedsHealthCheckPort(old) && address.NeedsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

func keepNodePorts(s, old *corev1.Service) {
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	had, used := map[key]int32{}, map[int32]bool{}
	for _, p := range old.Spec.Ports {
		had[key{p.Protocol, p.Port}] = p.NodePort
	}
	for _, p := range s.Spec.Ports {
		used[p.NodePort] = true
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if given := had[key{p.Protocol, p.Port}]; p.NodePort == 0 && given != 0 && !used[given] {
			p.NodePort = given
		}
	}
}

// syncClusterIPs keeps clusterIP and the first of clusterIPs one, from whichever the client
// speaks; old is nil on creation.
func syncClusterIPs(s, old *corev1.Service) {
	ip, ips := s.Spec.ClusterIP, s.Spec.ClusterIPs
	if old == nil {
		if ip != "" && len(ips) == 0 {
			s.Spec.ClusterIPs = []string{ip}
		}
		return
	}
	sameOne, sameAll := ip == old.Spec.ClusterIP, slices.Equal(ips, old.Spec.ClusterIPs)
	switch {
	case !sameOne && sameAll && ip == "":
		// An old client cleared it.
		s.Spec.ClusterIPs = nil
	case !sameOne && sameAll, ip != "" && len(ips) == 0:
		s.Spec.ClusterIPs = []string{ip}
	case sameOne && !sameAll && len(ips) == 0:
		s.Spec.ClusterIP = ""
	}
}
