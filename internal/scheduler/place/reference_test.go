package place

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// reference decides by asking every node and counting every pod, with nothing remembered. Its
// reading of other pods' terms is its own; what a node by itself says is static's and score's.
type reference struct {
	nodes  map[string]*corev1.Node
	pods   map[string]*corev1.Pod
	spaces map[string]map[string]string
}

// apply is whether a term of owner speaks of other.
func (w *reference) apply(owner *corev1.Pod, t *corev1.PodAffinityTerm, other *corev1.Pod) bool {
	selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
	if err != nil || !selector.Matches(labels.Set(other.Labels)) {
		return false
	}
	for _, key := range t.MatchLabelKeys {
		if value, ok := owner.Labels[key]; ok && other.Labels[key] != value {
			return false
		}
	}
	if t.NamespaceSelector != nil {
		spaces, err := metav1.LabelSelectorAsSelector(t.NamespaceSelector)
		if err == nil && spaces.Matches(labels.Set(w.spaces[other.Namespace])) {
			return true
		}
	} else if len(t.Namespaces) == 0 {
		return owner.Namespace == other.Namespace
	}
	return slices.Contains(t.Namespaces, other.Namespace)
}

// domain is a node's value of a key.
func (w *reference) domain(node, key string) (string, bool) {
	n := w.nodes[node]
	if n == nil {
		return "", false
	}
	value, ok := n.Labels[key]
	return value, ok
}

// together says whether two nodes share a domain.
func (w *reference) together(a, b, key string) bool {
	x, xok := w.domain(a, key)
	y, yok := w.domain(b, key)
	return xok && yok && x == y
}

