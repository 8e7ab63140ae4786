package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

// here is the node whose table is kept.
const here = "here"

func isHere(p *corev1.Pod) bool { return p.Spec.NodeName == here }

// allows looks a packet up as a kernel does.
func (t *Table) allows(d Direction, source, target netip.Addr, protocol corev1.Protocol, port uint16) bool {
	near, far := source, target
	if d == Ingress {
		near, far = target, source
	}
	name, governed := t.Members[Member{d, near}]
	if !governed {
		return true
	}
	return slices.ContainsFunc(t.Chains[name], func(a Allow) bool {
		set := t.Sets[a.Set]
		if set.Shape == Endpoints {
			return a.Ports.Protocol == protocol && set.Elements[Element{target, target, port}]
		}
		if a.Ports != nil && !a.Ports.has(protocol, port) {
			return false
		}
		return a.Set == "" || func() bool {
			for e := range set.Elements {
				if !far.Less(e.First) && !e.Last.Less(far) {
					return true
				}
			}
			return false
		}()
	})
}

// carry does to a table what a kernel would be told, and fails where a kernel would refuse.
func (t *Table) carry(f interface{ Fatalf(string, ...any) }, d Delta) {
	for _, c := range d.Sets {
		s, there := t.Sets[c.Name]
		if there == c.New {
			f.Fatalf("set %s: new %v, there %v", c.Name, c.New, there)
		}
		if !there {
			s = Set{c.Shape, map[Element]bool{}}
			t.Sets[c.Name] = s
		}
		for _, e := range c.Remove {
			if !s.Elements[e] {
				f.Fatalf("set %s: %v is not there to be removed", c.Name, e)
			}
			delete(s.Elements, e)
		}
		for _, e := range c.Add {
			if s.Elements[e] {
				f.Fatalf("set %s: %v is there", c.Name, e)
			}
			s.Elements[e] = true
		}
	}
	for name, rules := range d.Chains {
		if _, there := t.Chains[name]; there {
			f.Fatalf("chain %s is there", name)
		}
		for _, r := range rules {
			if _, there := t.Sets[r.Set]; r.Set != "" && !there {
				f.Fatalf("chain %s: no set %s", name, r.Set)
			}
		}
		t.Chains[name] = rules
	}
	for m, name := range d.Members {
		if name == "" {
			delete(t.Members, m)
			continue
		}
		if _, there := t.Chains[name]; !there {
			f.Fatalf("member %v: no chain %s", m, name)
		}
		t.Members[m] = name
	}
	for _, name := range d.GoneChains {
		if slices.Contains(slices.Collect(maps.Values(t.Members)), name) {
			f.Fatalf("chain %s has members", name)
		}
		delete(t.Chains, name)
	}
	for _, id := range d.GoneSets {
		for name, rules := range t.Chains {
			if slices.ContainsFunc(rules, func(a Allow) bool { return a.Set == id }) {
				f.Fatalf("set %s is used by chain %s", id, name)
			}
		}
		delete(t.Sets, id)
	}
}

// The node's name server, and where the API server is reached.
var (
	namesAt = netip.MustParseAddr("10.0.0.33")
	api     = Alias{netip.MustParseAddr("10.0.0.35"), netip.MustParseAddr("127.0.0.1")}
)

// world is a cluster, as the book is told of it.
type world struct {
	book       *Book
	kernel     Table
	pods       map[Key]*corev1.Pod
	policies   map[Key]*networkingv1.NetworkPolicy
	namespaces map[string]map[string]string
}

