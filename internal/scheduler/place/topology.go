package place

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// term is one question about other pods: how many that match (namespaces, selector) are in each
// domain, a domain being the nodes that share a value of the label key.
type term struct {
	// id tells terms apart: equal terms share one tally.
	id  string
	key string
	// selector and the namespaces say which pods match. nsSelector, when set, adds the
	// namespaces it selects; namespaces nil with nsSelector nil means none.
	selector   labels.Selector
	namespaces []string
	nsSelector labels.Selector
	// living leaves out pods that are being deleted, as topology spread does.
	living bool
	weight int64
}

func newTerm(key string, selector *metav1.LabelSelector, namespaces []string, nsSelector *metav1.LabelSelector, living bool) (term, error) {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return term{}, err
	}
	t := term{key: key, selector: s, namespaces: namespaces, living: living}
	ns := ""
	if nsSelector != nil {
		if t.nsSelector, err = metav1.LabelSelectorAsSelector(nsSelector); err != nil {
			return term{}, err
		}
		ns = t.nsSelector.String()
	}
	life := ""
	if living {
		life = "living"
	}
	t.id = strings.Join([]string{key, s.String(), strings.Join(namespaces, ","), ns, life}, "\x00")
	return t, nil
}

// tally is a term's count by domain and by node.
type tally struct {
	term
	domains map[string]int64
	nodes   map[*Node]int64
	total   int64
	used    int
}

func (t *tally) add(n *Node, by int64) {
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
}

func newTally(t term) *tally {
	return &tally{term: t, domains: map[string]int64{}, nodes: map[*Node]int64{}}
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
}

func newTallies() tallies {
	return tallies{
		asked: map[string]*tally{}, repels: map[string]*tally{}, pulls: map[string]*tally{},
		spaces: map[string]labels.Set{},
	}
}

// SetNamespace tells a namespace's labels; nil forgets it.
func (s *State) SetNamespace(name string, set map[string]string) {
	if maps.Equal(s.tallies.spaces[name], set) {
		return
	}
	if set == nil {
		delete(s.tallies.spaces, name)
	} else {
		s.tallies.spaces[name] = set
	}
	s.version++
	// Which pods match a namespace selector may have changed: count anew when next asked, and ask
	// anew the nodes that were parked.
	clear(s.classes.byKey)
	for id, t := range s.tallies.asked {
		if t.nsSelector != nil {
			delete(s.tallies.asked, id)
		}
	}
}

func (ts *tallies) matches(t *term, p *Pod) bool {
	if t.living && p.Object.DeletionTimestamp != nil {
		return false
	}
	inside := slices.Contains(t.namespaces, p.Object.Namespace) ||
		t.nsSelector != nil && t.nsSelector.Matches(ts.spaces[p.Object.Namespace])
	return inside && t.selector.Matches(labels.Set(p.Object.Labels))
}

// count adds a pod on a node to every tally it bears on, or takes it away with sign -1.
func (ts *tallies) count(p *Pod, n *Node, sign int64) {
	if n.Object == nil {
		return
	}
	for _, t := range ts.asked {
		if ts.matches(&t.term, p) {
			t.add(n, sign)
		}
	}
	for _, t := range p.anti {
		ts.weigh(ts.repels, t, n, sign)
	}
	for _, t := range p.prefers {
		ts.weigh(ts.pulls, t, n, sign*t.weight)
	}
}

func (ts *tallies) weigh(in map[string]*tally, t term, n *Node, by int64) {
	have := in[t.id]
	if have == nil {
		have = newTally(t)
		in[t.id] = have
	}
	have.add(n, by)
	if len(have.nodes) == 0 {
		delete(in, t.id)
	}
}

// tally returns the up-to-date count for a term, counting every pod the first time.
func (s *State) tally(t term) *tally {
	ts := &s.tallies
	ts.clock++
	have := ts.asked[t.id]
	if have == nil {
		if len(ts.asked) >= maxTallies {
			oldest := ""
			for id, other := range ts.asked {
				if oldest == "" || other.used < ts.asked[oldest].used {
					oldest = id
				}
			}
			delete(ts.asked, oldest)
		}
		have = newTally(t)
		for _, p := range s.homes {
			if n := s.nodes[p.Node]; n.Object != nil && ts.matches(&have.term, p) {
				have.add(n, 1)
			}
		}
		ts.asked[t.id] = have
	}
	have.used = ts.clock
	return have
}

// topology is what other pods mean for one pod.
type topology struct {
	affinity, anti, repels []*tally
	// first says that no pod matches the required affinity yet and the pod itself does: it may
	// go anywhere that has the labels.
	first  bool
	hard   []spread
	soft   []spread
	prefer []weighted
}

type weighted struct {
	*tally
	weight int64
}

// The words of refusals, upstream's.
const (
	reasonPodAffinity  = "node(s) didn't match pod affinity rules"
	reasonAntiAffinity = "node(s) didn't match pod anti-affinity rules"
	reasonRepelled     = "node(s) didn't satisfy existing pods anti-affinity rules"
	reasonSpread       = "node(s) didn't match pod topology spread constraints"
	reasonSpreadLabel  = "node(s) didn't match pod topology spread constraints (missing required label)"
)

func (t *topology) free() bool {
	return len(t.affinity)+len(t.anti)+len(t.repels)+len(t.hard)+len(t.soft)+len(t.prefer) == 0
}

