package proxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// endpoint is written "address flags": r(eady), s(erving), t(erminating), and @node, %zone of a hint, =node of a hint.
func endpoint(text string) discoveryv1.Endpoint {
	words := strings.Fields(text)
	e := discoveryv1.Endpoint{Addresses: []string{words[0]}}
	is := func(flag string) *bool { b := strings.Contains(words[1], flag); return &b }
	e.Conditions = discoveryv1.EndpointConditions{Ready: is("r"), Serving: is("s"), Terminating: is("t")}
	for _, w := range words[2:] {
		name := w[1:]
		if e.Hints == nil && w[0] != '@' {
			e.Hints = &discoveryv1.EndpointHints{}
		}
		switch w[0] {
		case '@':
			e.NodeName = &name
		case '%':
			e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: name})
		case '=':
			e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: name})
		}
	}
	return e
}

func sliceOf(port int32, endpoints ...string) *discoveryv1.EndpointSlice {
	name, proto := "http", corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Protocol: &proto, Port: &port}},
	}
	for _, e := range endpoints {
		s.Endpoints = append(s.Endpoints, endpoint(e))
	}
	return s
}

func show(all []Frontend) []string {
	var out []string
	for _, f := range all {
		line := fmt.Sprintf("%d.%d.%d.%d:%d/%d", f.Address[0], f.Address[1], f.Address[2], f.Address[3], f.Destination.Port, f.Protocol)
		for _, flag := range []struct {
			name string
			on   bool
		}{{" outside", f.Outside}, {" masquerade", f.Masquerade}, {" drop", f.Drop}} {
			if flag.on {
				line += flag.name
			}
		}
		line += " ->"
		for _, e := range f.Endpoints {
			line += fmt.Sprintf(" %d:%d", e.Address[3], e.Port)
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

func TestRoutes(t *testing.T) {
	local := corev1.ServiceInternalTrafficPolicyLocal
	for _, c := range []struct {
		name   string
		change func(*corev1.Service)
		slices []*discoveryv1.EndpointSlice
		want   []string
	}{
		{"ready ones", nil, []*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs", "10.244.0.3 -", "10.244.0.4 st")},
			[]string{"10.96.0.1:80/6 -> 2:8080"}},
		{"the last resort", nil, []*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.3 -", "10.244.0.4 st", "10.244.0.5 t")},
			[]string{"10.96.0.1:80/6 -> 4:8080"}},
		{"none", nil, nil, []string{"10.96.0.1:80/6 ->"}},
		{"named ports that differ", nil, []*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs"), sliceOf(9090, "10.244.0.3 rs")},
			[]string{"10.96.0.1:80/6 -> 2:8080 3:9090"}},
		{"one named twice", nil, []*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs"), sliceOf(8080, "10.244.0.2 st", "10.244.0.2 rs")},
			[]string{"10.96.0.1:80/6 -> 2:8080"}},
		{"nonsense", nil, []*discoveryv1.EndpointSlice{
			sliceOf(8080, "127.0.0.1 rs", "nonsense rs", "::1 rs", "0.0.0.0 rs", "224.0.0.1 rs", "10.244.0.2 rs"), sliceOf(0, "10.244.0.9 rs"),
			sliceOf(70000, "10.244.0.9 rs"), {AddressType: discoveryv1.AddressTypeFQDN, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"a.b"}}}},
			{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{}}, Endpoints: []discoveryv1.Endpoint{{}}},
		}, []string{"10.96.0.1:80/6 -> 2:8080"}},
		{"local inside", func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &local },
			[]*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs @one", "10.244.0.3 rs @two")}, []string{"10.96.0.1:80/6 -> 2:8080"}},
		{"local inside, elsewhere", func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &local },
			[]*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.3 rs @two")}, []string{"10.96.0.1:80/6 drop ->"}},
		{"node port", func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30000 },
			[]*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs")}, []string{"0.0.0.0:30000/6 masquerade -> 2:8080", "10.96.0.1:80/6 -> 2:8080"}},
		{"node port, local outside", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30000
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}, []*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs @one", "10.244.0.3 rs @two")}, []string{
			"0.0.0.0:30000/6 -> 2:8080 3:8080", "0.0.0.0:30000/6 outside -> 2:8080", "10.96.0.1:80/6 -> 2:8080 3:8080",
		}},
		{"external IPs", func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"198.51.100.1", "127.0.0.1"} },
			[]*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs")},
			[]string{"10.96.0.1:80/6 -> 2:8080", "198.51.100.1:80/6 masquerade -> 2:8080"}},
		{"load balancer", func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			proxied := corev1.LoadBalancerIPModeProxy
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{
				{IP: "192.0.2.1"}, {IP: "192.0.2.2", IPMode: &proxied}, {Hostname: "lb.example.com"}, {IP: "fd00::1"},
				{IP: "192.0.2.3", Ports: []corev1.PortStatus{{Port: 80, Protocol: corev1.ProtocolTCP, Error: new(string)}}},
				{IP: "192.0.2.4", Ports: []corev1.PortStatus{{Port: 80, Protocol: corev1.ProtocolUDP, Error: new(string)}}},
			}
		}, []*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs")},
			[]string{"10.96.0.1:80/6 -> 2:8080", "192.0.2.1:80/6 masquerade -> 2:8080", "192.0.2.4:80/6 masquerade -> 2:8080"}},
		{"load balancer for nobody of this family", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.LoadBalancerSourceRanges = corev1.ServiceTypeLoadBalancer, []string{"2001:db8::/32"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
		}, []*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs")},
			[]string{"10.96.0.1:80/6 -> 2:8080", "192.0.2.1:80/6 masquerade drop ->"}},
		{"external name", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName },
			[]*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs")}, nil},
		{"headless", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} },
			[]*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs")}, nil},
		{"hints for the node", nil, []*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs =one %z", "10.244.0.3 rs =two %z")},
			[]string{"10.96.0.1:80/6 -> 2:8080"}},
		{"hints for the zone", nil, []*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs %y", "10.244.0.3 rs =two %z")},
			[]string{"10.96.0.1:80/6 -> 3:8080"}},
		{"hints that one lacks", nil, []*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs", "10.244.0.3 rs %z")},
			[]string{"10.96.0.1:80/6 -> 2:8080 3:8080"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"},
				Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromString("http")}},
			}}
			if c.change != nil {
				c.change(s)
			}
			if got := show(Routes(s, c.slices, Node{Name: "one", Zone: "z"})); !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// TestSources: who may come is what the spec says, or else the annotation; what cannot be read opens nothing.
