package why_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// leading is a service in front of solo, changed.
func leading(change ...func(*corev1.Service)) *corev1.Service {
	s := reachable("default", "web", "10.96.0.9")
	for _, f := range change {
		f(s)
	}
	return s
}

func bare(s *corev1.Service) { s.Spec.Selector = nil }

func balancedBy(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer }

func addressed(ip string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}
	}
}

func openPort(name string, number int32) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) {
		s.Containers[0].Ports = []corev1.ContainerPort{{Name: name, ContainerPort: number, Protocol: corev1.ProtocolTCP}}
	}
}

func changeService(name string, change func(*corev1.Service)) func(*world) {
	return func(w *world) {
		edit(w, resource.Services, name, func(o object.Object) { change(o.(*corev1.Service)) })
	}
}

func handSlice(port string, readiness bool) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "by-hand", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &port, Port: ptr.To[int32](80)}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.1.0.9"}, Conditions: discoveryv1.EndpointConditions{Ready: &readiness}}},
	}
}

func changeSlice(change func(*discoveryv1.EndpointSlice)) func(*world) {
	return func(w *world) {
		edit(w, resource.EndpointSlices, "by-hand", func(o object.Object) { change(o.(*discoveryv1.EndpointSlice)) })
	}
}

// serviceFaults are services that lead nowhere, and ranges that give no addresses.
var serviceFaults = []fault{
	{
		name: "service: the nearest pod differs in a label",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo(), leading(func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "x", "tier": "front"} }))
			w.pods("solo", func(p *corev1.Pod) { ready(p); p.Labels["tier"] = "back" })
		},
		res: resource.Services, of: "web", state: plan.Stuck,
		kind: "Service", object: "web", code: "NoPods", says: `the nearest is pod solo, whose label tier is "back" and not "front"`, remedy: "correct the service's selector",
		cure: changeService("web", func(s *corev1.Service) { s.Spec.Selector["tier"] = "back" }),
	},
	{
		name: "service: the nearest pod lacks a label",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo(), leading(func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "x", "tier": "front"} }))
			w.pods("solo", ready)
		},
		res: resource.Services, of: "web", state: plan.Stuck,
		kind: "Service", object: "web", code: "NoPods", says: "the nearest is pod solo, which has no label tier", remedy: "the pods' labels",
		cure: func(w *world) { w.pods("solo", func(p *corev1.Pod) { p.Labels["tier"] = "front" }) },
	},
	{
		name: "service: its pods are in another namespace",
		plant: func(w *world) {
			there := solo()
			there.Namespace = "shop"
			w.make(node("n1", "4"), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, there, leading())
		},
		res: resource.Services, of: "web", state: plan.Stuck,
		kind: "Service", object: "web", code: "NoPods", says: "pod solo has, but in namespace shop", remedy: "make the service in namespace shop",
	},
	{
		name: "service: its target port is the name of none",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo(openPort("web", 8080)), leading(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("http") }))
			w.pods("solo", ready)
		},
		res: resource.Services, of: "web", state: plan.Stuck,
		kind: "Service", object: "web", code: "NoSuchTargetPort", says: `port 80 leads to the port named "http" (TCP)`, remedy: "set targetPort to a name that there is, web",
		cure: changeService("web", func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("web") }),
	},
	{
		name: "service: its target port is a name, and its pods name none",
		plant: func(w *world) {
			w.make(node("n1", "4"), solo(), leading(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("http") }))
			w.pods("solo", ready)
		},
		res: resource.Services, of: "web", state: plan.Stuck,
		kind: "Service", object: "web", code: "NoSuchTargetPort", says: "no container of its pods has one", remedy: "give targetPort as a number",
		cure: changeService("web", func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(8080) }),
	},
	{
		name:  "service: neither selector nor slices",
		plant: func(w *world) { w.make(leading(bare)) },
		res:   resource.Services, of: "web", state: plan.Stuck,
		kind: "Service", object: "web", code: "NoSelector", says: "no EndpointSlice names it", remedy: "kubernetes.io/service-name: web",
		cure: func(w *world) { w.make(handSlice("http", true)) },
	},
	{
		name:  "service: its slices have no endpoint that is ready",
		plant: func(w *world) { w.make(leading(bare), handSlice("http", false)) },
		res:   resource.Services, of: "web", state: plan.Stuck,
		kind: "Service", object: "web", code: "NoReadyEndpoint", says: "by-hand", remedy: "whose condition ready is true",
		cure: changeSlice(func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Conditions.Ready = nil }),
	},
	{
		name:  "service: its slices name another port",
		plant: func(w *world) { w.make(leading(bare), handSlice("web", true)) },
		res:   resource.Services, of: "web", state: plan.Stuck,
		kind: "Service", object: "web", code: "PortNotInSlices", says: `no EndpointSlice has a port named "http" (TCP)`, remedy: "correct one of them",
		cure: changeSlice(func(s *discoveryv1.EndpointSlice) { s.Ports[0].Name = ptr.To("http") }),
	},
	{
		name: "service: an elder has the port of its load balancer",
		plant: func(w *world) {
			w.make(node("n1", "4", addressed("192.0.2.1")), solo(), leading(balancedBy, func(s *corev1.Service) { s.Name = "elder" }))
			w.pods("solo", ready)
			time.Sleep(2 * time.Second) // the bubble's clock
			w.make(leading(balancedBy))
		},
		res: resource.Services, of: "web", state: plan.Stuck,
		kind: "Service", object: "web", code: "PortTaken", says: "port TCP/80 at 192.0.2.1 is taken: it is the port of service default/elder", remedy: "or delete service default/elder",
		cure: func(w *world) { w.delete(resource.Services, "elder") },
	},
	{
		name: "service: the port of its load balancer is a node port",
		plant: func(w *world) {
			w.make(node("n1", "4", addressed("192.0.2.1")), solo(), leading(balancedBy), leading(func(s *corev1.Service) {
				s.Name, s.Spec.Type, s.Spec.Ports[0].Port, s.Spec.Ports[0].NodePort = "np", corev1.ServiceTypeNodePort, 8080, 80
			}))
			w.pods("solo", ready)
		},
		res: resource.Services, of: "web", state: plan.Stuck,
		kind: "Service", object: "web", code: "PortTaken", says: "a node port of service default/np", remedy: "give the service another port",
		cure: changeService("web", func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 }),
	},
	{
		name: "service: its load balancer has no node",
		plant: func(w *world) {
			w.make(node("n1", "4", addressed("127.0.0.1")), solo(), leading(balancedBy))
			w.pods("solo", ready)
		},
		res: resource.Services, of: "web", state: plan.Stuck,
		kind: "Service", object: "web", code: "NoNode", says: "no node that is ready has an IPv4 address", remedy: "the machine's network up",
		cure: func(w *world) { editNode(w, "n1", addressed("192.0.2.1")) },
	},
	{
		name: "service: the address of its load balancer is no node's",
		plant: func(w *world) {
			w.make(node("n1", "4", addressed("192.0.2.1")), solo(), leading(balancedBy, func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.9" }))
			w.pods("solo", ready)
		},
		res: resource.Services, of: "web", state: plan.Stuck,
		kind: "Service", object: "web", code: "AddressNotHere", says: "192.0.2.9", remedy: "remove spec.loadBalancerIP",
		cure: changeService("web", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "" }),
	},
	{
		name: "service: a load balancer of another's class",
		plant: func(w *world) {
			w.make(node("n1", "4", addressed("192.0.2.1")), solo(), leading(balancedBy, func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("example.com/x") }))
			w.pods("solo", ready)
		},
		res: resource.Services, of: "web", state: plan.Waiting,
		kind: "Service", object: "web", code: "OtherLoadBalancer", says: "example.com/x", remedy: "run the load balancer of that class",
		cure: func(w *world) {
			w.delete(resource.Services, "web")
			w.make(leading(balancedBy))
		},
	},
	{
		name: "service range: every address is given",
		plant: func(w *world) {
			w.make(&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "small"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.97.0.0/30"}}})
			for _, ip := range []string{"10.97.0.1", "10.97.0.2"} {
				w.make(leading(func(s *corev1.Service) { s.Name, s.Spec.ClusterIP, s.Spec.ClusterIPs = "s"+ip[8:], ip, []string{ip} }))
			}
		},
		res: resource.ServiceCIDRs, of: "small", state: plan.Stuck,
		kind: "ServiceCIDR", object: "small", code: "RangeFull", says: "all 2 addresses of 10.97.0.0/30 are given", remedy: "create a ServiceCIDR with another range",
		cure: func(w *world) { w.delete(resource.Services, "s1") },
	},
	{
		name: "service range: its addresses mean something else",
		plant: func(w *world) {
			w.make(node("n1", "4", addressed("192.0.2.1")))
			w.make(&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"192.0.2.0/24"}}})
		},
		res: resource.ServiceCIDRs, of: "more", state: plan.Stuck,
		kind: "ServiceCIDR", object: "more", code: "Overlaps", says: "address 192.0.2.1 of node n1", remedy: "delete the ServiceCIDR",
		cure: func(w *world) { w.delete(resource.ServiceCIDRs, "more") },
	},
	{
		name: "service range: it goes, and a service has an address of it",
		plant: func(w *world) {
			w.make(&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.97.0.0/24"}}})
			w.make(leading(func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.97.0.9", []string{"10.97.0.9"} }))
			w.delete(resource.ServiceCIDRs, "more")
		},
		res: resource.ServiceCIDRs, of: "more", state: plan.Waiting,
		kind: "ServiceCIDR", object: "more", code: "InUse", says: "services default/web has an address of it", remedy: "delete it",
		cure: func(w *world) { w.delete(resource.Services, "web") },
	},
}

// TestServiceNotes: what a service leads to less than one might think is noted, though it is as its user asked.
func TestServiceNotes(t *testing.T) {
	for title, tt := range map[string]struct {
		change func(*corev1.Service)
		want   string
	}{
		"only a name": {func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "db.example.com"}
		}, "it is a name for db.example.com and nothing else"},
		"a target port that nobody names": {func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(9090) },
			"port 80 leads to port 9090 (TCP), which no container of its pods names"},
		"endpoints on other nodes": {func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
		},
			"all its endpoints are on other nodes than n2: it leads nowhere from pods there"},
		"endpoints on other nodes, from outside": {func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal
		}, "who comes from outside is led nowhere there"},
	} {
		t.Run(title, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.make(node("n1", "4"), solo(openPort("web", 8080)), leading(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(8080) }))
				w.pods("solo", ready)
				w.make(node("n2", "4"))
				if _, text := w.why(resource.Services, "web"); strings.Contains(text, tt.want) {
					t.Errorf("noted before it is so:\n%s", text)
				}
				edit(w, resource.Services, "web", func(o object.Object) { tt.change(o.(*corev1.Service)) })
				report, text := w.why(resource.Services, "web")
				if !report.Steady() || len(report.Causes) > 0 || !strings.Contains(text, tt.want) {
					t.Errorf("want steady, and %q:\n%s", tt.want, text)
				}
				roundTrip(t, report, text)
			})
		})
	}
}
