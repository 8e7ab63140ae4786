package place

import (
	"math"

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

// participants is the matching pods by domain, over the nodes that take part in a spread.
type participants struct {
	domains map[string]domainCount
	// levels counts the domains that have so many pods.
	levels map[int64]int
}

type domainCount struct {
	nodes int
	pods  int64
}

func newParticipants() participants {
	return participants{domains: map[string]domainCount{}, levels: map[int64]int{}}
}

// add counts nodes with their pods in a domain.
func (c *participants) add(domain string, nodes int, pods int64) {
	have := c.domains[domain]
	if have.nodes > 0 {
		if c.levels[have.pods]--; c.levels[have.pods] == 0 {
			delete(c.levels, have.pods)
		}
	}
	have.nodes += nodes
	have.pods += pods
	if have.nodes == 0 {
		delete(c.domains, domain)
		return
	}
	c.domains[domain] = have
	c.levels[have.pods]++
}

// leastOf is the count of the domain with the fewest pods, by a rule.
func (c *participants) leastOf(r *spreadRule) int64 {
	if int64(len(c.domains)) < r.minDomains || len(c.domains) == 0 {
		return 0
	}
	least := int64(math.MaxInt64)
	for n := range c.levels {
		least = min(least, n)
	}
	return least
}

// participantsOf counts by asking every node.
func (s *State) participantsOf(p *Pod, r *spreadRule, count *tally) participants {
	out := newParticipants()
	for _, n := range s.list() {
		if value, ok := n.Object.Labels[r.key]; ok && r.includes(p, n) {
			out.add(value, 1, count.nodes[n])
		}
	}
	return out
}

// spread is a rule with the counts of this moment.
type spread struct {
	*spreadRule
	participants
	least int64
	// self is 1 when the pod itself matches the selector.
	self int64
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

func (c *spread) refuse(n *Node) Reason {
	value, ok := n.Object.Labels[c.key]
	switch {
	case !ok:
		return SpreadLabel
	case c.domains[value].pods+c.self-c.least > c.maxSkew:
		return Spread
	}
	return ""
}

// at is the count in a node's domain.
func (c *spread) at(n *Node) int64 { return c.domains[n.Object.Labels[c.key]].pods }
