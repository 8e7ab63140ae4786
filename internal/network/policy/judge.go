package policy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Snapshot is the part of a cluster that policies speak of.
type Snapshot struct {
	Policies []*networkingv1.NetworkPolicy
	// Namespaces has the labels of each.
	Namespaces map[string]map[string]string
}

// End is one end of a connection.
type End struct {
	Addr netip.Addr
	// Pod has the address; nil for an end outside the pods' network.
	Pod *corev1.Pod
}

// Verdict is what becomes of a connection.
type Verdict struct {
	// Allowed holds when both sides are.
	Allowed bool
	// Sides are those of the ends that are governed, in the order that a packet meets them.
	Sides []Side
}

// Side is what the policies of one end say.
type Side struct {
	Direction Direction
	Pod       Key
	// Isolates are the policies that select the pod for this direction; without one, everything is allowed.
	Isolates []Key
	// Allowed, and by which rule of which policy: Rule counts from 0. By is empty where nothing isolates.
	Allowed bool
	By      Key
	Rule    int
}

// Judge says whether a connection is let through. A pod reaches itself.
func Judge(in Snapshot, from, to End, protocol corev1.Protocol, number uint16) Verdict {
	v := Verdict{Allowed: true}
	source, target := podOf(from.Pod), podOf(to.Pod)
	if source != nil && (source.names || target != nil && source.key == target.key) {
		return v // from the node, or of a pod with itself
	}
	var policies []*compiled
	for _, p := range in.Policies {
		policies = append(policies, compile(p))
	}
	slices.SortFunc(policies, func(a, b *compiled) int { return compare(a.key, b.key) })
	for _, d := range directions {
		near, far, addr := source, target, to.Addr
		if d == Ingress {
			near, far, addr = target, source, from.Addr
		}
		if near == nil || near.names {
			continue
		}
		side := Side{Direction: d, Pod: near.key}
		for _, p := range policies {
			rules, governs := p.rules[d]
			if !governs || p.key.Namespace != near.key.Namespace || !p.pods.Matches(near.labels) {
				continue
			}
			side.Isolates = append(side.Isolates, p.key)
			if side.Allowed {
				continue
			}
			side.Rule = slices.IndexFunc(rules, func(r rule) bool {
				return r.hasPeer(in, far, addr, protocol, number) && r.hasPort(target, protocol, number)
			})
			if side.Allowed = side.Rule >= 0; side.Allowed {
				side.By = p.key
			}
		}
		if len(side.Isolates) == 0 {
			side.Allowed = true
		}
		if !side.Allowed {
			side.Rule = 0
		}
		v.Allowed = v.Allowed && side.Allowed
		v.Sides = append(v.Sides, side)
	}
	return v
}

func (r *rule) hasPeer(in Snapshot, far *pod, addr netip.Addr, protocol corev1.Protocol, number uint16) bool {
	if len(r.peers) == 0 {
		return true
	}
	return slices.ContainsFunc(r.peers, func(p peer) bool {
		if p.block != nil {
			return p.block.holds(addr.Unmap())
		}
		if far != nil && far.names && !asksNames(protocol, number) {
			return false
		}
		return far != nil && p.selection.holds(far, labels.Set(in.Namespaces[far.key.Namespace]))
	})
}

// hasPort looks names up in the pod that is connected to: nobody else has any.
func (r *rule) hasPort(target *pod, protocol corev1.Protocol, number uint16) bool {
	if len(r.ports) == 0 {
		return true
	}
	return slices.ContainsFunc(r.ports, func(p port) bool {
		if p.name == "" {
			return p.has(protocol, number)
		}
		return target != nil && p.Protocol == protocol && slices.Contains(target.numbers(p.name, protocol), number)
	})
}