func TestSources(t *testing.T) {
	for _, c := range []struct {
		spec       []string
		annotation string
		want       string
		limited    bool
	}{
		{nil, "", "[]", false},
		{[]string{"10.1.0.0/16", " 10.0.0.0/8 ", "192.0.2.7/32"}, "", "[10.0.0.0/8 192.0.2.7/32]", true},
		{[]string{"010.1.0.0/16"}, "", "[10.1.0.0/16]", true},
		{[]string{"10.1.2.3/16"}, "", "[10.1.0.0/16]", true},
		{[]string{"0.0.0.0/0", "10.0.0.0/8"}, "", "[0.0.0.0/0]", true},
		{[]string{"10.2.0.0/16", "10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/24", "11.0.0.0/8"}, "", "[10.0.0.0/8 11.0.0.0/8]", true},
		{[]string{"2001:db8::/32"}, "", "[]", true},
		{nil, "10.0.0.0/8, 192.0.2.0/24", "[10.0.0.0/8 192.0.2.0/24]", true},
		{[]string{"10.0.0.0/8"}, "192.0.2.0/24", "[10.0.0.0/8]", true},
	} {
		s := &corev1.Service{Spec: corev1.ServiceSpec{LoadBalancerSourceRanges: c.spec}}
		s.Annotations = map[string]string{corev1.AnnotationLoadBalancerSourceRangesKey: c.annotation}
		if got, limited := sourcesOf(IPv4, s); fmt.Sprint(got) != c.want || limited != c.limited {
			t.Errorf("%q, %q: %v, %v; want %s, %v", c.spec, c.annotation, got, limited, c.want, c.limited)
		}
	}
}

// TestFamilies: of a service of two families each table has what is of its own, and nothing of a service of the other alone.
func TestFamilies(t *testing.T) {
	dual := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1", "fd00:96::1"}, ExternalIPs: []string{"192.0.2.8", "2001:db8::8", "fe80::8"},
		LoadBalancerSourceRanges: []string{"192.0.2.0/24", "2001:db8::/32"},
		Ports:                    []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30080}},
	}, Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.9"}, {IP: "2001:db8::9"}}}}}
	six := sliceOf(8080, "fd00:244::2 rs @n", "10.244.0.9 rs")
	six.AddressType = discoveryv1.AddressTypeIPv6
	slices := []*discoveryv1.EndpointSlice{sliceOf(8080, "10.244.0.2 rs @n", "10.244.0.3 rs @n"), six}
	for f, want := range map[Family][]string{
		IPv4: {"10.96.0.1 10.244.0.2 10.244.0.3", "192.0.2.8 10.244.0.2 10.244.0.3", "192.0.2.9 10.244.0.2 10.244.0.3 from 192.0.2.0/24", "0.0.0.0 10.244.0.2 10.244.0.3"},
		IPv6: {"fd00:96::1 fd00:244::2", "2001:db8::8 fd00:244::2", "2001:db8::9 fd00:244::2 from 2001:db8::/32", ":: fd00:244::2"},
	} {
		var got []string
		for _, r := range Routes(dual, slices, Node{Name: "n", Family: f}) {
			line := f.Addr(r.Address).String()
			for _, e := range r.Endpoints {
				line += " " + f.Addr(e.Address).String()
			}
			for _, s := range r.Sources {
				line += " from " + s.String()
			}
			got = append(got, line)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("family %d: %q, want %q", f, got, want)
		}
	}
	single := dual.DeepCopy()
	single.Spec.ClusterIPs = single.Spec.ClusterIPs[:1]
	if got := Routes(single, slices, Node{Name: "n", Family: IPv6}); len(got) > 0 {
		t.Errorf("a service of IPv4 alone has %v", got)
	}
	if n := LocalEndpoints(slices, "n", nil); n != 2 {
		t.Errorf("%d local endpoints: those of two families are the same pods", n)
	}
}
