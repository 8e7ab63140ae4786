package place

import (
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	v1helper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"coracle/internal/fit"
	"coracle/internal/workload/placement"
)

// template is what decisions need of a pod and what pods made alike have in common. It does not
// change once made.
type template struct {
	// Request is what the pod's containers ask for, init containers and overhead included.
	Request fit.Amounts

	scoring      fit.Amounts
	ports        []fit.Port
	affinity     nodeaffinity.RequiredNodeAffinity
	preferred    *nodeaffinity.PreferredSchedulingTerms
	affine, anti []term
	// prefers are preferred terms, anti-affinity with a negative weight.
	prefers  []term
	spreads  []spreadRule
	owner    types.UID
	images   []string
	priority int32
	// class is equal for pods that every node by itself answers alike.
	class string
	// pinned is the one node that the required affinity names in every term, if it does.
	pinned string
}

func newTemplate(obj *corev1.Pod, request fit.Amounts, class string) *template {
	t := &template{
		Request: request, scoring: request, class: class,
		affinity: nodeaffinity.GetRequiredNodeAffinity(obj), pinned: placement.Pinned(&obj.Spec),
		priority: v1helper.PodPriority(obj), owner: ownerOf(obj), ports: fit.PortsOf(obj), images: imageNames(obj),
		spreads: spreadRules(obj),
	}
	if t.scoring.CPU == 0 {
		t.scoring.CPU = assumedCPU
	}
	if t.scoring.Memory == 0 {
		t.scoring.Memory = assumedMemory
	}
	a := obj.Spec.Affinity
	if a == nil {
		return t
	}
	if a.NodeAffinity != nil {
		if terms := a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution; len(terms) > 0 {
			// Terms were validated by the API; a broken one is skipped rather than fatal.
			if parsed, err := nodeaffinity.NewPreferredSchedulingTerms(terms); err == nil {
				t.preferred = parsed
			}
		}
	}
	if a.PodAffinity != nil {
		t.affine = podTerms(obj, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		t.readPreferred(obj, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1)
	}
	if a.PodAntiAffinity != nil {
		t.anti = podTerms(obj, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		t.readPreferred(obj, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1)
	}
	return t
}

func (t *template) readPreferred(obj *corev1.Pod, terms []corev1.WeightedPodAffinityTerm, sign int64) {
	for i := range terms {
		parsed := podTerm(obj, &terms[i].PodAffinityTerm)
		parsed.weight = sign * int64(terms[i].Weight)
		t.prefers = append(t.prefers, parsed)
	}
}

// a shape is pods of one template with the same labels: to other pods' terms they are all the same,
// and so what is worked out for one of them holds for all.
type shape struct {
	*template
	// relations and counted hold for the tallies of that version.
	relations *relations
	related   int
	counted   []*tally
	matched   int
	// refused is the last refusal, which holds as long as the state is of that version; hopeless
	// says that preemption would not help either.
	refused     *Decision
	refusedAt   int
	hopeless    bool
	preemptedAt int
}

// maxShapes bounds the templates and shape remembered in each of two generations.
const maxShapes = 4096

// shapeCache shares templates and shape between pods. What was not asked for during a generation is
// forgotten; pods that have it keep it.
type shapeCache struct {
	templates, oldTemplates map[string]*template
	shapes, oldShapes       map[string]*shape
	scratch                 []byte
}

func newShapeCache() shapeCache {
	return shapeCache{templates: map[string]*template{}, shapes: map[string]*shape{}}
}

// of returns the shape of a pod.
func (s *shapeCache) of(obj *corev1.Pod) *shape {
	request := fit.RequestOf(obj)
	key := appendClass(s.scratch[:0], obj, &request)
	class := len(key)
	key = appendTerms(key, obj)
	spec := len(key)
	key = appendLabels(append(key, '|'), obj.Labels)
	s.scratch = key
	if k := s.shapes[string(key)]; k != nil {
		return k
	}
	k := s.oldShapes[string(key)]
	if k == nil {
		k = &shape{template: s.template(obj, request, key[:spec], class), related: -1, matched: -1, refusedAt: -1, preemptedAt: -1}
	}
	if len(s.shapes) >= maxShapes {
		s.oldShapes, s.shapes = s.shapes, map[string]*shape{}
	}
	s.shapes[string(key)] = k
	return k
}

func (s *shapeCache) template(obj *corev1.Pod, request fit.Amounts, key []byte, class int) *template {
	if t := s.templates[string(key)]; t != nil {
		return t
	}
	t := s.oldTemplates[string(key)]
	if t == nil {
		t = newTemplate(obj, request, string(key[:class]))
	}
	if len(s.templates) >= maxShapes {
		s.oldTemplates, s.templates = s.templates, map[string]*template{}
	}
	s.templates[string(key)] = t
	return t
}

// appendClass writes down all that a node's own answer depends on.
func appendClass(key []byte, obj *corev1.Pod, request *fit.Amounts) []byte {
	spec := &obj.Spec
	key = append(key, ownerOf(obj)...)
	for _, n := range []int64{request.CPU, request.Memory, request.Ephemeral} {
		key = strconv.AppendInt(append(key, '|'), n, 10)
	}
	if len(request.Other) > 0 {
		for _, name := range slices.Sorted(maps.Keys(request.Other)) {
			key = strconv.AppendQuote(append(key, '|'), string(name))
			key = strconv.AppendInt(key, request.Other[name], 10)
		}
	}
	if spec.OS != nil {
		key = append(append(key, '/'), spec.OS.Name...)
	}
	key = appendLabels(append(key, '/'), spec.NodeSelector)
	for i := range spec.Tolerations {
		t := &spec.Tolerations[i]
		// How long it is tolerated does not matter to the scheduler.
		for _, part := range []string{t.Key, string(t.Operator), t.Value, string(t.Effect)} {
			key = strconv.AppendQuote(key, part)
		}
	}
	key = append(key, '/')
	if a := spec.Affinity; a != nil && a.NodeAffinity != nil {
		key = append(key, a.NodeAffinity.String()...)
	}
	key = append(key, '/')
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			key = strconv.AppendQuote(key, list[i].Image)
			for j := range list[i].Ports {
				if port, ok := fit.PortOf(&list[i].Ports[j]); ok {
					key = strconv.AppendQuote(key, port.IP)
					key = append(append(key, '|'), port.Protocol...)
					key = strconv.AppendInt(append(key, '|'), int64(port.Number), 10)
				}
			}
		}
	}
	return key
}

