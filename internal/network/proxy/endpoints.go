package proxy

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// candidate is an endpoint that may serve, with what speaks for and against it.
type candidate struct {
	Endpoint
	// ready: it takes new connections. Else it is a last resort: it ends, and serves still (KEP-1669).
	ready bool
	node  string
	hints *discoveryv1.EndpointHints
}

type candidates []candidate

// candidates reads the endpoints of a port from the slices of its service. One that is named twice counts with its better
// half: a slice of another's making must not take a ready endpoint away.
func (r *routing) candidates(p *corev1.ServicePort, all []*discoveryv1.EndpointSlice) candidates {
	if isKubernetes(&r.service.ObjectMeta) && r.node.API.Port != 0 {
		return candidates{{Endpoint: r.node.API, ready: true, node: r.node.Name}}
	}
	var out candidates
	for _, sl := range all {
		if sl.AddressType != r.node.Family.slicesOf() {
			continue
		}
		port := portIn(sl, p)
		if port == 0 {
			continue
		}
		for i := range sl.Endpoints {
			if c, ok := candidateOf(r.node.Family, &sl.Endpoints[i], port); ok {
				out = append(out, c)
			}
		}
	}
	slices.SortFunc(out, func(a, b candidate) int {
		if c := a.Compare(b.Endpoint); c != 0 || a.ready == b.ready {
			return c
		}
		if a.ready {
			return -1
		}
		return 1
	})
	return slices.CompactFunc(out, func(a, b candidate) bool { return a.Endpoint == b.Endpoint })
}

// portIn is the number of a service's port in a slice, 0 where that has none of its name and protocol.
func portIn(sl *discoveryv1.EndpointSlice, p *corev1.ServicePort) uint16 {
	for i := range sl.Ports {
		q := &sl.Ports[i]
		name, protocol := "", corev1.ProtocolTCP
		if q.Name != nil {
			name = *q.Name
		}
		if q.Protocol != nil {
			protocol = *q.Protocol
		}
		if name == p.Name && protocolOf(protocol) == protocolOf(p.Protocol) && q.Port != nil && *q.Port > 0 && *q.Port <= 65535 {
			return uint16(*q.Port)
		}
	}
	return 0
}

func candidateOf(f Family, e *discoveryv1.Endpoint, port uint16) (candidate, bool) {
	if len(e.Addresses) == 0 {
		return candidate{}, false
	}
	a, ok := f.parse(e.Addresses[0])
	if !ok {
		return candidate{}, false
	}
	c := candidate{Endpoint: Endpoint{a, port}, hints: e.Hints}
	if e.NodeName != nil {
		c.node = *e.NodeName
	}
	cond := &e.Conditions
	c.ready = cond.Ready == nil || *cond.Ready
	serving := c.ready
	if cond.Serving != nil {
		serving = *cond.Serving
	}
	return c, c.ready || serving && cond.Terminating != nil && *cond.Terminating
}

// best are the ready ones or, if there is none, those that end.
func (c candidates) best() candidates {
	ready := make(candidates, 0, len(c))
	for i := range c {
		if c[i].ready {
			ready = append(ready, c[i])
		}
	}
	if len(ready) == 0 {
		return c
	}
	return ready
}

func (c candidates) endpoints() []Endpoint {
	out := make([]Endpoint, len(c))
	for i := range c {
		out[i] = c[i].Endpoint
	}
	return out
}

// local are the endpoints on a node.
func (c candidates) local(node string) []Endpoint {
	here := candidates{}
	for i := range c {
		if c[i].node == node {
			here = append(here, c[i])
		}
	}
	return here.best().endpoints()
}

// near are the endpoints of the whole cluster that are meant for a node by their hints (trafficDistribution, KEP-4444): of
// the node itself, else of its zone. Hints count only where each endpoint has them, and where they leave any.
func (c candidates) near(n Node) []Endpoint {
	all := c.best()
	for _, hinted := range []func(*discoveryv1.EndpointHints) (has, here bool){
		func(h *discoveryv1.EndpointHints) (bool, bool) {
			return len(h.ForNodes) > 0, slices.ContainsFunc(h.ForNodes, func(f discoveryv1.ForNode) bool { return f.Name == n.Name })
		},
		func(h *discoveryv1.EndpointHints) (bool, bool) {
			return len(h.ForZones) > 0, n.Zone != "" &&
				slices.ContainsFunc(h.ForZones, func(f discoveryv1.ForZone) bool { return f.Name == n.Zone })
		},
	} {
		if chosen := all.hinted(hinted); len(chosen) > 0 {
			return chosen.endpoints()
		}
	}
	return all.endpoints()
}

func (c candidates) hinted(by func(*discoveryv1.EndpointHints) (has, here bool)) candidates {
	var out candidates
	for i := range c {
		if c[i].hints == nil {
			return nil
		}
		has, here := by(c[i].hints)
		if !has {
			return nil
		}
		if here {
			out = append(out, c[i])
		}
	}
	return out
}