// topologyOf gathers the counts a pod's placement depends on.
func (s *State) topologyOf(p *Pod) topology {
	var out topology
	out.first = len(p.affine) > 0
	for _, t := range p.affine {
		count := s.tally(t)
		out.affinity = append(out.affinity, count)
		out.first = out.first && count.total == 0 && s.tallies.matches(&t, p)
	}
	for _, t := range p.anti {
		out.anti = append(out.anti, s.tally(t))
	}
	for _, t := range s.tallies.repels {
		if s.tallies.matches(&t.term, p) {
			out.repels = append(out.repels, t)
		}
	}
	for _, t := range p.prefers {
		out.prefer = append(out.prefer, weighted{s.tally(t), t.weight})
	}
	for _, t := range s.tallies.pulls {
		if s.tallies.matches(&t.term, p) {
			out.prefer = append(out.prefer, weighted{t, 1})
		}
	}
	if len(p.spreads) == 0 {
		return out
	}
	counts := s.class(p).spreads
	for i := range p.spreads {
		c := s.spreadOf(p, &p.spreads[i], counts[i])
		if p.spreads[i].hard {
			out.hard = append(out.hard, c)
		} else {
			out.soft = append(out.soft, c)
		}
	}
	return out
}

// refuse says why a node's place among the other pods does not suit.
func (t *topology) refuse(n *Node) (string, Cause) {
	if reason, cause := t.refuseOwn(n, func(string) bool { return true }); reason != "" {
		return reason, cause
	}
	return t.repelled(n)
}

// refuseOwn asks the pod's own rules, those whose key is chosen.
func (t *topology) refuseOwn(n *Node, chosen func(key string) bool) (string, Cause) {
	for i := range t.hard {
		if !chosen(t.hard[i].key) {
			continue
		}
		if reason := t.hard[i].refuse(n); reason != "" {
			return reason, CausePods | CauseNode
		}
	}
	for _, count := range t.affinity {
		if !chosen(count.key) {
			continue
		}
		value, ok := n.Object.Labels[count.key]
		if !ok || !t.first && count.domains[value] == 0 {
			return reasonPodAffinity, CausePods | CauseNode
		}
	}
	for _, count := range t.anti {
		if chosen(count.key) && count.at(n) > 0 {
			return reasonAntiAffinity, CauseResources
		}
	}
	return "", 0
}

// repelled asks the rules of the pods that are there.
func (t *topology) repelled(n *Node) (string, Cause) {
	for _, count := range t.repels {
		if count.at(n) > 0 {
			return reasonRepelled, CauseResources
		}
	}
	return "", 0
}

// at is the count in a node's domain.
func (t *tally) at(n *Node) int64 {
	value, ok := n.Object.Labels[t.key]
	if !ok {
		return 0
	}
	return t.domains[value]
}

// preference scores candidates by preferred affinity and by soft spread, each from 0 to
// 2*maxScore; nil when neither applies.
func (t *topology) preference(candidates []*verdict) []int64 {
	if len(t.prefer)+len(t.soft) == 0 {
		return nil
	}
	scores := make([]int64, len(candidates))
	if len(t.prefer) > 0 {
		addScaled(scores, candidates, func(n *Node) int64 {
			var sum int64
			for _, w := range t.prefer {
				sum += w.weight * w.at(n)
			}
			return sum
		})
	}
	for i := range t.soft {
		addScaled(scores, candidates, func(n *Node) int64 { return -t.soft[i].at(n) })
	}
	return scores
}

// addScaled adds a criterion, stretched so that the worst candidate gets 0 and the best 2*maxScore.
func addScaled(scores []int64, candidates []*verdict, value func(*Node) int64) {
	if len(candidates) == 0 {
		return
	}
	raw := make([]int64, len(candidates))
	for i, v := range candidates {
		raw[i] = value(v.node)
	}
	low, high := slices.Min(raw), slices.Max(raw)
	if low == high {
		return
	}
	for i, v := range raw {
		scores[i] += 2 * maxScore * (v - low) / (high - low)
	}
}

// podTerms parses a list of pod affinity terms. Terms were validated by the API; one that
// cannot be parsed matches nothing.
func podTerms(pod *corev1.Pod, terms []corev1.PodAffinityTerm) []term {
	var out []term
	for i := range terms {
		out = append(out, podTerm(pod, &terms[i]))
	}
	return out
}

func podTerm(pod *corev1.Pod, t *corev1.PodAffinityTerm) term {
	namespaces := t.Namespaces
	if len(namespaces) == 0 && t.NamespaceSelector == nil {
		namespaces = []string{pod.Namespace}
	}
	selector := withLabelKeys(t.LabelSelector, pod.Labels, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
	selector = withLabelKeys(selector, pod.Labels, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	parsed, err := newTerm(t.TopologyKey, selector, namespaces, t.NamespaceSelector, false)
	if err != nil {
		return term{id: "invalid", key: t.TopologyKey, selector: labels.Nothing()}
	}
	return parsed
}

// withLabelKeys narrows a selector by the pod's own values of the keys (KEP-3243, KEP-3633).
func withLabelKeys(s *metav1.LabelSelector, own map[string]string, keys []string, op metav1.LabelSelectorOperator) *metav1.LabelSelector {
	if s == nil || len(keys) == 0 {
		return s
	}
	out := s.DeepCopy()
	for _, key := range keys {
		if value, ok := own[key]; ok {
			out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{value}})
		}
	}
	return out
}
