package place

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	podresource "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"coracle/internal/plan"
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

	scoring   Amounts
	ports     []port
	affinity  nodeaffinity.RequiredNodeAffinity
	preferred *nodeaffinity.PreferredSchedulingTerms
	// pinned is the one node that the required affinity names in every term, if it does.
	pinned string
}

// NewPod works out what decisions need.
func NewPod(obj *corev1.Pod) *Pod {
	p := &Pod{
		Object: obj, Key: plan.KeyOf(obj), UID: obj.UID,
		Request:  amountsOf(podresource.PodRequests(obj, podresource.PodResourcesOptions{})),
		affinity: nodeaffinity.GetRequiredNodeAffinity(obj),
		pinned:   pinnedNode(obj),
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
	for _, list := range [][]corev1.Container{obj.Spec.InitContainers, obj.Spec.Containers} {
		for i := range list {
			for _, cp := range list[i].Ports {
				if cp.HostPort > 0 {
					p.ports = append(p.ports, port{anyIP(cp.HostIP), protocolOf(cp), cp.HostPort})
				}
			}
		}
	}
	return p
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

// pinnedNode is the node that a daemon pod's affinity names by metadata.name, or "".
func pinnedNode(pod *corev1.Pod) string {
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	name := ""
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		found := ""
		for _, f := range term.MatchFields {
			if f.Key == "metadata.name" && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				found = f.Values[0]
			}
		}
		if found == "" || name != "" && found != name {
			return ""
		}
		name = found
	}
	return name
}
