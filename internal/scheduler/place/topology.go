package place

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
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

// The reasons that other pods give.
const (
	PodAffinity     Reason = "node(s) didn't match pod affinity rules"
	PodAntiAffinity Reason = "node(s) didn't match pod anti-affinity rules"
	Repelled        Reason = "node(s) didn't satisfy existing pods anti-affinity rules"
	Spread          Reason = "node(s) didn't match pod topology spread constraints"
	SpreadLabel     Reason = "node(s) didn't match pod topology spread constraints (missing required label)"
)

// relations are the tallies that bear on pods of one sort, whatever they count at present.
type relations struct {
	affine, anti, repels []*tally
	prefer               []weighted
	spreads              []*tally
	// key tells them apart from other pods' relations; empty when there are none.
	key string
}

// relate returns the tallies that bear on a pod.
func (s *State) relate(p *Pod) *relations {
	ts := &s.tallies
	if p.related == ts.version {
		for _, list := range [][]*tally{p.relations.affine, p.relations.anti, p.relations.spreads} {
			for _, t := range list {
				ts.clock++
				t.used = ts.clock
			}
		}
		return p.relations
	}
	r := &relations{}
	for _, t := range p.affine {
		r.affine = append(r.affine, s.tally(t))
	}
	for _, t := range p.anti {
		r.anti = append(r.anti, s.tally(t))
	}
	for i := range p.spreads {
		r.spreads = append(r.spreads, s.tally(p.spreads[i].term))
	}
	for _, t := range p.prefers {
		r.prefer = append(r.prefer, weighted{s.tally(t), t.weight})
	}
	r.repels = ts.speakingOf(ts.repels, p)
	for _, t := range ts.speakingOf(ts.pulls, p) {
		r.prefer = append(r.prefer, weighted{t, 1})
	}
	r.key = r.name(p)
	p.relations, p.related = r, ts.version
	return r
}

// speakingOf is the tallies of which the term matches a pod, in the order in which they began.
func (ts *tallies) speakingOf(in map[string]*tally, p *Pod) (out []*tally) {
	for _, t := range in {
		if ts.selects(&t.term, p) {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *tally) int { return cmp.Compare(a.serial, b.serial) })
	return out
}

// name writes relations down. What does not decide how nodes are told apart stays out of it.
func (r *relations) name(p *Pod) string {
	var key []byte
	mark := func(role byte, t *tally) { key = strconv.AppendInt(append(key, role), int64(t.serial), 10) }
	for _, t := range r.affine {
		mark('a', t)
	}
	for _, t := range r.anti {
		mark('n', t)
	}
	for _, t := range r.repels {
		mark('r', t)
	}
	for _, t := range r.prefer {
		mark('p', t.tally)
	}
	for i, t := range r.spreads {
		mark('s', t)
		key = fmt.Appendf(key, "%t%t", p.spreads[i].honorAffinity, p.spreads[i].honorTaints)
	}
	return string(key)
}

// topologyOf gathers the counts a pod's placement depends on. c is the pod's class, or nil: then
// the nodes that take part in a spread are counted here and now.
func (s *State) topologyOf(p *Pod, r *relations, c *class) topology {
	out := topology{affinity: r.affine, anti: r.anti, repels: r.repels, prefer: r.prefer, first: len(r.affine) > 0}
	for _, t := range r.affine {
		out.first = out.first && t.total == 0 && s.tallies.matches(&t.term, p)
	}
	for i := range p.spreads {
		rule := &p.spreads[i]
		one := spread{spreadRule: rule}
		if c != nil {
			one.participants = c.spreads[i].participants
		} else {
			one.participants = s.participantsOf(p, rule, r.spreads[i])
		}
		one.least = one.leastOf(rule)
		if s.tallies.matches(&rule.term, p) {
			one.self = 1
		}
		if rule.hard {
			out.hard = append(out.hard, one)
		} else {
			out.soft = append(out.soft, one)
		}
	}
	return out
}

// refuse says why a node's place among the other pods does not suit.
func (t *topology) refuse(n *Node) (Reason, Cause) {
	for i := range t.hard {
		if reason := t.hard[i].refuse(n); reason != "" {
			return reason, CausePods | CauseNode
		}
	}
	for _, count := range t.affinity {
		value, ok := n.Object.Labels[count.key]
		if !ok || !t.first && count.domains[value] == 0 {
			return PodAffinity, CausePods | CauseNode
		}
	}
	for _, count := range t.anti {
		if count.at(n) > 0 {
			return PodAntiAffinity, CausePods | CauseResources
		}
	}
	for _, count := range t.repels {
		if count.at(n) > 0 {
			return Repelled, CausePods | CauseResources
		}
	}
	return "", 0
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
