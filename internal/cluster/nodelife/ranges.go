package nodelife

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

const (
	ipam         = "node-ipam-controller"
	indexRange   = "nodelife.range"
	rangeMissing = ""
)

// ranges gives each node a range of pod addresses of its own. It decides about all nodes at
// once, because two decisions side by side could take one range twice.
func ranges(cfg Config) plan.Controller {
	return plan.Controller{
		Name: ipam, For: resource.Nodes, Whole: true,
		Cares: func(before, after object.Object) bool {
			return before == nil || after == nil || !slices.Equal(podRanges(before.(*corev1.Node)), podRanges(after.(*corev1.Node)))
		},
		Indexes: []object.Index{{Resource: resource.Nodes, Name: indexRange, Values: func(o object.Object) []string {
			return podRanges(o.(*corev1.Node))
		}}},
		Plan: cfg.planRanges,
	}
}

// podRanges are those of a node, or rangeMissing.
func podRanges(n *corev1.Node) []string {
	if len(n.Spec.PodCIDRs) == 0 {
		return []string{n.Spec.PodCIDR}
	}
	return n.Spec.PodCIDRs
}

func (cfg Config) planRanges(in plan.Input) plan.Plan {
	var p plan.Plan
	// Where the search goes on within each range that is cut.
	from := map[netip.Prefix]netip.Addr{}
	for _, o := range in.Reader.Indexed(resource.Nodes, indexRange, rangeMissing) {
		if o.GetDeletionTimestamp() != nil {
			continue
		}
		whole, whole6 := cfg.rangeFor(o.(*corev1.Node))
		next, begun := from[whole]
		if !begun {
			next = whole.Masked().Addr()
		}
		given, free := cfg.nextFree(in.Reader, whole, whole6, next)
		if !free {
			from[whole] = netip.Addr{}
			p.Events = append(p.Events, plan.Event{
				Regarding: object.RefOf(o), Type: corev1.EventTypeNormal, Reason: "CIDRNotAvailable",
				Message: fmt.Sprintf("Node %s status is now: CIDRNotAvailable", o.GetName()),
			})
			continue
		}
		from[whole] = after(given)
		node := o.DeepCopyObject().(*corev1.Node)
		node.Spec.PodCIDRs = []string{given.String()}
		if second := cfg.beside(given, whole, whole6); second.IsValid() {
			node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, second.String())
		}
		if cfg.First6 {
			slices.Reverse(node.Spec.PodCIDRs)
		}
		node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
		p.Actions = append(p.Actions, plan.Update{Object: node, Because: "it has no range of pod addresses"})
	}
	return p
}

// rangeFor are the ranges of which a node gets a part; the IPv6 one is not valid in a cluster of one family.
func (cfg Config) rangeFor(node *corev1.Node) (whole, whole6 netip.Prefix) {
	if !nodestate.Simulated(node) || !cfg.SimulatedRange.IsValid() {
		return cfg.PodRange, cfg.PodRange6
	}
	if cfg.PodRange6.IsValid() {
		whole6 = cfg.SimulatedRange6
	}
	return cfg.SimulatedRange, whole6
}

// usualBits6 is how long the prefix of a node's IPv6 range is, as upstream has it, where the cluster's is short enough.
const usualBits6 = 64

// beside is the part of an IPv6 range that stands where a part of an IPv4 one does.
func (cfg Config) beside(part, whole, whole6 netip.Prefix) netip.Prefix {
	if !whole6.IsValid() {
		return netip.Prefix{}
	}
	bits := max(usualBits6, whole6.Bits()+part.Bits()-whole.Bits())
	first, base := part.Masked().Addr().As4(), whole.Masked().Addr().As4()
	number := (binary.BigEndian.Uint32(first[:]) - binary.BigEndian.Uint32(base[:])) >> (32 - part.Bits())
	out := whole6.Masked().Addr().As16()
	for bit := bits - 1; number > 0 && bit >= whole6.Bits(); bit-- {
		out[bit/8] |= byte(number&1) << (7 - bit%8)
		number >>= 1
	}
	return netip.PrefixFrom(netip.AddrFrom16(out), bits)
}

// nextFree finds the first part of a range, from an address on, that no node has.
func (cfg Config) nextFree(r object.Reader, whole, whole6 netip.Prefix, from netip.Addr) (netip.Prefix, bool) {
	taken := func(p netip.Prefix) bool {
		return p.IsValid() && len(r.Indexed(resource.Nodes, indexRange, p.String())) > 0
	}
	for at := from; at.IsValid() && whole.Contains(at); {
		candidate, err := at.Prefix(cfg.NodeBits)
		if err != nil {
			return netip.Prefix{}, false
		}
		if !taken(candidate) && !taken(cfg.beside(candidate, whole, whole6)) {
			return candidate, true
		}
		at = after(candidate)
	}
	return netip.Prefix{}, false
}

// after is the first address past a range, invalid past the last.
func after(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	bit := p.Bits() - 1
	for ; bit >= 0; bit-- {
		mask := byte(1) << (7 - bit%8)
		b[bit/8] ^= mask
		if b[bit/8]&mask != 0 {
			break
		}
	}
	if bit < 0 {
		return netip.Addr{}
	}
	next, _ := netip.AddrFromSlice(b)
	return next
}
