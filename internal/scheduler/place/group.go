package place

import (
	"encoding/binary"

	"coracle/internal/heap"
)

// grouping sorts the nodes that can take pods of a class into groups. All nodes of a group have,
// in each respect in which other pods matter, the same count: where the domains of a key are few
// because they share the domain, and where they are many because their domains' counts are equal
// (domain.go). So what a relation says of one of them it says of all, and the best of the group
// is the best by its own score.
type grouping struct {
	axes    []axis
	spreads []spreadGroup
	groups  map[string]*group
	// unsettled are domains, by axis, of which the count of a spread changed.
	unsettled map[unsettled]struct{}
	scratch   []byte
}

// axis is one respect in which nodes are told apart.
type axis struct {
	key    string
	fine   bool
	domain *domainKey
	// tally is what is counted where the domains are fine; spread, if not negative, is the
	// spread whose participants are counted instead.
	tally  *tally
	spread int
	// any says that it matters only whether there is a pod at all.
	any bool
}

// spreadGroup is a spread's participants.
type spreadGroup struct {
	rule  *spreadRule
	tally *tally
	participants
	fine bool
}

// share is what a node counts for in a spread.
type share struct {
	in     bool
	domain string
	pods   int64
}

type unsettled struct {
	spread int
	domain string
}

// group is nodes that are alike to a class, the best first.
type group struct {
	key string
	*heap.Heap[*verdict]
}

func newGroup(key string) *group {
	return &group{key, heap.New(better, func(v *verdict) *int { return &v.index })}
}

// better orders by score, then by name, so that equal worlds give equal decisions.
func better(a, b *verdict) bool {
	if a.score != b.score {
		return a.score > b.score
	}
	return a.node.Name < b.node.Name
}

// groupingOf says how nodes are told apart for pods with these relations.
func (s *State) groupingOf(p *Pod, r *relations) grouping {
	g := grouping{groups: map[string]*group{}, unsettled: map[unsettled]struct{}{}}
	for _, list := range [][]*tally{r.affine, r.anti, r.repels} {
		for _, t := range list {
			g.tell(axis{tally: t, spread: -1, any: true})
		}
	}
	for _, w := range r.prefer {
		g.tell(axis{tally: w.tally, spread: -1})
	}
	for i, t := range r.spreads {
		g.spreads = append(g.spreads, spreadGroup{rule: &p.spreads[i], tally: t, participants: newParticipants(), fine: t.fine})
		g.tell(axis{tally: t, spread: i})
	}
	return g
}

func (g *grouping) tell(a axis) {
	a.key, a.domain, a.fine = a.tally.key, a.tally.domainKey, a.tally.fine
	if !a.fine && g.tellsBy(a.key) {
		return // the domain itself tells all
	}
	g.axes = append(g.axes, a)
}

func (g *grouping) tellsBy(key string) bool {
	for i := range g.axes {
		if g.axes[i].key == key {
			return true
		}
	}
	return false
}

// sign writes down all that tells a node apart.
func (g *grouping) sign(n *Node) []byte {
	out := g.scratch[:0]
	for i := range g.axes {
		a := &g.axes[i]
		value, ok := n.Object.Labels[a.key]
		switch {
		case !ok:
			out = append(out, 0)
			continue
		case !a.fine:
			out = binary.AppendUvarint(append(out, 1), uint64(len(value)))
			out = append(out, value...)
			continue
		}
		var count int64
		if a.spread >= 0 {
			count = g.spreads[a.spread].domains[value].pods
		} else {
			count = a.tally.domains[value]
		}
		if a.any {
			count = min(count, 1)
		}
		out = binary.AppendVarint(append(out, 2), count)
	}
	g.scratch = out
	return out
}

// put files a node under what tells it apart.
func (g *grouping) put(v *verdict) {
	key := g.sign(v.node)
	in := g.groups[string(key)]
	if in == nil {
		in = newGroup(string(key))
		g.groups[in.key] = in
	}
	v.group = in
	in.Push(v)
}

func (g *grouping) take(v *verdict) {
	v.group.Remove(v)
	if v.group.Len() == 0 {
		delete(g.groups, v.group.key)
	}
	v.group = nil
}

// join counts a node in the spreads it takes part in, and leave takes it out again.
func (g *grouping) join(p *Pod, v *verdict) {
	for i := range g.spreads {
		if v.shares == nil {
			v.shares = make([]share, len(g.spreads))
		}
		one := &g.spreads[i]
		value, ok := v.node.Object.Labels[one.rule.key]
		v.shares[i] = share{}
		if !ok || !one.rule.includes(p, v.node) {
			continue
		}
		v.shares[i] = share{true, value, one.tally.nodes[v.node]}
		g.spread(i, v.shares[i], 1)
	}
}

func (g *grouping) leave(v *verdict) {
	for i := range v.shares {
		if v.shares[i].in {
			g.spread(i, v.shares[i], -1)
		}
		v.shares[i] = share{}
	}
}

func (g *grouping) spread(i int, s share, sign int) {
	one := &g.spreads[i]
	one.add(s.domain, sign, int64(sign)*s.pods)
	if one.fine && len(one.tally.members[s.domain]) > 1 {
		g.unsettled[unsettled{i, s.domain}] = struct{}{}
	}
}

// settle files the other nodes of the domains whose counts changed.
func (g *grouping) settle(c *class) {
	if len(g.unsettled) == 0 {
		return
	}
	for u := range g.unsettled {
		for _, n := range g.spreads[u.spread].tally.members[u.domain] {
			v := c.at(n)
			if v == nil || v.group == nil || v.group.key == string(g.sign(n)) {
				continue
			}
			g.take(v)
			g.put(v)
		}
	}
	clear(g.unsettled)
}
