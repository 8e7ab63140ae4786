package isolation

import (
	"net"
	"net/netip"
	"os"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"

	"coracle/internal/network/pod"
)

var six = pod.Second{CIDR: netip.MustParsePrefix("fd00:244:0:1::/64"), ClusterCIDR: netip.MustParsePrefix("fd00:244::/56")}

// TestSix: policies govern pods' IPv6 addresses: nothing of a pod that is not known gets through, what is allowed does, by labels
// and by blocks; neighbours are found all the same, the node reaches its pods, and a new agent finds it as it should be. A pod
// has no other IPv6 address by which to pass the rules.
func TestSix(t *testing.T) {
	if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip("this kernel has no IPv6: ", err)
	} else {
		l.Close()
	}
	inMachineOf(t, six, func(w *world) {
		deny := policyOf("a", "deny", networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Ingress", "Egress"}})
		allow := policyOf("a", "allow", networkingv1.NetworkPolicySpec{
			PodSelector: *selects("app=web"), PolicyTypes: []networkingv1.PolicyType{"Ingress"},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: selects("app=front")}}}},
		})
		out := policyOf("a", "out", networkingv1.NetworkPolicySpec{
			PodSelector: *selects("app=front"), PolicyTypes: []networkingv1.PolicyType{"Egress"},
			Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{
				CIDR: "fd00:244::/56", Except: []string{"fd00:244:0:1::5/128"},
			}}}}},
		})
		w.tell(space("a", ""), deny, allow, out)
		w.iso.Settle()
		web, front, other := w.pod("a", "web", "app=web"), w.pod("a", "front", "app=front"), w.pod("a", "other", "")
		last := w.pod("a", "last", "app=web") // ...::5, which the block leaves out
		if last.ip.String() != "fd00:244:0:1::5" {
			t.Errorf("the last pod is at %s", last.ip)
		}
		for _, b := range []*box{web, other, last} {
			w.serve(b, "tcp6", 8080)
			w.serve(b, "udp6", 8053)
		}
		both := []string{"tcp6 8080", "udp6 8053"}
		w.want(front, web.ip, true, both...)
		w.want(front, other.ip, false, both...)
		w.want(front, last.ip, false, both...)
		w.want(other, web.ip, false, both...)
		w.want(nil, web.ip, true, both...)
		w.want(nil, other.ip, true, both...)
		w.want(other, other.ip, true, both...) // itself

		stranger := w.sandbox("b", "stranger", "")
		w.serve(stranger, "tcp6", 8080)
		w.want(stranger, web.ip, false, "tcp6 8080")
		w.want(front, stranger.ip, false, "tcp6 8080")
		w.linkLocal(front, stranger)
		w.stand(stranger)
		w.want(stranger, web.ip, false, "tcp6 8080")
		w.want(nil, stranger.ip, true, "tcp6 8080")

		w.stop()
		w.start()
		w.tell(space("a", ""), deny, allow, out)
		for _, b := range []*box{web, front, other, last, stranger} {
			w.stand(b)
		}
		w.iso.Settle()
		w.settle()
		if n := w.iso.rebuilt.Load(); n != 0 {
			t.Errorf("a new agent writes the table anew")
		}
		w.want(front, web.ip, true, both...)
		w.want(other, web.ip, false, both...)
		w.iso.OnChange(noPolicy("a", "deny"))
		w.iso.OnChange(noPolicy("a", "allow"))
		w.iso.OnChange(noPolicy("a", "out"))
		w.settle()
		w.want(other, web.ip, true, both...)
		if _, there := w.table(); there {
			t.Error("the table is left")
		}
	})
}

// linkLocal: no address of a link's own is there, of pods or of the node.
func (w *world) linkLocal(boxes ...*box) {
	w.t.Helper()
	for _, b := range boxes {
		err := w.in(b, func() error {
			addrs, err := net.InterfaceAddrs()
			for _, a := range addrs {
				if p, ok := a.(*net.IPNet); ok && p.IP.To4() == nil && p.IP.IsLinkLocalUnicast() {
					w.t.Errorf("%s has the address %s", nameOf(b), a)
				}
			}
			return err
		})
		if err != nil && !os.IsNotExist(err) {
			w.t.Error(err)
		}
	}
}
