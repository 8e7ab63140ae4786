package services

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// TestLoadBalancer: what comes to a node's own address at a service's port is led from outside, from pods and from the node;
// without node ports too. Another port of the address stays the node's.
func TestLoadBalancer(t *testing.T) {
	inMachine(t, func(w *world) {
		out := w.outside()
		a, ipA := w.sandbox("a")
		client, _ := w.sandbox("client")
		w.serve(a, "tcp4", ":8080", "a")
		w.serve(a, "udp4", ":8053", "a")
		w.serve("", "tcp4", ":81", "node")
		web := balanced("web", "10.96.0.10", port("http", corev1.ProtocolTCP, 80), port("dns", corev1.ProtocolUDP, 53))
		w.put(web, balanced("empty", "10.96.0.11", port("", corev1.ProtocolTCP, 82)),
			slice("web", "http", corev1.ProtocolTCP, 8080, ipA), slice("web", "dns", corev1.ProtocolUDP, 8053, ipA))
		w.settle()
		for _, from := range []string{out, client, "", a} {
			w.want(from, "tcp4", "192.0.2.1:80", "a")
			w.want(from, "udp4", "192.0.2.1:53", "a")
			w.want(from, "tcp4", "192.0.2.1:81", "node")
			w.wantRefused(from, "tcp4", "192.0.2.1:82")
			w.wantRefused(from, "tcp4", "192.0.2.1:83")
		}
		bad := web.DeepCopy()
		bad.Status.LoadBalancer.Ingress[0].Ports = []corev1.PortStatus{{Port: 80, Protocol: corev1.ProtocolTCP, Error: ptr.To("coracle.io/PortTaken")}}
		w.put(bad)
		w.settle()
		w.wantRefused(out, "tcp4", "192.0.2.1:80")
		w.want(out, "udp4", "192.0.2.1:53", "a")
	})
}

func balanced(name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	s := service(name, ip, ports...)
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1", IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)}}
	return s
}

// TestSourceRanges: only clients of the ranges are let in, however the ranges lie to each other.
func TestSourceRanges(t *testing.T) {
	inMachine(t, func(w *world) {
		out := w.outside()
		a, ipA := w.sandbox("a")
		w.serve(a, "tcp4", ":8080", "a")
		web := balanced("web", "10.96.0.10", port("http", corev1.ProtocolTCP, 80))
		web.Spec.Ports[0].NodePort = 30080
		w.put(web, slice("web", "http", corev1.ProtocolTCP, 8080, ipA))
		for _, c := range []struct {
			ranges []string
			in     bool
		}{
			{[]string{"192.0.2.0/24"}, true},
			{[]string{"198.51.100.0/24"}, false},
			{[]string{"192.0.0.0/8", "192.0.2.0/30", "192.0.2.2/32", "10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16"}, true},
			{[]string{"2001:db8::/32"}, false},
			{[]string{"0.0.0.0/0"}, true},
			{nil, true},
		} {
			next := web.DeepCopy()
			next.Spec.LoadBalancerSourceRanges = c.ranges
			w.put(next)
			w.settle()
			if c.in {
				w.want(out, "tcp4", "192.0.2.1:80", "a")
			} else {
				w.wantSilence(out, "tcp4", "192.0.2.1:80")
			}
			w.want(out, "tcp4", "192.0.2.1:30080", "a") // the ranges are the load balancer's alone
		}
	})
}

// TestLoadBalancerLocal: with the traffic policy Local who comes from outside is seen by his own address, and led nowhere
// where the node has no endpoint.
func TestLoadBalancerLocal(t *testing.T) {
	inMachine(t, func(w *world) {
		out := w.outside()
		a, ipA := w.sandbox("a")
		client, _ := w.sandbox("client")
		w.serve(a, "tcp4", ":8080", "a")
		web := balanced("web", "10.96.0.10", port("http", corev1.ProtocolTCP, 80))
		web.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		sl := slice("web", "http", corev1.ProtocolTCP, 8080, ipA)
		w.put(web, sl)
		w.settle()
		if saw := w.want(out, "tcp4", "192.0.2.1:80", "a"); saw != "192.0.2.2" {
			t.Errorf("the endpoint sees %s", saw)
		}
		elsewhere := sl.DeepCopy()
		elsewhere.Endpoints[0].NodeName = ptr.To("two")
		w.put(elsewhere)
		w.settle()
		w.want(client, "tcp4", "192.0.2.1:80", "a")
		w.wantSilence(out, "tcp4", "192.0.2.1:80")
	})
}
