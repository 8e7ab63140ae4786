// Package policy decides which connections of pods are let through, by the NetworkPolicies of a cluster
// (networking.k8s.io/v1).
//
// It owns the meaning of a policy, twice: Judge says of one connection what allows or denies it, in the API's own terms, and
// Book keeps the tables that a kernel looks such things up in, as pods, namespaces and policies come and go. The two are held
// against each other by a property test. Both are pure. It refuses to know how tables reach the kernel.
//
// A pod that some policy selects for a direction is isolated in it: only what a rule of a policy that selects it allows
// gets through. Policies add up; their order means nothing. Answers to what was let through are, and a pod reaches
// itself. Nodes reach their own pods. Pods in their node's network are not governed, nor are they anybody's peer by
// selector: their address is their node's.
package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	netutils "k8s.io/utils/net"

	"coracle/internal/podstate"
)

// Key names a pod or a policy.
type Key struct{ Namespace, Name string }

func (k Key) String() string { return k.Namespace + "/" + k.Name }

func compare(a, b Key) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// Direction is that of a connection, seen from a pod.
type Direction string

// The directions, in the API's words.
const (
	Ingress = Direction(networkingv1.PolicyTypeIngress)
	Egress  = Direction(networkingv1.PolicyTypeEgress)
)

// directions are in the order in which a packet meets them.
var directions = []Direction{Egress, Ingress}

// Ports are those of one protocol from First to Last.
type Ports struct {
	Protocol    corev1.Protocol
	First, Last uint16
}

func (p Ports) has(protocol corev1.Protocol, port uint16) bool {
	return p.Protocol == protocol && p.First <= port && port <= p.Last
}

// pod is what policies look at.
type pod struct {
	key    Key
	labels labels.Set
	addrs  []netip.Addr
	ports  []corev1.ContainerPort
	names  bool // it is the name server
}

// podOf returns what policies see of a pod; nil for one that is not in the pods' network, or no longer.
func podOf(p *corev1.Pod) *pod {
	if p == nil || p.Spec.HostNetwork || podstate.Ended(p) {
		return nil
	}
	out := &pod{key: Key{p.Namespace, p.Name}, labels: p.Labels, names: isNames(p)}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out.addrs = append(out.addrs, a.Unmap())
		}
	}
	for _, containers := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			out.ports = append(out.ports, containers[i].Ports...)
		}
	}
	return out
}

// numbers returns the ports that a pod calls by a name.
func (p *pod) numbers(name string, protocol corev1.Protocol) []uint16 {
	var out []uint16
	for _, c := range p.ports {
		if c.Name == name && cmp.Or(c.Protocol, corev1.ProtocolTCP) == protocol && !slices.Contains(out, uint16(c.ContainerPort)) {
			out = append(out, uint16(c.ContainerPort))
		}
	}
	return out
}

// selection is a peer that is chosen by labels.
type selection struct {
	// namespace is the only one, or it is chosen by its labels.
	namespace  string
	namespaces labels.Selector
	pods       labels.Selector
}

// id is the same for selections that mean the same, whosever they are.
func (s *selection) id() string {
	if s.namespaces == nil {
		return "ns=" + s.namespace + " pods{" + s.pods.String() + "}"
	}
	return "ns{" + s.namespaces.String() + "} pods{" + s.pods.String() + "}"
}

// holds says whether a pod is chosen; ns are the labels of its namespace.
func (s *selection) holds(p *pod, ns labels.Set) bool {
	if s.namespaces == nil && s.namespace != p.key.Namespace || s.namespaces != nil && !s.namespaces.Matches(ns) {
		return false
	}
	return s.pods.Matches(p.labels)
}

// block is a peer that is chosen by its address.
type block struct {
	cidr   netip.Prefix
	except []netip.Prefix
}

func (b *block) id() string {
	text := "block " + b.cidr.String()
	for _, e := range b.except {
		text += " except " + e.String()
	}
	return text
}

