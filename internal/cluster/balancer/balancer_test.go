package balancer_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"coracle/internal/client/fake"
	"coracle/internal/cluster/balancer"
	"coracle/internal/loop/looptest"
	"coracle/internal/object"
	"coracle/internal/resource"
)

func node(name, ip string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
	for _, f := range change {
		f(n)
	}
	return n
}

func notReady(n *corev1.Node)  { n.Status.Conditions[0].Status = corev1.ConditionFalse }
func cordoned(n *corev1.Node)  { n.Spec.Unschedulable = true }
func simulated(n *corev1.Node) { n.Annotations = map[string]string{"coracle.io/simulated": "true"} }

func balanced(name string, port int32, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Port: port, Protocol: corev1.ProtocolTCP}},
	}}
	for _, f := range change {
		f(s)
	}
	return s
}

func local(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

// at prints where a service is reached: each address with the ports that have an error there.
func at(c *looptest.Cluster, name string) string {
	synctest.Wait()
	s := looptest.Find[*corev1.Service](c, resource.Services, "d", name)
	if s == nil {
		return "gone"
	}
	var out []string
	for _, in := range s.Status.LoadBalancer.Ingress {
		word := in.IP
		for _, p := range in.Ports {
			if p.Error != nil {
				word += fmt.Sprintf(" without %s/%d", p.Protocol, p.Port)
			}
		}
		if in.IPMode == nil || *in.IPMode != corev1.LoadBalancerIPModeVIP {
			word += " (no VIP)"
		}
		out = append(out, word)
	}
	return strings.Join(out, ", ")
}

func expect(t *testing.T, c *looptest.Cluster, name, want string) {
	t.Helper()
	if got := at(c, name); got != want {
		t.Errorf("%s is reached at %q, want %q", name, got, want)
	}
}

// TestAddresses: the addresses are those of nodes that are ready, take pods and may be used, each once.
func TestAddresses(t *testing.T) {
	for name, tt := range map[string]struct {
		nodes  []*corev1.Node
		change func(*corev1.Service)
		want   string
	}{
		"two machines":              {nodes: []*corev1.Node{node("b", "192.0.2.2"), node("a", "192.0.2.1")}, want: "192.0.2.1, 192.0.2.2"},
		"two nodes of one":          {nodes: []*corev1.Node{node("a", "192.0.2.1"), node("b", "192.0.2.1")}, want: "192.0.2.1"},
		"not ready":                 {nodes: []*corev1.Node{node("a", "192.0.2.1"), node("b", "192.0.2.2", notReady)}, want: "192.0.2.1"},
		"cordoned":                  {nodes: []*corev1.Node{node("a", "192.0.2.1", cordoned), node("b", "192.0.2.2")}, want: "192.0.2.2"},
		"all cordoned":              {nodes: []*corev1.Node{node("a", "192.0.2.1", cordoned)}, want: "192.0.2.1"},
		"simulated":                 {nodes: []*corev1.Node{node("a", "192.0.2.1", simulated)}, want: ""},
		"no address of the world's": {nodes: []*corev1.Node{node("a", "127.0.0.1"), node("b", "fd00::1"), node("c", "")}, want: ""},
		"left out": {nodes: []*corev1.Node{node("a", "192.0.2.1", func(n *corev1.Node) {
			n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
		})}, want: ""},
		"external before internal": {nodes: []*corev1.Node{node("a", "192.0.2.1", func(n *corev1.Node) {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "198.51.100.1"})
		})}, want: "198.51.100.1"},
		"one address wished for": {nodes: []*corev1.Node{node("a", "192.0.2.1"), node("b", "192.0.2.2")}, want: "192.0.2.2",
			change: func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.2" }},
		"one that is no node's": {nodes: []*corev1.Node{node("a", "192.0.2.1")}, want: "",
			change: func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.9" }},
		"of another's class": {nodes: []*corev1.Node{node("a", "192.0.2.1")}, want: "",
			change: func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("example.com/other") }},
		"of our class": {nodes: []*corev1.Node{node("a", "192.0.2.1")}, want: "192.0.2.1",
			change: func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To(balancer.Class) }},
		"no load balancer": {nodes: []*corev1.Node{node("a", "192.0.2.1")}, want: "",
			change: func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := looptest.Run(t, fake.New(), balancer.Controller())
				s := balanced("web", 80)
				if tt.change != nil {
					tt.change(s)
				}
				looptest.Make(c, s)
				for _, n := range tt.nodes {
					looptest.Make(c, n)
				}
				expect(t, c, "web", tt.want)
				held := looptest.Find[*corev1.Service](c, resource.Services, "d", "web")
				mine := held.Spec.Type == corev1.ServiceTypeLoadBalancer && ptr.Deref(held.Spec.LoadBalancerClass, balancer.Class) == balancer.Class
				if slices.Contains(held.Finalizers, balancer.Finalizer) != mine {
					t.Errorf("finalizers %v", held.Finalizers)
				}
			})
		})
	}
}

