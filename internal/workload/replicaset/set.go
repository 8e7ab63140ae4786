package replicaset

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/object"
	"coracle/internal/podstate"
)

// set is what a ReplicaSet and a ReplicationController have in common.
type set struct {
	object   object.Object
	kind     string
	replicas int32
	minReady int32
	selector labels.Selector
	template *corev1.PodTemplateSpec
}

func setOf(o object.Object) (set, error) {
	selector, err := Selector(o)
	if err != nil {
		return set{}, fmt.Errorf("spec.selector: %w", err)
	}
	switch o := o.(type) {
	case *appsv1.ReplicaSet:
		return set{object: o, kind: "ReplicaSet", replicas: size(o.Spec.Replicas), minReady: o.Spec.MinReadySeconds,
			selector: selector, template: &o.Spec.Template}, nil
	case *corev1.ReplicationController:
		s := set{object: o, kind: "ReplicationController", replicas: size(o.Spec.Replicas), minReady: o.Spec.MinReadySeconds,
			selector: selector, template: o.Spec.Template}
		if s.template == nil {
			return set{}, fmt.Errorf("spec.template: a ReplicationController needs a template")
		}
		return s, nil
	}
	panic(fmt.Sprintf("replicaset: planned for %T", o))
}

// size reads spec.replicas, for which the API's default is 1.
func size(replicas *int32) int32 {
	if replicas == nil {
		return 1
	}
	return *replicas
}

// lacks says that a set has fewer pods than asked for, by its status.
func lacks(o object.Object) bool {
	switch o := o.(type) {
	case *appsv1.ReplicaSet:
		return o.Status.Replicas < size(o.Spec.Replicas)
	case *corev1.ReplicationController:
		return o.Status.Replicas < size(o.Spec.Replicas)
	}
	return false
}

// Selector reads which pods a ReplicaSet or a ReplicationController calls its own.
func Selector(o object.Object) (labels.Selector, error) {
	if c, ok := o.(*corev1.ReplicationController); ok {
		return labels.SelectorFromSet(c.Spec.Selector), nil
	}
	return metav1.LabelSelectorAsSelector(o.(*appsv1.ReplicaSet).Spec.Selector)
}

func alike(a, b object.Object) bool { return podstate.Alike(a.(*corev1.Pod), b.(*corev1.Pod)) }
