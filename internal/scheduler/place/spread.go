package place

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// spreadRule is a topology spread constraint of a pod (KEP-895, KEP-3022, KEP-3094, KEP-3243).
type spreadRule struct {
	term
	hard       bool
	maxSkew    int64
	minDomains int64
	// honorAffinity and honorTaints leave nodes that the pod could not go to out of the count.
	honorAffinity, honorTaints bool
}

func spreadRules(pod *corev1.Pod) []spreadRule {
	var out []spreadRule
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		selector := withLabelKeys(c.LabelSelector, pod.Labels, c.MatchLabelKeys, "In")
		t, err := newTerm(c.TopologyKey, selector, []string{pod.Namespace}, nil, true)
		if err != nil {
			continue
		}
		r := spreadRule{
			term: t, hard: c.WhenUnsatisfiable == corev1.DoNotSchedule, maxSkew: int64(c.MaxSkew), minDomains: 1,
			honorAffinity: c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor,
			honorTaints:   c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
		}
		if c.MinDomains != nil {
			r.minDomains = int64(*c.MinDomains)
		}
		out = append(out, r)
	}
	return out
}

// spread is a rule with the counts of this moment.
type spread struct {
	*spreadRule
	// counts is by domain, over the nodes that take part.
	counts map[string]int64
	least  int64
	// self is 1 when the pod itself matches the selector.
	self int64
}

func (s *State) spreadOf(p *Pod, r *spreadRule, count *spreadCount) spread {
	out := spread{spreadRule: r, counts: count.domains, least: count.floor()}
	if s.tallies.matches(&r.term, p) {
		out.self = 1
	}
	return out
}

// spreadCount keeps a rule's counts for a class of pods, node by node: which nodes take part
// depends on the class.
type spreadCount struct {
	*spreadRule
	nodes   map[*Node]share
	domains map[string]int64
	// members counts the nodes of each domain; levels the domains at each count; low is at most the
	// least count.
	members map[string]int
	levels  map[int64]int
	low     int64
	// parked is the floor when nodes were parked.
	parked int64
}

// share is what a node adds to its domain.
type share struct {
	value string
	pods  int64
}

func newSpreadCount(r *spreadRule) *spreadCount {
	return &spreadCount{
		spreadRule: r, nodes: map[*Node]share{}, domains: map[string]int64{},
		members: map[string]int{}, levels: map[int64]int{},
	}
}

// take counts a node as it now is.
func (c *spreadCount) take(t *tally, p *Pod, n *Node) {
	if old, ok := c.nodes[n]; ok {
		delete(c.nodes, n)
		c.add(old, -1)
	}
	if n.Object == nil {
		return
	}
	value, ok := n.Object.Labels[c.key]
	if !ok || !c.includes(p, n) {
		return
	}
	now := share{value, t.nodes[n]}
	c.nodes[n] = now
	c.add(now, 1)
}

// add adds a node's share to its domain, or takes it away with sign -1.
func (c *spreadCount) add(s share, sign int) {
	if c.members[s.value] > 0 {
		c.level(c.domains[s.value], -1)
	}
	if c.members[s.value] += sign; c.members[s.value] == 0 {
		delete(c.members, s.value)
		delete(c.domains, s.value)
		return
	}
	c.domains[s.value] += int64(sign) * s.pods
	c.level(c.domains[s.value], 1)
}

func (c *spreadCount) level(at int64, by int) {
	if c.levels[at] += by; c.levels[at] == 0 {
		delete(c.levels, at)
	} else if by > 0 && at < c.low {
		c.low = at
	}
}

// floor is the count that no domain may exceed by more than the skew. Placing pods raises it in
// small steps, so that looking for the next level costs little.
func (c *spreadCount) floor() int64 {
	if len(c.domains) == 0 || int64(len(c.domains)) < c.minDomains {
		return 0
	}
	for tries := 0; c.levels[c.low] == 0; tries++ {
		if tries > len(c.levels) {
			c.low = slices.Min(slices.Collect(maps.Keys(c.levels)))
			break
		}
		c.low++
	}
	return c.low
}

// includes says whether a node takes part in the count.
func (r *spreadRule) includes(p *Pod, n *Node) bool {
	if r.honorAffinity {
		if match, err := p.affinity.Match(n.Object); err != nil || !match {
			return false
		}
	}
	return !r.honorTaints || untolerated(p, n) == nil
}

func (c *spread) refuse(n *Node) string {
	value, ok := n.Object.Labels[c.key]
	switch {
	case !ok:
		return reasonSpreadLabel
	case c.counts[value]+c.self-c.least > c.maxSkew:
		return reasonSpread
	}
	return ""
}

// at is the count in a node's domain.
func (c *spread) at(n *Node) int64 { return c.counts[n.Object.Labels[c.key]] }