var (
	someNames  = rapid.SampledFrom([]string{"a", "b", "c"})
	someSpaces = rapid.SampledFrom([]string{"a", "b", metav1.NamespaceSystem})
	someValues = rapid.SampledFrom([]string{"x", "y"})
	someLabels = rapid.Custom(func(t *rapid.T) map[string]string {
		return rapid.MapOfN(rapid.SampledFrom([]string{"k", "l"}), someValues, 0, 2).Draw(t, "labels")
	})
	someSelector = rapid.Custom(func(t *rapid.T) *metav1.LabelSelector {
		s := &metav1.LabelSelector{MatchLabels: someLabels.Draw(t, "match")}
		if rapid.IntRange(0, 4).Draw(t, "names") == 0 {
			s.MatchLabels = map[string]string{"k8s-app": "kube-dns"}
		}
		if rapid.IntRange(0, 3).Draw(t, "expression") == 0 {
			s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "k", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"x"}}}
		}
		return s
	})
	someProtocol = rapid.SampledFrom([]corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP})
	somePorts    = rapid.SampledFrom([]uint16{53, 80, 81, 443, 8080})
	someAddress  = rapid.Custom(func(t *rapid.T) netip.Addr {
		return netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 31).Draw(t, "address"))})
	})
	someBlock = rapid.Custom(func(t *rapid.T) *networkingv1.IPBlock {
		prefix := func(least int) string {
			return netip.PrefixFrom(someAddress.Draw(t, "base"), rapid.IntRange(least, 32).Draw(t, "bits")).Masked().String()
		}
		return &networkingv1.IPBlock{CIDR: prefix(24), Except: rapid.SliceOfN(rapid.Custom(func(*rapid.T) string { return prefix(28) }), 0, 2).Draw(t, "except")}
	})
	somePeers = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) networkingv1.NetworkPolicyPeer {
		switch rapid.IntRange(0, 3).Draw(t, "peer") {
		case 0:
			return networkingv1.NetworkPolicyPeer{IPBlock: someBlock.Draw(t, "block")}
		case 1:
			return networkingv1.NetworkPolicyPeer{PodSelector: someSelector.Draw(t, "pods")}
		case 2:
			return networkingv1.NetworkPolicyPeer{NamespaceSelector: someSelector.Draw(t, "namespaces")}
		}
		return networkingv1.NetworkPolicyPeer{PodSelector: someSelector.Draw(t, "pods"), NamespaceSelector: someSelector.Draw(t, "namespaces")}
	}), 0, 2)
	someRulePorts = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) networkingv1.NetworkPolicyPort {
		protocol := someProtocol.Draw(t, "protocol")
		out := networkingv1.NetworkPolicyPort{Protocol: &protocol}
		switch rapid.IntRange(0, 3).Draw(t, "port") {
		case 1:
			name := intstr.FromString(rapid.SampledFrom([]string{"a", "b", "c", NamesPort, NamesStream}).Draw(t, "name"))
			out.Port = &name
		case 2:
			number := intstr.FromInt32(int32(somePorts.Draw(t, "number")))
			out.Port = &number
		case 3:
			number, end := intstr.FromInt32(80), int32(443)
			out.Port, out.EndPort = &number, &end
		}
		return out
	}), 0, 2)
)

func (w *world) drawPod(t *rapid.T) *corev1.Pod {
	key := Key{someSpaces.Draw(t, "namespace"), "p" + someNames.Draw(t, "pod")}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, Labels: someLabels.Draw(t, "labels")}}
	p.Spec.NodeName = rapid.SampledFrom([]string{here, "there"}).Draw(t, "node")
	p.Spec.HostNetwork = rapid.IntRange(0, 9).Draw(t, "host network") == 0
	for _, name := range rapid.SliceOfN(someNames, 0, 2).Draw(t, "ports") {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Ports: []corev1.ContainerPort{
			{Name: name, ContainerPort: int32(somePorts.Draw(t, "container port")), Protocol: someProtocol.Draw(t, "container protocol")},
		}})
	}
	if rapid.IntRange(0, 5).Draw(t, "ended") == 0 {
		p.Status.Phase = corev1.PodSucceeded
	}
	a := someAddress.Draw(t, "pod's address")
	for other, o := range w.pods {
		if other != key && podOf(o) != nil && len(o.Status.PodIPs) > 0 && o.Status.PodIPs[0].IP == a.String() {
			return p // somebody has it: none yet
		}
	}
	p.Status.PodIPs = []corev1.PodIP{{IP: a.String()}}
	return p
}

