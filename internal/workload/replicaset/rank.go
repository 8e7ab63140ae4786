package replicaset

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
)

// candidate is a pod with all that its place in the order of deletion depends on, read once.
type candidate struct {
	pod        *corev1.Pod
	unassigned bool
	phase      int
	ready      bool
	cost       int32
	neighbours int
	readyAge   int
	restarts   int32
	sidecars   int32
	age        int
}

// victims returns the n active pods that are missed least, in the order in which to delete them.
func (p *snapshot) victims(n int) []*corev1.Pod {
	active := p.each()
	if n >= len(active) {
		return active
	}
	neighbours := p.related(active)
	list := make([]candidate, len(active))
	for i, pod := range active {
		list[i] = p.candidate(pod, neighbours)
	}
	slices.SortFunc(list, compare)
	chosen := make([]*corev1.Pod, n)
	for i := range chosen {
		chosen[i] = list[i].pod
	}
	return chosen
}

// compare orders pods for deletion by the contract's criteria, the first that differs deciding:
// unassigned, phase, unready, lower deletion cost, more related pods on the node, newer ready (in
// doubling spans of time), more restarts, newer (in doubling spans). Among pods that are alike in all
// of these the UID decides, which is as good as chance.
func compare(a, b candidate) int {
	return cmp.Or(
		first(a.unassigned, b.unassigned), cmp.Compare(a.phase, b.phase), first(!a.ready, !b.ready),
		cmp.Compare(a.cost, b.cost), cmp.Compare(b.neighbours, a.neighbours), cmp.Compare(a.readyAge, b.readyAge),
		cmp.Compare(b.restarts, a.restarts), cmp.Compare(b.sidecars, a.sidecars),
		cmp.Compare(a.age, b.age), cmp.Compare(a.pod.UID, b.pod.UID))
}

// first orders true before false.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func (p *snapshot) candidate(pod *corev1.Pod, neighbours map[string]int) candidate {
	since, ready := podstate.ReadySince(pod)
	c := candidate{pod: pod, unassigned: pod.Spec.NodeName == "", phase: phaseOrder(pod.Status.Phase), ready: ready,
		cost: deletionCost(pod), neighbours: neighbours[pod.Spec.NodeName],
		age: span(pod.CreationTimestamp.Time, p.Now)}
	if ready {
		c.readyAge = span(since, p.Now)
	}
	c.restarts, c.sidecars = podstate.Restarts(pod)
	return c
}

// phaseOrder puts Pending before Unknown before Running.
func phaseOrder(phase corev1.PodPhase) int {
	switch phase {
	case corev1.PodPending, "":
		return 0
	case corev1.PodUnknown:
		return 1
	}
	return 2
}

// deletionCost reads the annotation of KEP-2255; a value that is no int32 counts as none.
func deletionCost(pod *corev1.Pod) int32 {
	text, ok := pod.Annotations[corev1.PodDeletionCost]
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || (len(text) > 1 && (text[0] == '+' || (text[0] == '0'))) {
		return 0
	}
	return int32(n)
}

// span is the place of an age among spans that double (log2 of nanoseconds); younger is lower.
// An unknown instant counts as very old.
func span(since, now time.Time) int {
	if since.IsZero() {
		return math.MaxInt
	}
	age := now.Sub(since)
	if age <= 0 {
		return -1
	}
	return int(math.Log2(float64(age)))
}

// related counts, for each node, the active pods of this set and of its siblings: the sets that
// the same controller owns, as a Deployment its ReplicaSets.
func (p *snapshot) related(own []*corev1.Pod) map[string]int {
	perNode := map[string]int{}
	add := func(pod *corev1.Pod) {
		if podstate.Active(pod) && pod.Spec.NodeName != "" {
			perNode[pod.Spec.NodeName]++
		}
	}
	for _, pod := range own {
		add(pod)
	}
	for _, sibling := range siblings(p.Reader, p.set.object) {
		for _, o := range p.Reader.Indexed(resource.Pods, object.ByController, string(sibling.GetUID())) {
			add(o.(*corev1.Pod))
		}
	}
	return perNode
}

func siblings(r object.Reader, o object.Object) []object.Object {
	ref := claim.Controller(o)
	if _, ok := o.(*appsv1.ReplicaSet); !ok || ref == nil {
		return nil
	}
	all := r.Indexed(resource.ReplicaSets, object.ByController, string(ref.UID))
	return slices.DeleteFunc(slices.Clone(all), func(s object.Object) bool { return s.GetUID() == o.GetUID() || !sameNamespace(s, o) })
}

func sameNamespace(a, b metav1.Object) bool { return a.GetNamespace() == b.GetNamespace() }