// TestLife: the status follows the nodes, and goes with the type; the finalizer goes with the load balancer.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := looptest.Run(t, fake.New(), balancer.Controller())
		s := looptest.Make(c, balanced("web", 80))
		expect(t, c, "web", "")
		looptest.Make(c, node("a", "192.0.2.1"))
		looptest.Make(c, node("b", "192.0.2.2"))
		expect(t, c, "web", "192.0.2.1, 192.0.2.2")
		looptest.Edit(c, resource.Nodes, "", "a", notReady)
		expect(t, c, "web", "192.0.2.2")
		looptest.Edit(c, resource.Nodes, "", "b", notReady)
		expect(t, c, "web", "")
		looptest.Edit(c, resource.Nodes, "", "b", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionTrue })
		expect(t, c, "web", "192.0.2.2")
		looptest.Rest()
		want := []string{"EnsuredLoadBalancer", "UpdatedLoadBalancer", "UnAvailableLoadBalancer"}
		for _, reason := range want {
			if got := looptest.Reasons(c, s); !slices.Contains(got, reason) {
				t.Errorf("events %v lack %s", got, reason)
			}
		}
		looptest.Edit(c, resource.Services, "d", "web", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
		expect(t, c, "web", "")
		if f := looptest.Find[*corev1.Service](c, resource.Services, "d", "web").Finalizers; len(f) > 0 {
			t.Errorf("finalizers %v of a service that has no load balancer", f)
		}
		looptest.Edit(c, resource.Services, "d", "web", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer })
		expect(t, c, "web", "192.0.2.2")
		looptest.Remove(c, looptest.Find[*corev1.Service](c, resource.Services, "d", "web"), "")
		expect(t, c, "web", "gone")
	})
}

// TestLocal: with the traffic policy Local a service is reached at the nodes that have an endpoint, as long as there is one.
func TestLocal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := looptest.Run(t, fake.New(), balancer.Controller())
		looptest.Make(c, node("a", "192.0.2.1"))
		looptest.Make(c, node("b", "192.0.2.2"))
		looptest.Make(c, balanced("web", 80, local))
		expect(t, c, "web", "192.0.2.1, 192.0.2.2")
		sl := looptest.Make(c, &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"10.1.0.1"}, NodeName: ptr.To("b"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}},
				{Addresses: []string{"10.1.0.2"}, NodeName: ptr.To("a"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}},
			},
		})
		expect(t, c, "web", "192.0.2.2")
		looptest.Edit(c, resource.EndpointSlices, "d", sl.Name, func(s *discoveryv1.EndpointSlice) { s.Endpoints[1].Conditions.Ready = nil })
		expect(t, c, "web", "192.0.2.1, 192.0.2.2")
	})
}

