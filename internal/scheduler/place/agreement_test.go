package place

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// drawTerm draws a pod affinity term.
func drawTerm(rt *rapid.T) corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{
		TopologyKey:   rapid.SampledFrom([]string{"zone", "rack", corev1.LabelHostname}).Draw(rt, "key"),
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": rapid.SampledFrom([]string{"web", "db"}).Draw(rt, "app")}},
	}
	switch rapid.IntRange(0, 5).Draw(rt, "namespaces") {
	case 0:
		t.Namespaces = []string{"other"}
	case 1:
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}
	case 2:
		t.MatchLabelKeys = []string{"rev"}
	}
	return t
}

func drawSpread(rt *rapid.T) corev1.TopologySpreadConstraint {
	c := corev1.TopologySpreadConstraint{
		TopologyKey: rapid.SampledFrom([]string{"zone", "rack", corev1.LabelHostname}).Draw(rt, "key"),
		MaxSkew:     rapid.Int32Range(1, 2).Draw(rt, "skew"), LabelSelector: appSelector(),
		WhenUnsatisfiable: rapid.SampledFrom([]corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}).Draw(rt, "when"),
	}
	honor, ignore := corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore
	c.NodeAffinityPolicy = rapid.SampledFrom([]*corev1.NodeInclusionPolicy{nil, &honor, &ignore}).Draw(rt, "affinity policy")
	c.NodeTaintsPolicy = rapid.SampledFrom([]*corev1.NodeInclusionPolicy{nil, &honor, &ignore}).Draw(rt, "taints policy")
	if two := int32(2); c.WhenUnsatisfiable == corev1.DoNotSchedule && rapid.Bool().Draw(rt, "min domains") {
		c.MinDomains = &two
	}
	return c
}

func drawPod(rt *rapid.T, name string) *corev1.Pod {
	p := pod(name, requests(rapid.SampledFrom([]string{"100m", "1", "3"}).Draw(rt, "cpu"), "1Gi"))
	p.Namespace = rapid.SampledFrom([]string{"default", "other"}).Draw(rt, "namespace")
	p.Labels = map[string]string{"app": rapid.SampledFrom([]string{"web", "db"}).Draw(rt, "app"), "rev": rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "rev")}
	owned(p, types.UID(p.Labels["app"]))
	if rapid.Bool().Draw(rt, "individual") {
		p.Labels["name"] = name
	}
	p.Spec.Priority = rapid.SampledFrom([]*int32{nil, new(int32(10))}).Draw(rt, "priority")
	if rapid.IntRange(0, 3).Draw(rt, "selective") == 0 {
		p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	}
	a := &corev1.Affinity{PodAffinity: &corev1.PodAffinity{}, PodAntiAffinity: &corev1.PodAntiAffinity{}}
	p.Spec.Affinity = a
	for range rapid.IntRange(0, 2).Draw(rt, "terms") {
		t := drawTerm(rt)
		weighted := corev1.WeightedPodAffinityTerm{Weight: rapid.Int32Range(1, 100).Draw(rt, "weight"), PodAffinityTerm: t}
		switch rapid.IntRange(0, 4).Draw(rt, "kind") {
		case 0:
			a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, t)
		case 1, 2:
			a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, t)
		case 3:
			a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, weighted)
		case 4:
			a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, weighted)
		}
	}
	for range rapid.IntRange(0, 2).Draw(rt, "spreads") {
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, drawSpread(rt))
	}
	return p
}

func drawNode(rt *rapid.T, name string) *corev1.Node {
	n := node(name)
	if zone := rapid.IntRange(0, 2).Draw(rt, "zone"); zone < 2 {
		n.Labels["zone"] = fmt.Sprint(zone)
	}
	if rack := rapid.IntRange(0, 6).Draw(rt, "rack"); rack > 0 {
		n.Labels["rack"] = fmt.Sprint(rack)
	}
	if rapid.Bool().Draw(rt, "ssd") {
		n.Labels["disk"] = "ssd"
	}
	if rapid.IntRange(0, 4).Draw(rt, "tainted") == 0 {
		taint("gpu", "yes", corev1.TaintEffectNoSchedule)(n)
	}
	return n
}