func (b *block) holds(a netip.Addr) bool {
	return b.cidr.Contains(a) && !slices.ContainsFunc(b.except, func(e netip.Prefix) bool { return e.Contains(a) })
}

// peer is one of the two.
type peer struct {
	selection *selection
	block     *block
}

// port is one of a rule: numbers, or a name that each pod has its own number for.
type port struct {
	Ports
	name string
}

// rule allows connections with any of its peers at any of its ports; nil is all of them.
type rule struct {
	peers []peer
	ports []port
}

// governed are the rules of a policy by direction; a direction that is not there is not governed.
type governed map[Direction][]rule

// compiled is a policy, ready to be asked.
type compiled struct {
	key   Key
	pods  labels.Selector
	rules governed
}

// compile reads a policy. What the API would have refused (a selector or an address that is none) chooses nothing.
func compile(p *networkingv1.NetworkPolicy) *compiled {
	c := &compiled{key: Key{p.Namespace, p.Name}, pods: selector(&p.Spec.PodSelector), rules: governed{}}
	types := p.Spec.PolicyTypes
	if len(types) == 0 { // the API's default
		types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			types = append(types, networkingv1.PolicyTypeEgress)
		}
	}
	for _, t := range types {
		rules := []rule{}
		switch Direction(t) {
		case Ingress:
			for _, r := range p.Spec.Ingress {
				rules = append(rules, rule{peersOf(r.From, p.Namespace), portsOf(r.Ports)})
			}
		case Egress:
			for _, r := range p.Spec.Egress {
				rules = append(rules, rule{peersOf(r.To, p.Namespace), portsOf(r.Ports)})
			}
		default:
			continue
		}
		c.rules[Direction(t)] = rules
	}
	return c
}

func selector(s *metav1.LabelSelector) labels.Selector {
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return out
}

func peersOf(in []networkingv1.NetworkPolicyPeer, namespace string) []peer {
	var out []peer
	for i := range in {
		if b := in[i].IPBlock; b != nil {
			out = append(out, peer{block: blockOf(b)})
			continue
		}
		s := &selection{namespace: namespace, pods: labels.Everything()}
		if sel := in[i].NamespaceSelector; sel != nil {
			s.namespace, s.namespaces = "", selector(sel)
		}
		if sel := in[i].PodSelector; sel != nil {
			s.pods = selector(sel)
		}
		out = append(out, peer{selection: s})
	}
	return out
}

func blockOf(in *networkingv1.IPBlock) *block {
	cidr, ok := prefixOf(in.CIDR)
	if !ok {
		return &block{}
	}
	b := &block{cidr: cidr}
	for _, text := range in.Except {
		if e, ok := prefixOf(text); ok {
			b.except = append(b.except, e)
		}
	}
	return b
}

// prefixOf reads a range as the API takes it: with leading zeros too, and IPv4 in the clothes of IPv6.
func prefixOf(text string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		_, sloppy, err := netutils.ParseCIDRSloppy(text)
		if err != nil {
			return netip.Prefix{}, false
		}
		a, _ := netip.AddrFromSlice(sloppy.IP)
		bits, _ := sloppy.Mask.Size()
		p = netip.PrefixFrom(a, bits)
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), p.IsValid()
}

func portsOf(in []networkingv1.NetworkPolicyPort) []port {
	var out []port
	for _, p := range in {
		next := port{Ports: Ports{Protocol: corev1.ProtocolTCP, Last: 65535}}
		if p.Protocol != nil {
			next.Protocol = *p.Protocol
		}
		switch {
		case p.Port == nil:
		case p.Port.Type == intstr.String:
			next.name = p.Port.StrVal
		default:
			next.First = uint16(p.Port.IntVal)
			next.Last = next.First
			if p.EndPort != nil {
				next.Last = uint16(*p.EndPort)
			}
		}
		out = append(out, next)
	}
	return out
}
