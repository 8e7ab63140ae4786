package isolation

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"coracle/internal/peers"
)

func deny(types ...networkingv1.PolicyType) networkingv1.NetworkPolicySpec {
	return networkingv1.NetworkPolicySpec{PolicyTypes: types}
}

func onPort(protocol corev1.Protocol, port intstr.IntOrString, end *int32) networkingv1.NetworkPolicyPort {
	return networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &port, EndPort: end}
}

// TestIngress: who is selected takes what rules allow and nothing else, from wherever; the node and the pod itself always
// reach it, and what is open stays open.
func TestIngress(t *testing.T) {
	inMachine(t, func(w *world) {
		web, front, other := w.sandbox("shop", "web", "app=web"), w.sandbox("shop", "front", "app=front"), w.sandbox("ops", "other", "app=front")
		web.pod.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "named", ContainerPort: 9001}}}}
		w.tell(space("shop", ""), space("ops", "team=ops"))
		w.iso.Settle()
		for _, b := range []*box{web, front, other} {
			w.stand(b)
		}
		w.serve(web, "tcp4", 8080, 9000, 9001, 9002)
		w.serve(web, "udp4", 8080)
		if _, there := w.table(); there {
			t.Error("without policies there is a table")
		}
		all := []string{"tcp4 8080", "tcp4 9000", "tcp4 9001", "tcp4 9002", "udp4 8080"}
		w.want(front, web.ip, true, all...)
		going, err := w.dial(front, "tcp4", netip.AddrPortFrom(web.ip, 8080), patience)
		if err != nil {
			t.Fatal(err)
		}
		defer going.Close()

		say := func(spec networkingv1.NetworkPolicySpec) {
			w.iso.OnChange(policyOf("shop", "p", spec))
			w.settle()
		}
		say(deny("Ingress"))
		for _, from := range []*box{front, other} {
			w.want(from, web.ip, false, all...)
		}
		w.want(nil, web.ip, true, all...)
		w.want(web, web.ip, true, all...)
		if err := echo(going, patience); err != nil {
			t.Errorf("a connection that was open: %v", err)
		}

		spec := deny("Ingress")
		rule := func(peer networkingv1.NetworkPolicyPeer, ports ...networkingv1.NetworkPolicyPort) {
			spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{peer}, Ports: ports}}
			say(spec)
		}
		rule(networkingv1.NetworkPolicyPeer{PodSelector: selects("app=front")})
		w.want(front, web.ip, true, all...)
		w.want(other, web.ip, false, all...)
		rule(networkingv1.NetworkPolicyPeer{NamespaceSelector: selects("team=ops")}, onPort("TCP", intstr.FromInt32(8080), nil))
		w.want(other, web.ip, true, "tcp4 8080")
		w.want(other, web.ip, false, all[1:]...)
		w.want(front, web.ip, false, all...)
		rule(networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: podRange, Except: []string{other.ip.String() + "/32"}}},
			onPort("TCP", intstr.FromInt32(9000), ptr.To[int32](9001)), onPort("UDP", intstr.FromInt32(8080), nil))
		w.want(front, web.ip, true, all[1], all[2], all[4])
		w.want(front, web.ip, false, all[0], all[3])
		w.want(other, web.ip, false, all...)
		rule(networkingv1.NetworkPolicyPeer{PodSelector: selects("")}, onPort("TCP", intstr.FromString("named"), nil))
		w.want(front, web.ip, true, "tcp4 9001")
		w.want(front, web.ip, false, "tcp4 8080", "udp4 8080")

		// Labels change: of a peer, of its namespace, of the pod itself.
		rule(networkingv1.NetworkPolicyPeer{NamespaceSelector: selects("team=ops"), PodSelector: selects("app=front")})
		w.want(other, web.ip, true, "tcp4 8080")
		w.iso.OnChange(space("ops", "team=dev"))
		w.settle()
		w.want(other, web.ip, false, "tcp4 8080")
		changed := web.pod.DeepCopy()
		spec.PodSelector = *selects("app=web")
		say(spec)
		changed.Labels["app"] = "else"
		w.iso.Note(changed, []string{web.ip.String()})
		w.settle()
		w.want(other, web.ip, true, "tcp4 8080")

		w.iso.OnChange(noPolicy("shop", "p"))
		w.settle()
		w.want(front, web.ip, true, all...)
		if _, there := w.table(); there {
			t.Error("without policies there is a table again")
		}
	})
}