// TestPortTaken: what two want, the elder has; and nobody gets what is a node port, a host port or the cluster's own. It is
// said in the status, by an event, and ends with what stood in the way.
func TestPortTaken(t *testing.T) {
	for name, tt := range map[string]struct {
		others []object.Object
		want   string
		says   string
		// moved is the object in the way, which goes.
		moved object.Object
	}{
		"an elder service": {
			others: []object.Object{balanced("elder", 80)}, want: "", says: "port TCP/80 at 192.0.2.1 is taken: it is the port of service d/elder, which is older",
			moved: balanced("elder", 80),
		},
		"an elder service of another protocol": {
			others: []object.Object{balanced("elder", 80, func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP })}, want: "192.0.2.1",
		},
		"an elder service of another's class": {
			others: []object.Object{balanced("elder", 80, func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("example.com/x") })}, want: "192.0.2.1",
		},
		"a node port": {
			others: []object.Object{balanced("np", 8080, func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 80 })},
			want:   "", says: "a node port of service d/np", moved: balanced("np", 8080),
		},
		"an external IP": {
			others: []object.Object{balanced("ext", 80, func(s *corev1.Service) {
				s.Spec.Type, s.Spec.ExternalIPs = corev1.ServiceTypeClusterIP, []string{"192.0.2.1"}
			})},
			want: "", says: "at an external IP of service d/ext, which is older", moved: balanced("ext", 80),
		},
		"an external IP elsewhere": {
			others: []object.Object{balanced("ext", 80, func(s *corev1.Service) {
				s.Spec.Type, s.Spec.ExternalIPs = corev1.ServiceTypeClusterIP, []string{"192.0.2.9"}
			})}, want: "192.0.2.1",
		},
		"a host port": {
			others: []object.Object{hostPort("p", "a", 80)}, want: "", says: "a host port of pod d/p", moved: hostPort("p", "a", 80),
		},
		"a host port elsewhere": {others: []object.Object{hostPort("p", "z", 80)}, want: "192.0.2.1"},
		"the server's": {
			others: []object.Object{&discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
				Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.1"}}}, Ports: []discoveryv1.EndpointPort{{Port: ptr.To[int32](80)}},
			}}, want: "", says: "it is the API server's",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := looptest.Run(t, fake.New(), balancer.Controller())
				looptest.Make(c, node("a", "192.0.2.1"))
				for _, o := range tt.others {
					looptest.Make(c, o.DeepCopyObject().(object.Object))
				}
				time.Sleep(2 * time.Second) // the bubble's clock: it is the younger
				s := looptest.Make(c, balanced("web", 80))
				expect(t, c, "web", tt.want)
				looptest.Rest()
				held := looptest.Find[*corev1.Service](c, resource.Services, "d", "web")
				said := apimeta.FindStatusCondition(held.Status.Conditions, corev1.LoadBalancerPortsError)
				if (tt.says != "") != (said != nil) || said != nil && !strings.Contains(said.Message, tt.says) {
					t.Errorf("condition %v, want %q", said, tt.says)
				}
				if told := slices.Contains(looptest.Reasons(c, s), "SyncLoadBalancerFailed"); told != (tt.says != "") {
					t.Errorf("events %v", looptest.Reasons(c, s))
				}
				if tt.moved == nil {
					return
				}
				looptest.Remove(c, tt.moved, "")
				if pod, ok := tt.moved.(*corev1.Pod); ok {
					zero := int64(0)
					_, _ = c.Delete(t.Context(), object.Ref{Resource: resource.Pods, Key: object.KeyOf(pod)}, metav1.DeleteOptions{GracePeriodSeconds: &zero})
				}
				expect(t, c, "web", "192.0.2.1")
				held = looptest.Find[*corev1.Service](c, resource.Services, "d", "web")
				if len(held.Status.Conditions) > 0 {
					t.Errorf("conditions %v stay", held.Status.Conditions)
				}
			})
		})
	}
}