// The decision that is made by groups and from memory is the one that asking every node gives.
func TestPlaceAgreesWithReference(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, r := world()
		w := &reference{nodes: map[string]*corev1.Node{}, pods: map[string]*corev1.Pod{}, spaces: map[string]map[string]string{}}
		set := func(name string) {
			n := drawNode(rt, name)
			w.nodes[name] = n
			s.SetNode(n)
		}
		for i := range rapid.IntRange(1, 10).Draw(rt, "nodes") {
			set(fmt.Sprint("n", i))
		}
		var sorts []*corev1.Pod
		for i := range rapid.IntRange(1, 4).Draw(rt, "sorts") {
			sorts = append(sorts, drawPod(rt, fmt.Sprint("sort", i)))
		}
		for i := range rapid.IntRange(1, 40).Draw(rt, "steps") {
			victim := func() *corev1.Pod {
				names := slices.Sorted(maps.Keys(w.pods))
				if len(names) == 0 {
					return nil
				}
				return w.pods[rapid.SampledFrom(names).Draw(rt, "victim")]
			}
			switch step := rapid.IntRange(0, 20).Draw(rt, "step"); step {
			case 0:
				set(fmt.Sprint("n", rapid.IntRange(0, 11).Draw(rt, "node")))
			case 1:
				name := fmt.Sprint("n", rapid.IntRange(0, 11).Draw(rt, "node"))
				delete(w.nodes, name)
				s.RemoveNode(name)
			case 2, 3, 4:
				if p := victim(); p != nil {
					delete(w.pods, p.Name)
					s.RemovePod(p.UID)
				}
			case 5:
				if p := victim(); p != nil {
					p = p.DeepCopy()
					p.DeletionTimestamp = &metav1.Time{}
					w.pods[p.Name] = p
					s.AddPod(s.NewPod(p), p.Spec.NodeName)
				}
			case 6:
				name := rapid.SampledFrom([]string{"default", "other"}).Draw(rt, "namespace")
				w.spaces[name] = map[string]string{"team": rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "team")}
				s.SetNamespace(name, w.spaces[name])
			default:
				p := rapid.SampledFrom(sorts).Draw(rt, "sort").DeepCopy()
				p.Name = fmt.Sprint("p", i)
				p.UID = types.UID(p.Name)
				if p.Labels["name"] != "" {
					p.Labels["name"] = p.Name
				}
				made := s.NewPod(p)
				got := s.Place(made, r, "")
				node, refused := w.decide(made)
				if got.Node != node {
					rt.Fatalf("placed on %q (%v), want %q (%v)", got.Node, got.Refused, node, refused)
				}
				if diff := cmp.Diff(refused, got.Refused); node == "" && len(w.nodes) > 0 && diff != "" {
					rt.Fatalf("refusals (-want +got):\n%s", diff)
				}
				if node == "" {
					s.Preempt(made, r) // must leave everything as it was
					if again := s.Place(made, r, ""); !cmp.Equal(again, got) {
						rt.Fatalf("asked again: %+v, before %+v", again, got)
					}
					continue
				}
				p.Spec.NodeName = node
				w.pods[p.Name] = p
				s.AddPod(made, node)
			}
		}
	})
}

// A node that leaves a spread takes its pods out of the count of its whole domain: the other
// nodes of the domain then belong elsewhere, though nothing happened to them.
func TestSpreadFollowsParticipants(t *testing.T) {
	full := func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourceCPU] = apiresource.MustParse("0") }
	rack := func(value string) func(*corev1.Node) { return label("rack", value) }
	other := func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} }
	s, r := world(
		node("a", rack("1")), node("b", rack("1")), node("c", rack("2")), node("d", rack("3"), full), node("e", rack("4"), full),
		pod("on-a", onNode("a")), pod("on-c", onNode("c")), pod("busy", onNode("b"), other, requests("2", "1Gi")),
	)
	honor := corev1.NodeInclusionPolicyHonor
	p := s.NewPod(pod("p", requests("1", "1Gi"), spreadOver("rack", 1, nil), func(p *corev1.Pod) { p.Spec.TopologySpreadConstraints[0].NodeTaintsPolicy = &honor }))
	if d := s.Place(p, r, ""); d.Node != "" {
		t.Fatalf("placed on %q, though racks 1 and 2 have a pod and the others none", d.Node)
	}
	if !s.domains["rack"].fine {
		t.Fatal("the racks are not told apart by their counts: this test shows nothing")
	}
	s.SetNode(node("a", rack("1"), taint("gpu", "yes", corev1.TaintEffectNoSchedule)))
	if d := s.Place(p, r, ""); d.Node != "b" {
		t.Fatalf("placed on %q (%s), want b: its rack's only pod is on a node that does not take part", d.Node, d.Message())
	}
}