func drawPolicy(t *rapid.T) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: someSpaces.Draw(t, "namespace"), Name: someNames.Draw(t, "policy")}}
	p.Spec.PodSelector = *someSelector.Draw(t, "selector")
	p.Spec.PolicyTypes = rapid.SliceOfNDistinct(rapid.SampledFrom([]networkingv1.PolicyType{
		networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress,
	}), 0, 2, rapid.ID).Draw(t, "types")
	for range rapid.IntRange(0, 2).Draw(t, "ingress rules") {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: somePeers.Draw(t, "from"), Ports: someRulePorts.Draw(t, "ports")})
	}
	for range rapid.IntRange(0, 2).Draw(t, "egress rules") {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: somePeers.Draw(t, "to"), Ports: someRulePorts.Draw(t, "ports")})
	}
	return p
}

// agree holds the table against what Judge says of every pair of ends.
func (w *world) agree(t *rapid.T) {
	w.kernel.carry(t, w.book.Take())
	if whole := w.book.Table(); !reflect.DeepEqual(whole, w.kernel) {
		t.Fatalf("the table is\n%v\nand what was told of it comes to\n%v", whole, w.kernel)
	}
	snapshot := Snapshot{Policies: slices.Collect(maps.Values(w.policies)), Namespaces: w.namespaces}
	ends := []End{{Addr: netip.MustParseAddr("10.0.0.40")}, {Addr: netip.MustParseAddr("192.0.2.1")}, {Addr: namesAt, Pod: NameServer(namesAt)}, {Addr: api.Shown}}
	for _, key := range slices.SortedFunc(maps.Keys(w.pods), compare) {
		if p := w.pods[key]; podOf(p) != nil && len(p.Status.PodIPs) > 0 {
			ends = append(ends, End{netip.MustParseAddr(p.Status.PodIPs[0].IP), p})
		}
	}
	for _, from := range ends {
		for _, to := range ends {
			if from.Addr == to.Addr {
				continue
			}
			protocol, port := someProtocol.Draw(t, "protocol"), somePorts.Draw(t, "port")
			v := Judge(snapshot, from, to, protocol, port)
			for _, side := range v.Sides {
				near := from
				if side.Direction == Ingress {
					near = to
				}
				if !isHere(near.Pod) {
					continue
				}
				arrives := to.Addr
				if arrives == api.Shown {
					arrives = api.Real
				}
				if side.Pod == (Key{metav1.NamespaceSystem, namesOf}) {
					t.Fatal("the name server is governed")
				}
				if got := w.kernel.allows(side.Direction, from.Addr, arrives, protocol, port); got != side.Allowed {
					t.Fatalf("%s -> %s %s/%d: the table says %v, judged %+v", from.Addr, to.Addr, protocol, port, got, side)
				}
			}
		}
	}
}

