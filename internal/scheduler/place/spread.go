package place

import (
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

func (s *State) spreadOf(p *Pod, r *spreadRule) spread {
	count := s.tally(r.term)
	out := spread{spreadRule: r, counts: map[string]int64{}}
	if s.tallies.matches(&r.term, p) {
		out.self = 1
	}
	for _, n := range s.list() {
		value, ok := n.Object.Labels[r.key]
		if !ok || !r.includes(p, n) {
			continue
		}
		out.counts[value] += count.nodes[n]
	}
	first := true
	for _, v := range out.counts {
		if first || v < out.least {
			out.least, first = v, false
		}
	}
	if int64(len(out.counts)) < r.minDomains {
		out.least = 0
	}
	return out
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