func required(p *corev1.Pod, anti bool) []corev1.PodAffinityTerm {
	a := p.Spec.Affinity
	switch {
	case a != nil && anti && a.PodAntiAffinity != nil:
		return a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	case a != nil && !anti && a.PodAffinity != nil:
		return a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

func preferred(p *corev1.Pod, anti bool) []corev1.WeightedPodAffinityTerm {
	a := p.Spec.Affinity
	switch {
	case a != nil && anti && a.PodAntiAffinity != nil:
		return a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	case a != nil && !anti && a.PodAffinity != nil:
		return a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// skew is the pods in a node's domain and in the emptiest one, and whether p is one of them.
func (w *reference) skew(p *Pod, c *corev1.TopologySpreadConstraint, node string) (here, least, self int64) {
	selector, _ := metav1.LabelSelectorAsSelector(c.LabelSelector)
	matches := func(o *corev1.Pod) bool {
		return o.DeletionTimestamp == nil && o.Namespace == p.Object.Namespace && selector.Matches(labels.Set(o.Labels))
	}
	counts := map[string]int64{}
	for name, n := range w.nodes {
		value, ok := n.Labels[c.TopologyKey]
		if !ok {
			continue
		}
		if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor {
			if fits, err := p.affinity.Match(n); err != nil || !fits {
				continue
			}
		}
		if c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor && untolerated(p, &Node{Object: n}) != nil {
			continue
		}
		counts[value] += 0
		for _, o := range w.pods {
			if o.Spec.NodeName == name && matches(o) {
				counts[value]++
			}
		}
	}
	if len(counts) > 0 && (c.MinDomains == nil || int(*c.MinDomains) <= len(counts)) {
		least = slices.Min(slices.Collect(maps.Values(counts)))
	}
	if matches(p.Object) {
		self = 1
	}
	value, _ := w.domain(node, c.TopologyKey)
	return counts[value], least, self
}

// refuse is why other pods keep p from a node.
func (w *reference) refuse(p *Pod, node string) Reason {
	for i := range p.Object.Spec.TopologySpreadConstraints {
		c := &p.Object.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable != corev1.DoNotSchedule {
			continue
		}
		if _, ok := w.domain(node, c.TopologyKey); !ok {
			return SpreadLabel
		}
		if here, least, self := w.skew(p, c, node); here+self-least > int64(c.MaxSkew) {
			return Spread
		}
	}
	terms := required(p.Object, false)
	first := true
	for i := range terms {
		first = first && w.apply(p.Object, &terms[i], p.Object)
		for _, o := range w.pods {
			_, ok := w.domain(o.Spec.NodeName, terms[i].TopologyKey)
			first = first && !(ok && w.apply(p.Object, &terms[i], o))
		}
	}
	for i := range terms {
		if _, ok := w.domain(node, terms[i].TopologyKey); !ok {
			return PodAffinity
		}
		if !first && !w.any(func(o *corev1.Pod) bool {
			return w.apply(p.Object, &terms[i], o) && w.together(node, o.Spec.NodeName, terms[i].TopologyKey)
		}) {
			return PodAffinity
		}
	}
	for _, t := range required(p.Object, true) {
		if w.any(func(o *corev1.Pod) bool {
			return w.apply(p.Object, &t, o) && w.together(node, o.Spec.NodeName, t.TopologyKey)
		}) {
			return PodAntiAffinity
		}
	}
	if w.any(func(o *corev1.Pod) bool {
		for _, t := range required(o, true) {
			if w.apply(o, &t, p.Object) && w.together(node, o.Spec.NodeName, t.TopologyKey) {
				return true
			}
		}
		return false
	}) {
		return Repelled
	}
	return ""
}

func (w *reference) any(says func(*corev1.Pod) bool) bool {
	for _, o := range w.pods {
		if says(o) {
			return true
		}
	}
	return false
}

// liking sums preferred terms of p and of the pods there, by which a node gains.
func (w *reference) liking(p *Pod, node string) (sum int64) {
	both := func(a, b *corev1.Pod) {
		for sign, anti := range map[int64]bool{1: false, -1: true} {
			for _, t := range preferred(a, anti) {
				where := b.Spec.NodeName
				if a != p.Object {
					where = a.Spec.NodeName
				}
				if w.apply(a, &t.PodAffinityTerm, b) && w.together(node, where, t.PodAffinityTerm.TopologyKey) {
					sum += sign * int64(t.Weight)
				}
			}
		}
	}
	for _, o := range w.pods {
		both(p.Object, o)
		both(o, p.Object)
	}
	return sum
}

// decide is the best node, or the refusals.
func (w *reference) decide(p *Pod) (string, map[Reason]int) {
	fresh := NewState()
	for _, n := range w.nodes {
		fresh.SetNode(n)
	}
	for _, o := range w.pods {
		fresh.AddPod(NewPod(o), o.Spec.NodeName)
	}
	refused := map[Reason]int{}
	var fit []*Node
	for _, n := range fresh.list() {
		reason, _ := static(p, n)
		if reason == "" {
			reason = w.refuse(p, n.Name)
		}
		if reason != "" {
			refused[reason]++
			continue
		}
		fit = append(fit, n)
	}
	scores := make([]int64, len(fit))
	scale := func(value func(*Node) int64) {
		raw := make([]int64, len(fit))
		for i, n := range fit {
			raw[i] = value(n)
		}
		for i := range raw {
			if low, high := slices.Min(raw), slices.Max(raw); high > low {
				scores[i] += 200 * (raw[i] - low) / (high - low)
			}
		}
	}
	scale(func(n *Node) int64 { return w.liking(p, n.Name) })
	for i := range p.Object.Spec.TopologySpreadConstraints {
		if c := &p.Object.Spec.TopologySpreadConstraints[i]; c.WhenUnsatisfiable == corev1.ScheduleAnyway {
			scale(func(n *Node) int64 { here, _, _ := w.skew(p, c, n.Name); return -here })
		}
	}
	best := -1
	for i, n := range fit {
		if scores[i] += score(p, n); best < 0 || scores[i] > scores[best] {
			best = i
		}
	}
	if best < 0 {
		return "", refused
	}
	return fit[best].Name, nil
}