// TestEgress: who is selected sends where rules allow, to pods, to the node itself and to its name server, which counts
// as a pod of kube-dns at its port.
func TestEgress(t *testing.T) {
	inMachine(t, func(w *world) {
		gateway := w.net.Gateway()
		w.serve(nil, "udp4", 53, 5353)
		w.serve(nil, "tcp4", 53, 5353)
		w.tell(space("shop", ""), space("kube-system", ""), policyOf("shop", "p", deny("Egress")))
		w.iso.Names(gateway)
		w.iso.Settle()
		a, b := w.pod("shop", "a", "app=a"), w.pod("shop", "b", "app=b")
		b.pod.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "named", ContainerPort: 8080, Protocol: "UDP"}}}}
		w.serve(a, "tcp4", 8080)
		w.serve(b, "tcp4", 8080)
		w.serve(b, "udp4", 8080)
		open := w.pod("ops", "open", "")
		w.want(a, b.ip, false, "tcp4 8080", "udp4 8080")
		w.want(a, gateway, false, "udp4 53", "tcp4 53", "tcp4 5353")
		w.want(a, a.ip, true, "tcp4 8080")
		w.want(open, b.ip, true, "tcp4 8080", "udp4 8080") // answers go back
		w.want(open, gateway, true, "udp4 53", "tcp4 5353")
		w.want(nil, a.ip, true, "tcp4 8080")

		spec := deny("Egress")
		say := func(to networkingv1.NetworkPolicyPeer, ports ...networkingv1.NetworkPolicyPort) {
			spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{to}, Ports: ports}}
			w.iso.OnChange(policyOf("shop", "p", spec))
			w.settle()
		}
		dns := networkingv1.NetworkPolicyPeer{
			NamespaceSelector: selects("kubernetes.io/metadata.name=kube-system"), PodSelector: selects("k8s-app=kube-dns"),
		}
		say(dns, onPort("UDP", intstr.FromInt32(53), nil), onPort("TCP", intstr.FromInt32(53), nil))
		w.want(a, gateway, true, "udp4 53", "tcp4 53")
		w.want(a, gateway, false, "udp4 5353", "tcp4 5353")
		w.want(a, b.ip, false, "tcp4 8080")
		say(dns, onPort("UDP", intstr.FromString("dns"), nil))
		w.want(a, gateway, true, "udp4 53")
		w.want(a, gateway, false, "tcp4 53")
		say(networkingv1.NetworkPolicyPeer{NamespaceSelector: selects("")})
		w.want(a, gateway, true, "udp4 53", "tcp4 53")
		w.want(a, gateway, false, "udp4 5353", "tcp4 5353")
		w.want(a, b.ip, true, "tcp4 8080", "udp4 8080")
		say(networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: gateway.String() + "/32"}})
		w.want(a, gateway, true, "udp4 53", "tcp4 5353")
		w.want(a, b.ip, false, "tcp4 8080")
		w.iso.Note(b.pod, []string{b.ip.String()})
		changed := b.pod.DeepCopy()
		changed.Labels = labelsOf("app=b again=yes")
		w.iso.Note(changed, []string{b.ip.String()})
		say(networkingv1.NetworkPolicyPeer{PodSelector: selects("again=yes")}, onPort("UDP", intstr.FromString("named"), nil))
		w.want(a, b.ip, true, "udp4 8080")
		w.want(a, b.ip, false, "tcp4 8080")
	})
}

// TestUnknown: while there is a policy, an address of the bridge that is no known pod's is reached by nobody and reaches
// nobody but by the node's own doing, be it by a connection of those who had the address before.
func TestUnknown(t *testing.T) {
	inMachine(t, func(w *world) {
		w.tell(space("shop", ""), policyOf("shop", "p", deny("Ingress")))
		w.iso.Settle()
		prober := w.pod("ops", "prober", "")
		first := w.pod("ops", "first", "")
		w.serve(first, "udp4", 8080)
		flow, err := w.dial(prober, "udp4", netip.AddrPortFrom(first.ip, 8080), patience)
		if err != nil {
			t.Fatal(err)
		}
		defer flow.Close()
		w.iso.Leave(t.Context(), first.pod)
		if err := w.net.Detach("ops-first"); err != nil {
			t.Fatal(err)
		}
		for range 30 { // until the address comes round again
			if err := echo(flow, denied); err == nil {
				t.Fatal("somebody answers at an address that is nobody's")
			}
			b := w.sandbox("shop", "next", "")
			if b.ip == first.ip {
				w.serve(b, "udp4", 8080)
				if err := echo(flow, denied); err == nil {
					t.Error("before its rules stand a pod answers to a connection of another's")
				}
				w.want(prober, b.ip, false, "udp4 8080")
				w.stand(b)
				if err := echo(flow, denied); err == nil {
					t.Error("a pod answers to a connection of another's")
				}
				return
			}
			if err := w.net.Detach("shop-next"); err != nil {
				t.Fatal(err)
			}
		}
		t.Error("the address has not come round")
	})
}