// appendTerms writes down what else makes a template: importance, and the questions about other
// pods, which depend on the namespace and on the labels that they name.
func appendTerms(key []byte, obj *corev1.Pod) []byte {
	spec := &obj.Spec
	key = append(append(key, '|'), obj.Namespace...)
	key = strconv.AppendInt(append(key, '|'), int64(v1helper.PodPriority(obj)), 10)
	if spec.PreemptionPolicy != nil {
		key = append(append(key, '|'), *spec.PreemptionPolicy...)
	}
	own := func(names []string) {
		for _, name := range names {
			if value, ok := obj.Labels[name]; ok {
				key = strconv.AppendQuote(strconv.AppendQuote(key, name), value)
			}
		}
	}
	ownOf := func(terms []corev1.PodAffinityTerm) {
		for i := range terms {
			own(terms[i].MatchLabelKeys)
			own(terms[i].MismatchLabelKeys)
		}
	}
	ownOfWeighted := func(terms []corev1.WeightedPodAffinityTerm) {
		for i := range terms {
			own(terms[i].PodAffinityTerm.MatchLabelKeys)
			own(terms[i].PodAffinityTerm.MismatchLabelKeys)
		}
	}
	if a := spec.Affinity; a != nil && a.PodAffinity != nil {
		key = append(append(key, '/'), a.PodAffinity.String()...)
		ownOf(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		ownOfWeighted(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		key = append(append(key, '/'), a.PodAntiAffinity.String()...)
		ownOf(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		ownOfWeighted(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	for i := range spec.TopologySpreadConstraints {
		c := &spec.TopologySpreadConstraints[i]
		key = append(append(key, '/'), c.String()...)
		own(c.MatchLabelKeys)
	}
	return key
}

// appendLabels writes a map down in order.
func appendLabels(key []byte, set map[string]string) []byte {
	if len(set) == 0 {
		return key
	}
	var room [16]string
	names := room[:0]
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		key = strconv.AppendQuote(strconv.AppendQuote(key, name), set[name])
	}
	return key
}

func ownerOf(obj *corev1.Pod) types.UID {
	if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
		return ref.UID
	}
	return ""
}

func imageNames(obj *corev1.Pod) (names []string) {
	for _, list := range [][]corev1.Container{obj.Spec.InitContainers, obj.Spec.Containers} {
		for i := range list {
			names = append(names, list[i].Image)
		}
	}
	return names
}
