package place

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	podresource "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"coracle/internal/plan"
	"coracle/internal/workload/placement"
)

// Amounts is a sum of resources. CPU is in thousandths of a core, the others in bytes or counts.
type Amounts struct {
	CPU, Memory, Ephemeral int64
	Pods                   int64
	// Other holds extended resources and huge pages.
	Other map[corev1.ResourceName]int64
}

func amountsOf(list corev1.ResourceList) Amounts {
	var a Amounts
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			a.CPU = q.MilliValue()
		case corev1.ResourceMemory:
			a.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			a.Ephemeral = q.Value()
		case corev1.ResourcePods:
			a.Pods = q.Value()
		default:
			if a.Other == nil {
				a.Other = map[corev1.ResourceName]int64{}
			}
			a.Other[name] = q.Value()
		}
	}
	return a
}

// add adds b's resources (not its pod count), times sign.
func (a *Amounts) add(b Amounts, sign int64) {
	a.CPU += sign * b.CPU
	a.Memory += sign * b.Memory
	a.Ephemeral += sign * b.Ephemeral
	for name, v := range b.Other {
		if a.Other == nil {
			a.Other = map[corev1.ResourceName]int64{}
		}
		a.Other[name] += sign * v
	}
}

// Pods that state no request count as this much when nodes are compared, so that they spread
// (as upstream's scheduler does: 0.1 core, 200 MiB).
const (
	assumedCPU    = 100
	assumedMemory = 200 << 20
)

type port struct {
	ip       string
	protocol corev1.Protocol
	number   int32
}

// Pod is what decisions need of a pod, worked out once.
type Pod struct {
	Object *corev1.Pod
	Key    plan.Key
	UID    types.UID
	// Request is what the pod's containers ask for, init containers and overhead included.
	Request Amounts
	// Node is where State counts the pod; empty when it does not.
	Node string

	scoring      Amounts
	ports        []port
	affinity     nodeaffinity.RequiredNodeAffinity
	preferred    *nodeaffinity.PreferredSchedulingTerms
	affine, anti []term
	// prefers are preferred terms, anti-affinity with a negative weight.
	prefers []term
	spreads []spreadRule
	// topologyKeys are the keys of required terms and spread rules, each once.
	topologyKeys []string
	owner        types.UID
	images       []string
	// class is equal for pods that every node answers alike.
	class string
	// pinned is the one node that the required affinity names in every term, if it does.
	pinned string
}

// NewPod works out what decisions need.
func NewPod(obj *corev1.Pod) *Pod {
	p := &Pod{
		Object: obj, Key: plan.KeyOf(obj), UID: obj.UID,
		Request:  amountsOf(podresource.PodRequests(obj, podresource.PodResourcesOptions{})),
		affinity: nodeaffinity.GetRequiredNodeAffinity(obj),
		pinned:   placement.Pinned(&obj.Spec),
	}
	p.scoring = p.Request
	if p.scoring.CPU == 0 {
		p.scoring.CPU = assumedCPU
	}
	if p.scoring.Memory == 0 {
		p.scoring.Memory = assumedMemory
	}
	if a := obj.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		if terms := a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution; len(terms) > 0 {
			// Terms were validated by the API; a broken one is skipped rather than fatal.
			if parsed, err := nodeaffinity.NewPreferredSchedulingTerms(terms); err == nil {
				p.preferred = parsed
			}
		}
	}
	p.readTopology()
	if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
		p.owner = ref.UID
	}
	for _, list := range [][]corev1.Container{obj.Spec.InitContainers, obj.Spec.Containers} {
		for i := range list {
			p.images = append(p.images, list[i].Image)
			for _, cp := range list[i].Ports {
				if cp.HostPort > 0 {
					p.ports = append(p.ports, port{anyIP(cp.HostIP), protocolOf(cp), cp.HostPort})
				}
			}
		}
	}
	p.class = classKey(p)
	return p
}

func (p *Pod) readTopology() {
	p.spreads = spreadRules(p.Object)
	defer p.readTopologyKeys()
	a := p.Object.Spec.Affinity
	if a == nil {
		return
	}
	if a.PodAffinity != nil {
		p.affine = podTerms(p.Object, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		p.readPreferred(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1)
	}
	if a.PodAntiAffinity != nil {
		p.anti = podTerms(p.Object, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		p.readPreferred(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1)
	}
}

func (p *Pod) readTopologyKeys() {
	for _, t := range slices.Concat(p.affine, p.anti) {
		p.topologyKeys = append(p.topologyKeys, t.key)
	}
	for i := range p.spreads {
		p.topologyKeys = append(p.topologyKeys, p.spreads[i].key)
	}
	slices.Sort(p.topologyKeys)
	p.topologyKeys = slices.Compact(p.topologyKeys)
}

func (p *Pod) readPreferred(terms []corev1.WeightedPodAffinityTerm, sign int64) {
	for i := range terms {
		t := podTerm(p.Object, &terms[i].PodAffinityTerm)
		t.weight = sign * int64(terms[i].Weight)
		p.prefers = append(p.prefers, t)
	}
}

// classKey writes down all that a node's own answer depends on.
func classKey(p *Pod) string {
	spec := &p.Object.Spec
	key := fmt.Appendf(nil, "%s|%d|%d|%d|", p.owner, p.Request.CPU, p.Request.Memory, p.Request.Ephemeral)
	for _, name := range slices.Sorted(maps.Keys(p.Request.Other)) {
		key = fmt.Appendf(key, "%s=%d,", name, p.Request.Other[name])
	}
	for _, name := range slices.Sorted(maps.Keys(spec.NodeSelector)) {
		key = fmt.Appendf(key, "|%q=%q", name, spec.NodeSelector[name])
	}
	for i := range spec.Tolerations {
		key = fmt.Appendf(key, "|%s", spec.Tolerations[i].String())
	}
	if a := spec.Affinity; a != nil && a.NodeAffinity != nil {
		key = fmt.Appendf(key, "|%s", a.NodeAffinity.String())
	}
	for _, t := range p.affine {
		key = fmt.Appendf(key, "|near %q", t.id)
	}
	for _, t := range p.anti {
		key = fmt.Appendf(key, "|far %q", t.id)
	}
	for i := range p.spreads {
		r := &p.spreads[i]
		self := r.selector.Matches(labels.Set(p.Object.Labels))
		key = fmt.Appendf(key, "|spread %q %t %d %d %t %t %t", r.id, r.hard, r.maxSkew, r.minDomains, r.honorAffinity, r.honorTaints, self)
	}
	return string(fmt.Appendf(key, "|%v|%q", p.ports, p.images))
}

func anyIP(ip string) string {
	if ip == "" {
		return "0.0.0.0"
	}
	return ip
}

func protocolOf(cp corev1.ContainerPort) corev1.Protocol {
	if cp.Protocol == "" {
		return corev1.ProtocolTCP
	}
	return cp.Protocol
}
