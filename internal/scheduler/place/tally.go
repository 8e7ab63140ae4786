package place

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
)

// tally is a term's count by domain and by node.
type tally struct {
	term
	*domainKey
	domains map[string]int64
	nodes   map[*Node]int64
	total   int64
	used    int
	// serial is a number that no other tally ever has.
	serial int
}

// add counts pods on a known node. Where domains are fine, it concerns the domain's other nodes.
func (s *State) add(t *tally, n *Node, by int64) {
	value, ok := n.Object.Labels[t.key]
	if !ok {
		return
	}
	t.total += by
	if t.domains[value] += by; t.domains[value] == 0 {
		delete(t.domains, value)
	}
	if t.nodes[n] += by; t.nodes[n] == 0 {
		delete(t.nodes, n)
	}
	if !t.fine {
		return
	}
	for _, peer := range t.members[value] {
		if peer != n {
			peer.version++
			s.classes.touch(peer)
		}
	}
}

// at is the count in a node's domain.
func (t *tally) at(n *Node) int64 {
	value, ok := n.Object.Labels[t.key]
	if !ok {
		return 0
	}
	return t.domains[value]
}

// maxTallies bounds the terms counted for pods that ask; the one not asked for longest goes.
const maxTallies = 512

type tallies struct {
	// asked counts the pods that match the terms of pods that were placed lately.
	asked map[string]*tally
	// repels counts the pods that have a required anti-affinity term; pulls sums the weights of
	// preferred terms (negative for anti-affinity). Both matter to pods that match the term.
	repels, pulls map[string]*tally
	// spaces are the labels of namespaces, for namespace selectors.
	spaces map[string]labels.Set
	clock  int
	// version counts the tallies that came and went, and changes of namespaces.
	version int
	serial  int
}

func newTallies() tallies {
	return tallies{
		asked: map[string]*tally{}, repels: map[string]*tally{}, pulls: map[string]*tally{},
		spaces: map[string]labels.Set{},
	}
}

func (s *State) newTally(t term) *tally {
	s.tallies.version++
	s.tallies.serial++
	return &tally{
		term: t, domainKey: s.domainsOf(t.key), domains: map[string]int64{}, nodes: map[*Node]int64{},
		serial: s.tallies.serial,
	}
}

// SetNamespace tells a namespace's labels; nil forgets it.
func (s *State) SetNamespace(name string, set map[string]string) {
	ts := &s.tallies
	if have, ok := ts.spaces[name]; ok == (set != nil) && maps.Equal(have, set) {
		return
	}
	if set == nil {
		delete(ts.spaces, name)
	} else {
		ts.spaces[name] = set
	}
	// Which pods match a namespace selector may have changed: count anew when next asked.
	for id, t := range ts.asked {
		if t.nsSelector != nil {
			delete(ts.asked, id)
		}
	}
	ts.version++
	s.version++
}

// selects says whether a term speaks of pods with the namespace and labels of p.
func (ts *tallies) selects(t *term, p *Pod) bool {
	inside := slices.Contains(t.namespaces, p.Object.Namespace) ||
		t.nsSelector != nil && t.nsSelector.Matches(ts.spaces[p.Object.Namespace])
	return inside && t.selector.Matches(labels.Set(p.Object.Labels))
}

// matches says whether a term counts p.
func (ts *tallies) matches(t *term, p *Pod) bool {
	return !(t.living && p.Object.DeletionTimestamp != nil) && ts.selects(t, p)
}

// countedIn is the tallies whose terms speak of pods like p.
func (ts *tallies) countedIn(p *Pod) []*tally {
	if p.matched != ts.version {
		p.counted = p.counted[:0]
		for _, t := range ts.asked {
			if ts.selects(&t.term, p) {
				p.counted = append(p.counted, t)
			}
		}
		p.matched = ts.version
	}
	return p.counted
}

// count adds a pod on a node to every tally it bears on, or takes it away with sign -1.
func (s *State) count(p *Pod, n *Node, sign int64) {
	if n.Object == nil {
		return
	}
	for _, t := range s.tallies.countedIn(p) {
		if !t.living || p.Object.DeletionTimestamp == nil {
			s.add(t, n, sign)
		}
	}
	for _, t := range p.anti {
		s.weigh(s.tallies.repels, t, n, sign)
	}
	for _, t := range p.prefers {
		s.weigh(s.tallies.pulls, t, n, sign*t.weight)
	}
}

func (s *State) weigh(in map[string]*tally, t term, n *Node, by int64) {
	have := in[t.id]
	if have == nil {
		s.pruneTallies(in)
		have = s.newTally(t)
		in[t.id] = have
	}
	s.add(have, n, by)
}

// pruneTallies forgets tallies of pods that are gone, once they are many: one that is empty
// does no harm, and is needed again when the next pod of its sort comes.
func (s *State) pruneTallies(in map[string]*tally) {
	empty := 0
	for _, t := range in {
		if len(t.nodes) == 0 {
			empty++
		}
	}
	if 2*empty <= len(in)+32 {
		return
	}
	maps.DeleteFunc(in, func(_ string, t *tally) bool { return len(t.nodes) == 0 })
}

// tally returns the up-to-date count for a term, counting every pod the first time.
func (s *State) tally(t term) *tally {
	ts := &s.tallies
	ts.clock++
	have := ts.asked[t.id]
	if have == nil {
		if len(ts.asked) >= maxTallies {
			ts.forgetOldest()
		}
		have = s.newTally(t)
		for _, p := range s.homes {
			if n := p.node; n.Object != nil && ts.matches(&have.term, p) {
				s.add(have, n, 1)
			}
		}
		ts.asked[t.id] = have
	}
	have.used = ts.clock
	return have
}

func (ts *tallies) forgetOldest() {
	oldest := ""
	for id, other := range ts.asked {
		if oldest == "" || other.used < ts.asked[oldest].used {
			oldest = id
		}
	}
	delete(ts.asked, oldest)
	ts.version++
}