// TestBook changes a cluster at random: the table always says what the policies mean.
func TestBook(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{
			book: NewBook(isHere, api), kernel: Table{map[string]Set{}, map[string]Chain{}, map[Member]string{}},
			pods: map[Key]*corev1.Pod{}, policies: map[Key]*networkingv1.NetworkPolicy{}, namespaces: map[string]map[string]string{},
		}
		w.book.Pod(NameServer(namesAt))
		t.Repeat(map[string]func(*rapid.T){
			"pod": func(t *rapid.T) {
				p := w.drawPod(t)
				w.pods[Key{p.Namespace, p.Name}] = p
				w.book.Pod(p)
			},
			"no pod": func(t *rapid.T) {
				key := Key{someSpaces.Draw(t, "namespace"), "p" + someNames.Draw(t, "pod")}
				delete(w.pods, key)
				w.book.NoPod(key)
			},
			"namespace": func(t *rapid.T) {
				name, l := someSpaces.Draw(t, "namespace"), someLabels.Draw(t, "labels")
				w.namespaces[name] = l
				w.book.Namespace(name, l)
			},
			"no namespace": func(t *rapid.T) {
				name := someSpaces.Draw(t, "namespace")
				delete(w.namespaces, name)
				w.book.Namespace(name, nil)
			},
			"policy": func(t *rapid.T) {
				p := drawPolicy(t)
				w.policies[Key{p.Namespace, p.Name}] = p
				w.book.Policy(p)
			},
			"no policy": func(t *rapid.T) {
				key := Key{someSpaces.Draw(t, "namespace"), someNames.Draw(t, "policy")}
				delete(w.policies, key)
				w.book.NoPolicy(key)
			},
			"": w.agree,
		})
		for key := range w.policies {
			w.book.NoPolicy(key)
		}
		w.kernel.carry(t, w.book.Take())
		if w.book.Governs() || len(w.kernel.Sets)+len(w.kernel.Chains)+len(w.kernel.Members) > 0 {
			t.Fatalf("without policies there is left %v", w.kernel)
		}
	})
}

// BenchmarkPod is the address of one pod among many becoming known, with policies that select it.
func BenchmarkPod(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			book := NewBook(isHere)
			book.Namespace("a", map[string]string{"k": "x"})
			policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"}}
			policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}}
			book.Policy(policy)
			pod := func(i int) *corev1.Pod {
				p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprint("p", i), Labels: map[string]string{"k": "x"}}}
				p.Spec.NodeName = here
				p.Status.PodIPs = []corev1.PodIP{{IP: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()}}
				return p
			}
			for i := range n {
				book.Pod(pod(i))
			}
			book.Take()
			one := pod(n)
			b.ReportAllocs()
			for b.Loop() {
				book.Pod(one)
				book.Take()
				book.NoPod(Key{"a", one.Name})
				if d := book.Take(); d.Empty() {
					b.Fatal("nothing has changed")
				}
			}
		})
	}
}

// TestDiff: what makes one table of another, done to the one, is the other.
func TestDiff(t *testing.T) {
	draw := func(t *rapid.T) Table {
		w := &world{book: NewBook(isHere, api), pods: map[Key]*corev1.Pod{}}
		for range rapid.IntRange(0, 6).Draw(t, "pods") {
			p := w.drawPod(t)
			w.pods[Key{p.Namespace, p.Name}] = p
			w.book.Pod(p)
		}
		for range rapid.IntRange(0, 3).Draw(t, "policies") {
			w.book.Policy(drawPolicy(t))
		}
		return w.book.Table()
	}
	rapid.Check(t, func(t *rapid.T) {
		from, to := draw(t), draw(t)
		from.carry(t, Diff(from, to))
		if !reflect.DeepEqual(from, to) {
			t.Fatalf("comes to\n%v\nnot\n%v", from, to)
		}
		if d := Diff(from, to); !d.Empty() {
			t.Fatalf("between equals there is %+v", d)
		}
	})
}

// TestBlocks: ranges are read in each form that the API takes.
func TestBlocks(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "010.000.1.0/24": "10.0.1.0/24", "10.1.2.3/8": "10.0.0.0/8", "::ffff:10.0.0.0/104": "10.0.0.0/8", "2001:db8::1/32": "2001:db8::/32",
		"none": "invalid Prefix",
	} {
		if b := blockOf(&networkingv1.IPBlock{CIDR: text}); b.cidr.String() != want {
			t.Errorf("%s is read as %s", text, b.cidr)
		}
	}
	b := blockOf(&networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"010.0.0.0/8"}})
	if b.holds(netip.MustParseAddr("10.2.3.4")) || !b.holds(netip.MustParseAddr("11.2.3.4")) {
		t.Error("an exception is not heeded")
	}
}
