package isolation

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"coracle/internal/network/policy"
	"coracle/internal/peers"
)

// drawSpec is a policy of whatever sort.
func drawSpec(r *rand.Rand) networkingv1.NetworkPolicySpec {
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	spec := networkingv1.NetworkPolicySpec{PodSelector: *selects(pick("", "k=x", "k=y", "l=x"))}
	peer := func() networkingv1.NetworkPolicyPeer {
		switch r.IntN(3) {
		case 0:
			return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{
				CIDR: pick("0.0.0.0/0", "10.0.0.0/8", "10.2.0.0/16", "255.255.255.0/24", "2001:db8::/32"), Except: []string{pick("10.2.0.0/24", "10.2.3.0/31", "2001:db8::/64")},
			}}
		case 1:
			return networkingv1.NetworkPolicyPeer{PodSelector: selects(pick("", "k=x", "k=y"))}
		}
		return networkingv1.NetworkPolicyPeer{NamespaceSelector: selects(pick("", "a=b")), PodSelector: selects(pick("", "l=x", "k8s-app=kube-dns"))}
	}
	ports := func() (out []networkingv1.NetworkPolicyPort) {
		for range r.IntN(3) {
			switch r.IntN(3) {
			case 0:
				out = append(out, onPort("TCP", intstr.FromInt32(53), ptr.To[int32](8080)))
			case 1:
				out = append(out, onPort("UDP", intstr.FromString(pick("web", "dns")), nil))
			default:
				out = append(out, networkingv1.NetworkPolicyPort{})
			}
		}
		return out
	}
	for range r.IntN(3) {
		spec.Ingress = append(spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{peer()}, Ports: ports()})
		spec.Egress = append(spec.Egress, networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{peer(), peer()}, Ports: ports()})
	}
	spec.PolicyTypes = [][]networkingv1.PolicyType{{"Ingress"}, {"Egress"}, {"Ingress", "Egress"}}[r.IntN(3)]
	return spec
}

// TestKernel changes policies and pods at random: the kernel takes every change, and holds what the book says, whoever begins anew.
func TestKernel(t *testing.T) {
	inMachine(t, func(w *world) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 1))
		pick := func(words ...string) string { return words[r.IntN(len(words))] }
		var all []*peers.Message
		tell := func(m *peers.Message) {
			w.iso.OnChange(m)
			all = append(all, m)
		}
		begin := func() {
			w.tell(all...)
			w.iso.Names(netip.MustParseAddr("10.2.0.1"))
			w.iso.Settle()
		}
		begin()
		own := map[string]*box{}
		for step := range 300 {
			namespace, name := pick("a", "b", "kube-system"), pick("1", "2", "3")
			switch r.IntN(8) {
			case 0, 1:
				tell(policyOf(namespace, name, drawSpec(r)))
			case 2:
				tell(noPolicy(namespace, name))
			case 3:
				tell(space(namespace, pick("", "a=b")))
			case 4:
				b := &box{ip: netip.AddrFrom4([4]byte{10, 2, 1, byte(10*(len(namespace)+int(namespace[0]-'a')) + 2*int(name[0]-'0') + r.IntN(2))})}
				b.pod = (&peers.Pod{Namespace: namespace, Name: "own-" + name, Labels: labelsOf(pick("k=x", "k=y l=x")), Here: "u"}).AsPod()
				own[namespace+name] = b
				w.iso.Note(b.pod, []string{b.ip.String()})
			case 5:
				if b := own[namespace+name]; b != nil {
					w.iso.Leave(t.Context(), b.pod)
					delete(own, namespace+name)
				}
			case 6:
				tell(&peers.Message{Pod: &peers.Pod{
					Namespace: namespace, Name: "p-" + name, Labels: labelsOf(pick("k=x", "l=x", "")), IPs: []string{fmt.Sprintf("10.2.2.%d", 1+r.IntN(250))},
					Ports: []peers.Port{{Name: "web", Number: 8080, Protocol: "UDP"}},
				}})
			case 7:
				tell(&peers.Message{Gone: &peers.Gone{Kind: peers.KindPod, Namespace: namespace, Name: "p-" + name}})
			}
			w.settle()
			if step%5 == 0 {
				w.holds()
			}
			if step%50 == 49 {
				w.stop()
				w.start()
				w.tell(all...) // each as it was, one after the other: the last word counts
				w.iso.Names(netip.MustParseAddr("10.2.0.1"))
				for _, b := range own {
					w.iso.Note(b.pod, []string{b.ip.String()})
				}
				w.iso.Settle()
				w.settle()
				w.holds()
				if n := w.iso.rebuilt.Load(); n > 0 {
					t.Fatal("the next agent found the table damaged")
				}
			}
		}
	})
}

// holds compares what the kernel holds with the book. Nobody may be telling.
func (w *world) holds() {
	w.t.Helper()
	want := w.iso.book.Table()
	got, there := w.table()
	if there != w.iso.book.Governs() {
		w.t.Fatalf("there is a table: %v, policies: %v", there, w.iso.policies)
	}
	if !there {
		return
	}
	for name := range want.Chains {
		want.Chains[name] = nil
	}
	for name, s := range want.Sets {
		if s.Shape == policy.Ranges {
			s.Elements = map[policy.Element]bool{}
			want.Sets[name] = s
		}
	}
	if !reflect.DeepEqual(*got, want) {
		w.t.Fatalf("the kernel holds\n%v\nand the book says\n%v", *got, want)
	}
}

// BenchmarkPod is the address of one pod told until the kernel has it, among many others and policies.
func BenchmarkPod(b *testing.B) {
	for _, pods := range []int{100, 10_000} {
		b.Run(fmt.Sprint(pods), func(b *testing.B) {
			inMachine(b, func(w *world) {
				all := []*peers.Message{space("shop", "")}
				for n := range 100 {
					spec := deny("Ingress")
					spec.PodSelector = *selects(fmt.Sprint("app=a", n))
					spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: selects(fmt.Sprint("app=a", (n+1)%100))}}}}
					all = append(all, policyOf("shop", fmt.Sprint("p", n), spec))
				}
				pod := func(n int) *peers.Message {
					return &peers.Message{Pod: &peers.Pod{
						Namespace: "shop", Name: fmt.Sprint("pod-", n), Labels: labelsOf(fmt.Sprint("app=a", n%100)),
						IPs: []string{netip.AddrFrom4([4]byte{10, 3, byte(n >> 8), byte(n)}).String()},
					}}
				}
				for n := range pods {
					all = append(all, pod(n))
				}
				w.tell(all...)
				w.iso.Settle()
				for n := range 100 {
					own := (&peers.Pod{Namespace: "shop", Name: fmt.Sprint("own-", n), Labels: labelsOf(fmt.Sprint("app=a", n)), Here: "u"}).AsPod()
					w.iso.Note(own, []string{netip.AddrFrom4([4]byte{10, 4, 0, byte(n)}).String()})
				}
				w.settle()
				one, gone := pod(pods), &peers.Message{Gone: &peers.Gone{Kind: peers.KindPod, Namespace: "shop", Name: fmt.Sprint("pod-", pods)}}
				before := w.iso.written.Load()
				b.ResetTimer()
				for range b.N {
					w.iso.OnChange(one)
					w.settle()
					w.iso.OnChange(gone)
					w.settle()
				}
				b.StopTimer()
				b.ReportMetric(float64(w.iso.written.Load()-before)/float64(2*b.N), "elements/change")
			})
		})
	}
}
