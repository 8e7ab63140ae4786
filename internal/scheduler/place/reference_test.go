package place

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// suits is the plain reference: it asks one node by looking at every pod, and remembers nothing.
func suits(s *State, p *Pod, n *Node) bool {
	if reason, _ := static(p, n); reason != "" {
		return false
	}
	for _, t := range p.affine {
		value, ok := n.Object.Labels[t.key]
		if !ok || count(s, t, value) == 0 && !alone(s, p) {
			return false
		}
	}
	for _, t := range p.anti {
		if value, ok := n.Object.Labels[t.key]; ok && count(s, t, value) > 0 {
			return false
		}
	}
	for _, other := range s.homes {
		home := s.nodes[other.Node]
		for _, t := range other.anti {
			there, ok1 := "", false
			if home.Object != nil {
				there, ok1 = home.Object.Labels[t.key]
			}
			here, ok2 := n.Object.Labels[t.key]
			if ok1 && ok2 && here == there && s.tallies.matches(&t, p) {
				return false
			}
		}
	}
	for i := range p.spreads {
		if r := &p.spreads[i]; r.hard && !even(s, p, r, n) {
			return false
		}
	}
	return true
}

// count counts the pods that match a term in a domain.
func count(s *State, t term, value string) (sum int64) {
	for _, other := range s.homes {
		home := s.nodes[other.Node]
		if home.Object == nil {
			continue
		}
		if v, ok := home.Object.Labels[t.key]; ok && v == value && s.tallies.matches(&t, other) {
			sum++
		}
	}
	return sum
}

// alone says that p is the first of its affine group.
func alone(s *State, p *Pod) bool {
	for _, t := range p.affine {
		if !s.tallies.matches(&t, p) {
			return false
		}
		for _, n := range s.nodes {
			if n.Object == nil {
				continue
			}
			if v, ok := n.Object.Labels[t.key]; ok && count(s, t, v) > 0 {
				return false
			}
		}
	}
	return true
}

func even(s *State, p *Pod, r *spreadRule, n *Node) bool {
	here, ok := n.Object.Labels[r.key]
	if !ok {
		return false
	}
	domains := map[string]int64{}
	for _, other := range s.nodes {
		if other.Object == nil {
			continue
		}
		value, ok := other.Object.Labels[r.key]
		if !ok || !r.includes(p, other) {
			continue
		}
		domains[value] += 0
		for _, q := range other.pods {
			if s.tallies.matches(&r.term, q) {
				domains[value]++
			}
		}
	}
	least := int64(1 << 40)
	for _, v := range domains {
		least = min(least, v)
	}
	if len(domains) == 0 || int64(len(domains)) < r.minDomains {
		least = 0
	}
	self := int64(0)
	if s.tallies.matches(&r.term, p) {
		self = 1
	}
	return domains[here]+self-least <= r.maxSkew
}