// TestNextAgent: what an earlier agent left goes on as it was, allowed and denied, until the next one knows all; what is right is not
// written again.
func TestNextAgent(t *testing.T) {
	inMachine(t, func(w *world) {
		spec := deny("Ingress")
		spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: selects("app=front")}}}}
		all := []*peers.Message{space("shop", ""), policyOf("shop", "p", spec)}
		w.tell(all...)
		w.iso.Settle()
		web, front, back := w.pod("shop", "web", "app=web"), w.pod("shop", "front", "app=front"), w.pod("shop", "back", "app=back")
		w.serve(web, "tcp4", 8080)
		same := func() {
			t.Helper()
			w.want(front, web.ip, true, "tcp4 8080")
			w.want(back, web.ip, false, "tcp4 8080")
		}
		same()
		before, _ := w.table()
		w.stop()
		same()
		w.start()
		same()
		// The server tells before the agent knows its pods.
		for _, b := range []*box{web, front, back} {
			all = append(all, &peers.Message{Pod: &peers.Pod{Namespace: "shop", Name: b.pod.Name, Here: b.pod.UID}})
		}
		w.tell(all...)
		w.iso.Note(front.pod, []string{front.ip.String()})
		w.settle()
		same()
		w.stand(web)
		same()
		w.stand(back)
		w.iso.Settle()
		w.settle()
		same()
		if n := w.iso.written.Load(); n != 0 {
			t.Errorf("%d elements were written again", n)
		}
		if after, _ := w.table(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("the table is\n%v\nand was\n%v", after, before)
		}
		// One that is not there any more.
		w.stop()
		w.start()
		w.tell(all[:2]...)
		for _, b := range []*box{web, front} {
			w.stand(b)
		}
		w.iso.Settle()
		w.settle()
		same()
		if now, _ := w.table(); len(now.Members) != 4 {
			t.Errorf("the table has members %v", now.Members)
		}
	})
}

// TestDamage: a table that somebody else has changed or deleted is written anew.
func TestDamage(t *testing.T) {
	inMachine(t, func(w *world) {
		w.tell(space("shop", ""), policyOf("shop", "p", deny("Ingress")))
		w.iso.Settle()
		web, front := w.pod("shop", "web", ""), w.pod("shop", "front", "")
		w.serve(web, "tcp4", 8080)
		if err := Remove(w.cfg.Table); err != nil {
			t.Fatal(err)
		}
		for i := 0; w.iso.rebuilt.Load() == 0; i++ {
			if w.want(nil, web.ip, true, "tcp4 8080"); i > 1000 {
				t.Fatal("it is not written anew")
			}
		}
		w.settle()
		w.want(front, web.ip, false, "tcp4 8080")
	})
}

// TestAlone: without a server, after the machine has started anew, a pod stands by the policies that the agent before knew; where
// none was ever told of any, none stands.
func TestAlone(t *testing.T) {
	inMachine(t, func(w *world) {
		w.iso.Settle()
		w.iso.Alone()
		early := w.sandbox("shop", "early", "")
		short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := w.iso.Stand(short, early.pod, []string{early.ip.String()}); err == nil {
			t.Error("a pod stands by policies that nobody has told of")
		}
		spec := deny("Ingress")
		spec.PodSelector = *selects("app=web")
		w.tell(space("shop", ""), policyOf("shop", "p", spec))
		w.settle()
		w.stop()
		if err := Remove(w.cfg.Table); err != nil {
			t.Fatal(err)
		}
		w.start()
		web, front := w.sandbox("shop", "web", "app=web"), w.sandbox("shop", "front", "")
		w.iso.Alone()
		w.iso.Settle()
		for _, b := range []*box{web, front} {
			if err := w.iso.Stand(t.Context(), b.pod, []string{b.ip.String()}); err != nil {
				t.Fatal(err)
			}
			w.serve(b, "tcp4", 8080)
		}
		w.want(front, web.ip, false, "tcp4 8080")
		w.want(web, front.ip, true, "tcp4 8080")
		// Once a server tells, a pod waits for its word.
		w.tell(space("shop", ""))
		w.want(front, web.ip, true, "tcp4 8080")
		next := w.sandbox("shop", "next", "")
		short, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := w.iso.Stand(short, next.pod, []string{next.ip.String()}); err == nil || !strings.Contains(err.Error(), "has not told this node yet") {
			t.Errorf("a pod that the server has not told of: %v", err)
		}
	})
}
