package place

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/podclaim"
)

// Pods that state no request count as this much when nodes are compared, so that they spread
// (as upstream's scheduler does: 0.1 core, 200 MiB).
const (
	assumedCPU    = 100
	assumedMemory = 200 << 20
)

// Pod is what decisions need of a pod. What it has in common with others is shared: State.NewPod.
type Pod struct {
	Object *corev1.Pod
	UID    types.UID
	// Binding says that the pod is being bound to the node where it is counted, or is bound and that is not seen yet: it can
	// give its room back only by being deleted.
	Binding bool

	*shape
	// node is where State counts the pod, and slot its place among the node's pods.
	node *Node
	slot int
}

// NewPod works out what decisions need, for one pod by itself. A pod belongs to one State for good:
// what that State worked out for it is kept with it.
func NewPod(obj *corev1.Pod) *Pod {
	alone := newShapeCache()
	return &Pod{Object: obj, UID: obj.UID, shape: alone.of(obj)}
}

// NewPod works out what decisions need, and shares it with the pods that are alike.
func (s *State) NewPod(obj *corev1.Pod) *Pod {
	return &Pod{Object: obj, UID: obj.UID, shape: s.shapes.of(obj)}
}

// Key names the pod.
func (p *Pod) Key() object.Key { return object.KeyOf(p.Object) }

// Alike is equal for pods of which all are refused when one is.
type Alike struct {
	shape *shape
	uid   types.UID
}

// Alike says which pods p shares its fate with: those made alike, unless claims or gates of its
// own come in.
func (p *Pod) Alike() Alike {
	if len(p.Object.Spec.SchedulingGates) > 0 || p.hasClaims() {
		return p.Alone()
	}
	return Alike{shape: p.shape}
}

// Alone is what Alike says of a pod that is like no other.
func (p *Pod) Alone() Alike { return Alike{uid: p.UID} }

func (p *Pod) hasClaims() bool {
	for i := range p.Object.Spec.Volumes {
		if podclaim.Of(p.Object, &p.Object.Spec.Volumes[i]) != "" {
			return true
		}
	}
	return false
}