func hostPort(name, node string, port int32) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}, Spec: corev1.PodSpec{
		NodeName: node, Containers: []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{HostPort: port, ContainerPort: 1}}}},
	}}
}

// TestSomePorts: one port that is taken does not cost the others.
func TestSomePorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := looptest.Run(t, fake.New(), balancer.Controller())
		looptest.Make(c, node("a", "192.0.2.1"))
		looptest.Make(c, balanced("elder", 80))
		time.Sleep(2 * time.Second) // the bubble's clock
		looptest.Make(c, balanced("web", 80, func(s *corev1.Service) {
			s.Spec.Ports[0].Name = "http"
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP})
		}))
		expect(t, c, "web", "192.0.2.1 without TCP/80")
		time.Sleep(2 * time.Second) // the bubble's clock
		looptest.Make(c, balanced("third", 443))
		expect(t, c, "third", "")
		looptest.Edit(c, resource.Services, "d", "web", func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[:1] })
		expect(t, c, "third", "192.0.2.1")
		expect(t, c, "web", "")
	})
}

// TestOneOwner: however services, node ports and nodes come, change and go, no port of an address is two services', and a
// port that several want is the eldest's.
func TestOneOwner(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		problem := ""
		synctest.Test(t, func(t *testing.T) {
			c := looptest.Run(t, fake.New(), balancer.Controller())
			for _, n := range []string{"a", "b"} {
				looptest.Make(c, node(n, "192.0.2."+string('1'+n[0]-'a')))
			}
			for range rapid.IntRange(1, 12).Draw(rt, "steps") {
				name := rapid.SampledFrom([]string{"u", "v", "w"}).Draw(rt, "service")
				held := looptest.Find[*corev1.Service](c, resource.Services, "d", name)
				port := rapid.SampledFrom([]int32{80, 81}).Draw(rt, "port")
				switch {
				case held == nil:
					looptest.Make(c, balanced(name, port))
				case rapid.Bool().Draw(rt, "delete"):
					looptest.Remove(c, held, "")
				default:
					looptest.Edit(c, resource.Services, "d", name, func(s *corev1.Service) {
						s.Spec.Ports[0].Port = port
						s.Spec.LoadBalancerIP = rapid.SampledFrom([]string{"", "192.0.2.1", "192.0.2.2"}).Draw(rt, "ip")
					})
				}
				time.Sleep(time.Duration(rapid.IntRange(0, 1500).Draw(rt, "ms")) * time.Millisecond)
				synctest.Wait()
				if d := cmp.Diff(eldest(c), owners(c)); d != "" {
					problem = d
					return
				}
			}
		})
		if problem != "" {
			rt.Fatalf("who is reached where (-eldest +status):\n%s", problem)
		}
	})
}

// eldest says by the plain rule who has each port of each address; owners, who says so of himself.
func eldest(c *looptest.Cluster) map[string]string {
	out, since := map[string]string{}, map[string]string{}
	for _, o := range c.View.List(resource.Services, "d") {
		s := o.(*corev1.Service)
		for _, ip := range []string{"192.0.2.1", "192.0.2.2"} {
			if s.Spec.LoadBalancerIP != "" && s.Spec.LoadBalancerIP != ip {
				continue
			}
			at := fmt.Sprintf("%s:%d", ip, s.Spec.Ports[0].Port)
			age := s.CreationTimestamp.UTC().Format(time.RFC3339) + s.Name
			if out[at] == "" || age < since[at] {
				out[at], since[at] = s.Name, age
			}
		}
	}
	return out
}

func owners(c *looptest.Cluster) map[string]string {
	out := map[string]string{}
	for _, o := range c.View.List(resource.Services, "d") {
		s := o.(*corev1.Service)
		for _, in := range s.Status.LoadBalancer.Ingress {
			out[fmt.Sprintf("%s:%d", in.IP, s.Spec.Ports[0].Port)] += s.Name
		}
	}
	return out
}
