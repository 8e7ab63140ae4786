package endpoint

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// member is a pod of a service, and all that an endpoint says of it.
type member struct {
	pod                         *corev1.Pod
	address                     string
	ready, serving, terminating bool
	// hostname, zone and the hints are empty where the endpoint has none.
	hostname, zone   string
	forNode, forZone string
	// filed says that some slice has it; was, that it says of it that it is ready.
	filed, was bool
}

func memberOf(r object.Reader, s *corev1.Service, p *corev1.Pod, address string) member {
	m := member{pod: p, address: address, serving: podstate.Ready(p), terminating: p.DeletionTimestamp != nil, hostname: hostnameOf(s, p)}
	m.ready = s.Spec.PublishNotReadyAddresses || m.serving && !m.terminating
	if p.Spec.NodeName == "" {
		return m
	}
	if o, ok := r.Get(resource.Nodes, "", p.Spec.NodeName); ok {
		m.zone = o.GetLabels()[corev1.LabelTopologyZone]
	}
	// Hints tell proxies which endpoints to prefer (KEP-4444, KEP-3015).
	if s.Spec.TrafficDistribution == nil || !m.ready {
		return m
	}
	switch *s.Spec.TrafficDistribution {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		m.forNode, m.forZone = p.Spec.NodeName, m.zone
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
		m.forZone = m.zone
	}
	return m
}

// endpoint writes the member down.
func (m *member) endpoint() discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses:  []string{m.address},
		Conditions: discoveryv1.EndpointConditions{Ready: new(m.ready), Serving: new(m.serving), Terminating: new(m.terminating)},
		TargetRef:  targetRef(m.pod), Hostname: unlessEmpty(m.hostname), NodeName: unlessEmpty(m.pod.Spec.NodeName), Zone: unlessEmpty(m.zone),
	}
	if m.forNode == "" && m.forZone == "" {
		return e
	}
	e.Hints = &discoveryv1.EndpointHints{}
	if m.forNode != "" {
		e.Hints.ForNodes = []discoveryv1.ForNode{{Name: m.forNode}}
	}
	if m.forZone != "" {
		e.Hints.ForZones = []discoveryv1.ForZone{{Name: m.forZone}}
	}
	return e
}

// is says whether an endpoint says what endpoint would, and makes nothing: a service's endpoints are all looked at when one changes.
func (m *member) is(e *discoveryv1.Endpoint) bool {
	c := &e.Conditions
	return len(e.Addresses) == 1 && e.Addresses[0] == m.address &&
		says(c.Ready, m.ready) && says(c.Serving, m.serving) && says(c.Terminating, m.terminating) &&
		reads(e.Hostname, m.hostname) && reads(e.NodeName, m.pod.Spec.NodeName) && reads(e.Zone, m.zone) &&
		len(e.DeprecatedTopology) == 0 && m.referred(e.TargetRef) && m.hinted(e.Hints)
}

func (m *member) referred(ref *corev1.ObjectReference) bool {
	return ref != nil && *ref == corev1.ObjectReference{Kind: "Pod", Namespace: m.pod.Namespace, Name: m.pod.Name, UID: m.pod.UID}
}

func (m *member) hinted(h *discoveryv1.EndpointHints) bool {
	if h == nil || m.forNode == "" && m.forZone == "" {
		return h == nil && m.forNode == "" && m.forZone == ""
	}
	nodes, zones := m.forNode == "", m.forZone == ""
	if len(h.ForNodes) > 0 {
		nodes = len(h.ForNodes) == 1 && m.forNode != "" && h.ForNodes[0].Name == m.forNode
	}
	if len(h.ForZones) > 0 {
		zones = len(h.ForZones) == 1 && m.forZone != "" && h.ForZones[0].Name == m.forZone
	}
	return nodes && zones
}

func says(b *bool, want bool) bool { return b != nil && *b == want }

// reads says whether a text is the one that unlessEmpty makes.
func reads(text *string, want string) bool {
	if text == nil {
		return want == ""
	}
	return want != "" && *text == want
}

func unlessEmpty(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