// The decision is the one of a search that asks every node about every pod: a node that suits and
// that no other suitable node surpasses, or none where none suits.
func TestDecisionsAreThoseOfTheReference(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, r := world()
		var placed []types.UID
		draw := func(name string) *Pod {
			app := rapid.SampledFrom([]string{"web", "db"}).Draw(rt, "app")
			cpu := rapid.SampledFrom([]string{"100m", "1", "2"}).Draw(rt, "cpu")
			p := pod(name, requests(cpu, "100Mi"), func(p *corev1.Pod) { p.Labels["app"] = app })
			key := func() string {
				return rapid.SampledFrom([]string{corev1.LabelHostname, "zone"}).Draw(rt, "key")
			}
			two := int32(2)
			switch rapid.IntRange(0, 7).Draw(rt, "kind") {
			case 0, 1:
				antiAffinity(key())(p)
			case 2:
				affinity(key())(p)
			case 3, 4:
				spreadOver(key(), rapid.Int32Range(1, 2).Draw(rt, "skew"), nil)(p)
			case 5:
				spreadOver("zone", 1, &two)(p)
				more := p.Spec.TopologySpreadConstraints[0]
				more.TopologyKey, more.MinDomains = corev1.LabelHostname, nil
				p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, more)
				honor := corev1.NodeInclusionPolicyHonor
				p.Spec.TopologySpreadConstraints[1].NodeTaintsPolicy = &honor
			case 6:
				antiAffinity(corev1.LabelHostname)(p)
				spreadOver("zone", 1, nil)(p)
			}
			if rapid.Bool().Draw(rt, "selects") {
				p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
			}
			return NewPod(p)
		}
		for i := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch step := rapid.IntRange(0, 9).Draw(rt, "step"); {
			case step < 3:
				name := fmt.Sprint("n", rapid.IntRange(0, 6).Draw(rt, "node"))
				n := node(name)
				if rapid.IntRange(0, 9).Draw(rt, "zoned") > 0 {
					n.Labels["zone"] = fmt.Sprint(rapid.IntRange(0, 2).Draw(rt, "zone"))
				}
				if rapid.IntRange(0, 3).Draw(rt, "disk") == 0 {
					n.Labels["disk"] = "ssd"
				}
				if rapid.IntRange(0, 19).Draw(rt, "twin") == 0 {
					n.Labels[corev1.LabelHostname] = "n0"
				}
				if rapid.IntRange(0, 5).Draw(rt, "tainted") == 0 {
					taint("t", "", corev1.TaintEffectNoSchedule)(n)
				}
				n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse(rapid.SampledFrom([]string{"2", "4", "16"}).Draw(rt, "size"))
				s.SetNode(n)
			case step == 3:
				s.RemoveNode(fmt.Sprint("n", rapid.IntRange(0, 6).Draw(rt, "node")))
			case step == 4 && len(placed) > 0:
				s.RemovePod(placed[rapid.IntRange(0, len(placed)-1).Draw(rt, "gone")])
			case step == 5 && len(placed) > 0:
				uid := placed[rapid.IntRange(0, len(placed)-1).Draw(rt, "going")]
				if have := s.homes[uid]; have != nil {
					obj := have.Object.DeepCopy()
					obj.DeletionTimestamp = &metav1.Time{}
					s.AddPod(NewPod(obj), have.Node)
				}
			default:
				p := draw(fmt.Sprint("p", i))
				compareWithReference(rt, s, p, s.Place(p, r, ""))
				// Once more, for what is remembered of a refusal.
				d := s.Place(p, r, "")
				compareWithReference(rt, s, p, d)
				if d.Node != "" {
					s.AddPod(p, d.Node)
					placed = append(placed, p.UID)
				}
			}
		}
	})
}

func compareWithReference(t *rapid.T, s *State, p *Pod, d Decision) {
	var best *Node
	for _, n := range s.list() {
		if suits(s, p, n) && (best == nil || score(p, n) > score(p, best)) {
			best = n
		}
	}
	switch {
	case best == nil && d.Node == "":
		refusals := 0
		for _, n := range d.Refused {
			refusals += n
		}
		if refusals != len(s.list()) {
			t.Fatalf("%d of %d nodes are said to refuse: %v", refusals, len(s.list()), d.Refused)
		}
	case best == nil:
		t.Fatalf("placed on %s, which does not suit", d.Node)
	case d.Node == "":
		t.Fatalf("refused (%s), but %s suits", d.Message(), best.Name)
	case !suits(s, p, s.nodes[d.Node]):
		t.Fatalf("placed on %s, which does not suit; %s does", d.Node, best.Name)
	case score(p, s.nodes[d.Node]) != score(p, best):
		t.Fatalf("placed on %s, but %s is better", d.Node, best.Name)
	}
	if c := s.classes.byKey[p.class]; c != nil && d.Nodes > 0 {
		for n := range c.parked {
			if suits(s, p, n) {
				t.Fatalf("%s is parked, but suits", n.Name)
			}
		}
	}
}
