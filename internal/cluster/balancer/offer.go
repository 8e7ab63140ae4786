package balancer

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"coracle/internal/behind"
	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// host is an address with the nodes that have it: nodes of one machine share one.
type host struct {
	address netip.Addr
	nodes   []*corev1.Node
}

// offer says at which addresses a service is reached, and which of its ports lead elsewhere there.
func offer(r object.Reader, s *corev1.Service) (given []corev1.LoadBalancerIngress, because []taken) {
	for _, h := range hosts(r, s) {
		in := corev1.LoadBalancerIngress{IP: h.address.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)}
		free := 0
		for i := range s.Spec.Ports {
			p := &s.Spec.Ports[i]
			st := corev1.PortStatus{Port: p.Port, Protocol: protocol(p.Protocol)}
			if by, is := takenAt(r, s, p, h); is {
				st.Error = ptr.To(PortTaken)
				because = append(because, by)
			} else {
				free++
			}
			in.Ports = append(in.Ports, st)
		}
		if free == 0 {
			continue
		}
		if free == len(in.Ports) {
			in.Ports = nil
		}
		given = append(given, in)
	}
	return given, because
}

// hosts are the addresses that a service may be reached at, in order: of the nodes that are ready and take new pods, of those
// that take none where there is no other. With the traffic policy Local only those with a ready endpoint, as long as there is one.
func hosts(r object.Reader, s *corev1.Service) []host {
	var open, closed []*corev1.Node
	for _, o := range r.List(resource.Nodes, "") {
		n := o.(*corev1.Node)
		switch ready := nodestate.Ready(n); {
		case !ready || nodestate.Simulated(n) || n.DeletionTimestamp != nil || excluded(n):
		case n.Spec.Unschedulable:
			closed = append(closed, n)
		default:
			open = append(open, n)
		}
	}
	if len(open) == 0 {
		open = closed
	}
	all := byAddress(open, s)
	if s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return all
	}
	serving := servingNodes(r, s)
	with := slices.DeleteFunc(slices.Clone(all), func(h host) bool {
		return !slices.ContainsFunc(h.nodes, func(n *corev1.Node) bool { return serving[n.Name] })
	})
	if len(with) > 0 {
		return with
	}
	return all
}

// excluded says that a node's owner keeps load balancers off it (well-known labels).
func excluded(n *corev1.Node) bool {
	_, is := n.Labels[corev1.LabelNodeExcludeBalancers]
	return is
}

func byAddress(nodes []*corev1.Node, s *corev1.Service) []host {
	wanted := s.Spec.LoadBalancerIP // deprecated, and clients still write it
	var out []host
	for _, n := range nodes {
		a, ok := addressOf(n)
		if !ok || wanted != "" && wanted != a.String() {
			continue
		}
		if i := slices.IndexFunc(out, func(h host) bool { return h.address == a }); i >= 0 {
			out[i].nodes = append(out[i].nodes, n)
		} else {
			out = append(out, host{a, []*corev1.Node{n}})
		}
	}
	slices.SortFunc(out, func(x, y host) int { return x.address.Compare(y.address) })
	return out
}

// addressOf is where a node is reached from without, or else from other nodes. A loopback address means another machine to
// each that reads it.
func addressOf(n *corev1.Node) (netip.Addr, bool) {
	for _, want := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		for _, a := range n.Status.Addresses {
			ip, err := netip.ParseAddr(a.Address)
			if a.Type == want && err == nil && ip.Is4() && ip.IsGlobalUnicast() {
				return ip, true
			}
		}
	}
	return netip.Addr{}, false
}

// servingNodes are those with an endpoint of a service that is ready.
func servingNodes(r object.Reader, s *corev1.Service) map[string]bool {
	out := map[string]bool{}
	for _, sl := range behind.Slices(r, object.KeyOf(s)) {
		for i := range sl.Endpoints {
			e := &sl.Endpoints[i]
			if e.NodeName != nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				out[*e.NodeName] = true
			}
		}
	}
	return out
}

