package place

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

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

// Pod is what decisions need of a pod. What it has in common with others is shared: State.NewPod.
type Pod struct {
	Object *corev1.Pod
	UID    types.UID

	*kin
	// node is where State counts the pod, and slot its place among the node's pods.
	node *Node
	slot int
}

// NewPod works out what decisions need, for one pod by itself. A pod belongs to one State for good:
// what that State worked out for it is kept with it.
func NewPod(obj *corev1.Pod) *Pod {
	alone := newSorts()
	return &Pod{Object: obj, UID: obj.UID, kin: alone.of(obj)}
}

// NewPod works out what decisions need, and shares it with the pods that are alike.
func (s *State) NewPod(obj *corev1.Pod) *Pod {
	return &Pod{Object: obj, UID: obj.UID, kin: s.sorts.of(obj)}
}

// Key names the pod.
func (p *Pod) Key() plan.Key { return plan.KeyOf(p.Object) }

// Alike is equal for pods of which all are refused when one is.
type Alike struct {
	kin *kin
	uid types.UID
}

// Alike says which pods p shares its fate with: those made alike, unless claims or gates of its
// own come in.
func (p *Pod) Alike() Alike {
	if len(p.Object.Spec.SchedulingGates) > 0 || p.hasClaims() {
		return p.Alone()
	}
	return Alike{kin: p.kin}
}

// Alone is what Alike says of a pod that is like no other.
func (p *Pod) Alone() Alike { return Alike{uid: p.UID} }

func (p *Pod) hasClaims() bool {
	for i := range p.Object.Spec.Volumes {
		if claimName(p.Object, &p.Object.Spec.Volumes[i]) != "" {
			return true
		}
	}
	return false
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
