// Package proxy decides what the kernel of one node shall hold so that services lead to their endpoints: from Services,
// EndpointSlices and the node, as values. It also decides how to get there from what the kernel holds already.
//
// It owns the choice of endpoints (readiness, traffic policies, topology), who has a destination that two services claim,
// and the layout in elements. It refuses effects: package services writes what is decided here. Behaviour:
// https://kubernetes.io/docs/reference/networking/virtual-ips/.
package proxy

import (
	"bytes"
	"cmp"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Numbers of protocols (IANA).
const (
	TCP  = 6
	UDP  = 17
	SCTP = 132
)

// Endpoint is where packets are led to.
type Endpoint struct {
	Address Address
	Port    uint16
}

// Compare orders endpoints.
func (e Endpoint) Compare(o Endpoint) int {
	return cmp.Or(bytes.Compare(e.Address[:], o.Address[:]), cmp.Compare(e.Port, o.Port))
}

// Destination is where packets are sent to before they are led elsewhere.
type Destination struct {
	Address  Address
	Port     uint16
	Protocol uint8
	// Outside: it holds for packets that come neither from a pod of the node nor from the node itself, and goes before the
	// one that holds for all.
	Outside bool
}

// Route is what becomes of packets to a destination. Without endpoints they are refused.
type Route struct {
	// Endpoints are in order, each once.
	Endpoints []Endpoint
	// Sticky is for how many seconds a client stays with its endpoint; 0 for not at all.
	Sticky uint32
	// Masquerade: packets from outside the cluster get the node's address, so that the answer comes back here.
	Masquerade bool
	// Drop, without endpoints: silence instead of a refusal, for others may have some (traffic policy Local).
	Drop bool
	// Sources, if there are any, are the only clients let in.
	Sources []netip.Prefix
}

// Frontend is a destination with its route.
type Frontend struct {
	Destination
	Route
}

// Node is what routing depends on of the node that it is for.
type Node struct {
	Name, Zone string
	// Family is that of the addresses that are led: a node of two families has a table for each.
	Family Family
	// Pods is the range of its pods.
	Pods netip.Prefix
	// API is where the API server is to be reached from this node, if that is not where its endpoints say.
	API Endpoint
}

// Routes says what a service needs on a node. Its slices are all that name it; what is no address, no port or no protocol
// in them leads nowhere and is left out.
func Routes(s *corev1.Service, all []*discoveryv1.EndpointSlice, n Node) []Frontend {
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.DeletionTimestamp != nil && len(s.Finalizers) == 0 || !n.Family.has(s) {
		return nil
	}
	r := routing{service: s, node: n, sticky: stickyOf(s)}
	for i := range s.Spec.Ports {
		r.port(&s.Spec.Ports[i], all)
	}
	return r.out
}

type routing struct {
	service *corev1.Service
	node    Node
	sticky  uint32
	out     []Frontend
}

func (r *routing) port(p *corev1.ServicePort, all []*discoveryv1.EndpointSlice) {
	proto := protocolOf(p.Protocol)
	if proto == 0 || p.Port < 1 || p.Port > 65535 {
		return
	}
	c := r.candidates(p, all)
	cluster := Route{Endpoints: c.near(r.node), Sticky: r.sticky}
	local := Route{Endpoints: c.local(r.node.Name), Sticky: r.sticky}
	local.Drop = len(local.Endpoints) == 0 && len(cluster.Endpoints) > 0
	s := &r.service.Spec
	at := func(ip string, port int32) (Destination, bool) {
		a, ok := r.node.Family.parse(ip)
		return Destination{Address: a, Port: uint16(port), Protocol: proto}, ok
	}
	for _, ip := range clusterIPs(s) {
		if d, ok := at(ip, p.Port); ok {
			inside := cluster
			if s.InternalTrafficPolicy != nil && *s.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal {
				inside = local
			}
			r.out = append(r.out, Frontend{d, inside})
		}
	}
	for _, ip := range s.ExternalIPs {
		if d, ok := at(ip, p.Port); ok {
			r.external(d, cluster, local)
		}
	}
	if s.Type == corev1.ServiceTypeLoadBalancer {
		r.balanced(p, at, cluster, local)
	}
	if p.NodePort > 0 && p.NodePort <= 65535 && s.Type != corev1.ServiceTypeClusterIP {
		r.external(Destination{Port: uint16(p.NodePort), Protocol: proto}, cluster, local)
	}
}

// external adds a destination that is reached from outside the cluster. With the policy Local, who comes from outside is
// kept on this node and seen by its own address; the cluster's own are led anywhere.
func (r *routing) external(d Destination, cluster, local Route) {
	if r.service.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		cluster.Masquerade = true
		r.out = append(r.out, Frontend{d, cluster})
		return
	}
	r.out = append(r.out, Frontend{d, cluster})
	d.Outside = true
	r.out = append(r.out, Frontend{d, local})
}

func stickyOf(s *corev1.Service) uint32 {
	if s.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil && *c.ClientIP.TimeoutSeconds > 0 {
		return uint32(min(*c.ClientIP.TimeoutSeconds, maxSticky))
	}
	return uint32(corev1.DefaultClientIPServiceAffinitySeconds)
}

// maxSticky is a day (core/v1).
const maxSticky = 86400

func clusterIPs(s *corev1.ServiceSpec) []string {
	if len(s.ClusterIPs) > 0 {
		return s.ClusterIPs
	}
	return []string{s.ClusterIP}
}

func protocolOf(p corev1.Protocol) uint8 {
	switch p {
	case corev1.ProtocolTCP, "":
		return TCP
	case corev1.ProtocolUDP:
		return UDP
	case corev1.ProtocolSCTP:
		return SCTP
	}
	return 0
}

// isKubernetes says whether a service is the one that leads to the API server.
func isKubernetes(m *metav1.ObjectMeta) bool {
	return m.Namespace == metav1.NamespaceDefault && m.Name == "kubernetes"
}