// taken is a port that leads elsewhere at an address.
type taken struct {
	port    string
	address netip.Addr
	// by is who has it, whose says what it is to him.
	by    object.Ref
	whose string
}

func (t taken) String() string {
	return fmt.Sprintf("port %s at %s is taken: it is %s", t.port, t.address, t.whose)
}

func (t taken) remedy() string {
	if t.by.Name == "" {
		return "give the service another port"
	}
	return fmt.Sprintf("give the service another port, or delete %s %s", strings.ToLower(t.by.Resource.Kind), t.by.Key)
}

// takenAt says who has a port at an address before a service: the cluster itself, whoever was given it as a node port or a
// host port, or an elder service that wants it of its load balancer.
func takenAt(r object.Reader, s *corev1.Service, p *corev1.ServicePort, h host) (taken, bool) {
	word := portWord(p.Protocol, p.Port)
	t := taken{port: word, address: h.address}
	if whose := ofCluster(r, p, h); whose != "" {
		t.whose = whose
		return t, true
	}
	for _, o := range r.Indexed(resource.Services, indexPorts, nodePort+word) {
		if other := o.(*corev1.Service); other.UID != s.UID {
			t.by, t.whose = object.RefOf(o), "a node port of service "+object.KeyOf(o).String()
			return t, true
		}
	}
	for _, o := range r.Indexed(resource.Pods, indexPorts, balanced+word) {
		pod := o.(*corev1.Pod)
		if slices.ContainsFunc(h.nodes, func(n *corev1.Node) bool { return n.Name == pod.Spec.NodeName }) {
			t.by, t.whose = object.RefOf(o), "a host port of pod "+object.KeyOf(o).String()
			return t, true
		}
	}
	for _, o := range r.Indexed(resource.Services, indexPorts, external+word) {
		other := o.(*corev1.Service)
		if other.UID != s.UID && elder(other, s) && slices.Contains(other.Spec.ExternalIPs, h.address.String()) {
			t.by, t.whose = object.RefOf(o), "at an external IP of service "+object.KeyOf(o).String()+", which is older"
			return t, true
		}
	}
	for _, o := range r.Indexed(resource.Services, indexPorts, balanced+word) {
		other := o.(*corev1.Service)
		wanted := other.Spec.LoadBalancerIP // deprecated, and clients still write it
		if other.UID != s.UID && elder(other, s) && (wanted == "" || wanted == h.address.String()) {
			t.by, t.whose = object.RefOf(o), "the port of service "+object.KeyOf(o).String()+", which is older"
			return t, true
		}
	}
	return taken{}, false
}

// elder orders services as routing does (network/proxy): what two want, the elder has.
func elder(a, b *corev1.Service) bool {
	return cmp.Or(cmp.Compare(a.CreationTimestamp.Unix(), b.CreationTimestamp.Unix()), strings.Compare(a.Namespace, b.Namespace),
		strings.Compare(a.Name, b.Name)) < 0
}

// ofCluster says whether a port is one that the cluster itself is reached by.
func ofCluster(r object.Reader, p *corev1.ServicePort, h host) string {
	if protocol(p.Protocol) != corev1.ProtocolTCP {
		return ""
	}
	for _, n := range h.nodes {
		if n.Status.DaemonEndpoints.KubeletEndpoint.Port == p.Port {
			return "where the server reaches node " + n.Name
		}
	}
	o, ok := r.Get(resource.EndpointSlices, "default", "kubernetes")
	if !ok {
		return ""
	}
	sl := o.(*discoveryv1.EndpointSlice)
	at := slices.ContainsFunc(sl.Endpoints, func(e discoveryv1.Endpoint) bool { return slices.Contains(e.Addresses, h.address.String()) })
	if at && slices.ContainsFunc(sl.Ports, func(q discoveryv1.EndpointPort) bool { return q.Port != nil && *q.Port == p.Port }) {
		return "the API server's"
	}
	return ""
}
