package place

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// Preemption is a node that can take a pod once its victims are gone.
type Preemption struct {
	Node string
	// Victims are running pods of lower priority to be deleted.
	Victims []*Pod
	// Yielding are pods of lower priority for which room was held but which are not bound: they
	// look for another place.
	Yielding []*Pod

	violations int
}

// maxPreemptionNodes bounds the nodes that are tried; more would rarely give a better answer.
const maxPreemptionNodes = 100

// Preempt looks for a node on which fewer or less important pods would make room for p, or
// nil. It chooses as upstream does: the fewest disruption budgets violated, then the least
// important victims, then the fewest, then those that began last.
func (s *State) Preempt(p *Pod, r object.Reader) *Preemption {
	if s.priorities.lowest() >= p.priority {
		return nil // as in most clusters: all are equally important
	}
	if policy := p.Object.Spec.PreemptionPolicy; policy != nil && *policy == corev1.PreemptNever {
		return nil
	}
	claimless := !p.hasClaims()
	if claimless && p.hopeless && p.preemptedAt == s.version {
		return nil
	}
	claims, blocked := claimsOf(p.Object, r)
	if blocked != "" {
		return nil
	}
	best := s.preemption(p, claims, r)
	if claimless {
		p.hopeless, p.preemptedAt = best == nil, s.version
	}
	return best
}

func (s *State) preemption(p *Pod, claims claimSet, r object.Reader) *Preemption {
	// Victims are taken off and put back: in the end nothing has changed.
	defer func(version int) { s.version = version }(s.version)
	var best *Preemption
	guard := newBudgets(r)
	tried := 0
	for _, n := range s.list() {
		if p.pinned != "" && n.Name != p.pinned || !s.preemptible(p, n, claims) {
			continue
		}
		if tried++; tried > maxPreemptionNodes {
			break
		}
		if found := s.victimsOn(n, p, claims, guard); found != nil && (best == nil || comparePreemptions(found, best) < 0) {
			best = found
		}
	}
	return best
}

// preemptible says whether other pods are all that stands between p and the node.
func (s *State) preemptible(p *Pod, n *Node, claims claimSet) bool {
	if n.priorities.lowest() >= p.priority {
		return false
	}
	if reason, cause := static(p, n); reason != "" && cause != CauseResources {
		return false
	}
	return claims.refuse(n.Object) == ""
}

// Clearing says whether less important pods are still ending on a node that was chosen for p.
func (s *State) Clearing(p *Pod, node string) bool {
	n := s.nodes[node]
	if n == nil {
		return false
	}
	for _, other := range n.pods {
		if other.Object.DeletionTimestamp != nil && lessImportant(other, p) {
			return true
		}
	}
	return false
}

func lessImportant(a, b *Pod) bool {
	return a.priority < b.priority
}

// podsOf is a node's pods, the most important first and, among equals, the longest running.
func podsOf(n *Node) []*Pod {
	pods := slices.Clone(n.pods)
	slices.SortFunc(pods, func(a, b *Pod) int {
		return cmp.Or(
			cmp.Compare(b.priority, a.priority),
			startOf(a).Compare(startOf(b).Time),
			cmp.Compare(a.UID, b.UID),
		)
	})
	return pods
}

func startOf(p *Pod) *metav1.Time {
	if p.Object.Status.StartTime != nil {
		return p.Object.Status.StartTime
	}
	return &p.Object.CreationTimestamp
}

// victimsOn takes every less important pod off the node and puts back all that can stay, the
// protected and the important ones first. The state is as before when it returns.
func (s *State) victimsOn(n *Node, p *Pod, claims claimSet, guard budgets) *Preemption {
	var removed []*Pod
	for _, other := range podsOf(n) {
		if lessImportant(other, p) {
			removed = append(removed, other)
		}
	}
	for _, v := range removed {
		s.RemovePod(v.UID)
	}
	defer func() {
		for _, v := range removed {
			if s.homes[v.UID] == nil {
				s.AddPod(v, n.Name)
			}
		}
	}()
	if !s.fits(p, n, claims) {
		return nil
	}
	protected, others := guard.split(removed)
	out := &Preemption{Node: n.Name}
	for i, v := range append(protected, others...) {
		s.AddPod(v, n.Name)
		if s.fits(p, n, claims) {
			continue
		}
		s.RemovePod(v.UID)
		if v.Object.Spec.NodeName == "" && !v.Binding {
			out.Yielding = append(out.Yielding, v)
			continue
		}
		out.Victims = append(out.Victims, v)
		if i < len(protected) {
			out.violations++
		}
	}
	return out
}

func (s *State) fits(p *Pod, n *Node, claims claimSet) bool {
	if reason, _ := static(p, n); reason != "" {
		return false
	}
	r := s.relate(p)
	q := &question{state: s, pod: p, claims: claims}
	if len(p.spreads) > 0 && p.pinned == "" {
		q.class = s.class(p, r) // which counts who takes part
	}
	q.topology = s.topologyOf(p, r, q.class)
	reason, _ := q.dynamic(n)
	return reason == ""
}

func comparePreemptions(a, b *Preemption) int {
	return cmp.Or(
		cmp.Compare(a.violations, b.violations),
		cmp.Compare(a.highest(), b.highest()),
		cmp.Compare(a.sum(), b.sum()),
		cmp.Compare(len(a.Victims), len(b.Victims)),
		// The one whose victims began later loses less work.
		-compareStarts(a, b),
		cmp.Compare(a.Node, b.Node),
	)
}

func (p *Preemption) highest() int32 {
	highest := int32(-1 << 31)
	for _, v := range p.Victims {
		highest = max(highest, v.priority)
	}
	return highest
}

func (p *Preemption) sum() (total int64) {
	for _, v := range p.Victims {
		// Shifted, so that many victims of negative priority still count as more.
		total += int64(v.priority) + 1<<31
	}
	return total
}

func compareStarts(a, b *Preemption) int {
	first := func(p *Preemption) *metav1.Time {
		var earliest *metav1.Time
		for _, v := range p.Victims {
			if t := startOf(v); earliest == nil || t.Before(earliest) {
				earliest = t
			}
		}
		return earliest
	}
	x, y := first(a), first(b)
	if x == nil || y == nil {
		return 0
	}
	return x.Compare(y.Time)
}

// budgets is what disruption budgets still allow, as victims use it up.
type budgets []budget

type budget struct {
	namespace string
	selector  labels.Selector
	left      int32
	disrupted map[string]metav1.Time
}

func newBudgets(r object.Reader) (out budgets) {
	for _, o := range r.List(resource.PodDisruptionBudgets, "") {
		pdb := o.(*policyv1.PodDisruptionBudget)
		selector, err := metav1.LabelSelectorAsSelector(pdb.Spec.Selector)
		if err != nil {
			continue
		}
		out = append(out, budget{pdb.Namespace, selector, pdb.Status.DisruptionsAllowed, pdb.Status.DisruptedPods})
	}
	return out
}

// split sorts victims into those whose loss would break a budget and the others.
func (b budgets) split(pods []*Pod) (protected, others []*Pod) {
	b = slices.Clone(b) // each node is looked at by itself
	for _, p := range pods {
		breaks := false
		for i := range b {
			one := &b[i]
			if one.namespace != p.Object.Namespace || !one.selector.Matches(labels.Set(p.Object.Labels)) {
				continue
			}
			if _, gone := one.disrupted[p.Object.Name]; gone {
				continue
			}
			one.left--
			breaks = breaks || one.left < 0
		}
		if breaks {
			protected = append(protected, p)
		} else {
			others = append(others, p)
		}
	}
	return protected, others
}
