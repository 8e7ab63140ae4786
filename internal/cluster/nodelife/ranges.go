package nodelife

import (
	"fmt"
	"net/netip"

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
			return before == nil || after == nil || podRange(before.(*corev1.Node)) != podRange(after.(*corev1.Node))
		},
		Indexes: []object.Index{{Resource: resource.Nodes, Name: indexRange, Values: func(o object.Object) []string {
			return []string{podRange(o.(*corev1.Node))}
		}}},
		Plan: cfg.planRanges,
	}
}

func podRange(n *corev1.Node) string {
	if n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) > 0 {
		return n.Spec.PodCIDRs[0]
	}
	return n.Spec.PodCIDR
}

func (cfg Config) planRanges(in plan.Input) plan.Plan {
	var p plan.Plan
	// Where the search goes on within each range that is cut.
	from := map[netip.Prefix]netip.Addr{}
	for _, o := range in.Reader.Indexed(resource.Nodes, indexRange, rangeMissing) {
		if o.GetDeletionTimestamp() != nil {
			continue
		}
		whole := cfg.rangeFor(o.(*corev1.Node))
		next, begun := from[whole]
		if !begun {
			next = whole.Masked().Addr()
		}
		given, free := cfg.nextFree(in.Reader, whole, next)
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
		node.Spec.PodCIDR = given.String()
		node.Spec.PodCIDRs = []string{given.String()}
		p.Actions = append(p.Actions, plan.Update{Object: node, Because: "it has no range of pod addresses"})
	}
	return p
}

// rangeFor is the range of which a node gets a part.
func (cfg Config) rangeFor(node *corev1.Node) netip.Prefix {
	if nodestate.Simulated(node) && cfg.SimulatedRange.IsValid() {
		return cfg.SimulatedRange
	}
	return cfg.PodRange
}

// nextFree finds the first part of a range, from an address on, that no node has.
func (cfg Config) nextFree(r object.Reader, whole netip.Prefix, from netip.Addr) (netip.Prefix, bool) {
	for at := from; at.IsValid() && whole.Contains(at); {
		candidate, err := at.Prefix(cfg.NodeBits)
		if err != nil {
			return netip.Prefix{}, false
		}
		if len(r.Indexed(resource.Nodes, indexRange, candidate.String())) == 0 {
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
