package admit

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/admission"

	"coracle/internal/resource"
)

// runtimeClass refuses pods of a class that is not there, and gives the others what their class says of its pods: what
// they cost beside their containers (KEP-688), and where they can run (KEP-585).
var runtimeClass = plugin{
	name:       "RuntimeClass",
	resources:  []resource.Resource{resource.Pods},
	operations: []admission.Operation{admission.Create},
	mutate: func(_ context.Context, a admission.Attributes, c Cluster) error {
		pod, class, err := classOf(a, c)
		if class == nil || err != nil {
			return err
		}
		if err := mergeOverhead(pod, class); err != nil {
			return admission.NewForbidden(a, err)
		}
		if err := mergeScheduling(pod, class); err != nil {
			return admission.NewForbidden(a, err)
		}
		return nil
	},
	validate: func(_ context.Context, a admission.Attributes, c Cluster) error {
		pod, class, err := classOf(a, c)
		if pod == nil || err != nil {
			return err
		}
		if pod.Spec.Overhead != nil && (class == nil || class.Overhead == nil) {
			return admission.NewForbidden(a, errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
		}
		return nil
	},
}

// classOf returns the pod of a request, nil where it is about none, and its class, nil where it names none.
func classOf(a admission.Attributes, c Cluster) (*corev1.Pod, *nodev1.RuntimeClass, error) {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok || a.GetSubresource() != "" {
		return nil, nil, nil
	}
	if pod.Spec.RuntimeClassName == nil {
		return pod, nil, nil
	}
	name := *pod.Spec.RuntimeClassName
	obj, found := c.Get(resource.RuntimeClasses, "", name)
	if !found {
		return nil, nil, admission.NewForbidden(a, fmt.Errorf("pod rejected: RuntimeClass %q not found", name))
	}
	return pod, obj.(*nodev1.RuntimeClass), nil
}

func mergeOverhead(pod *corev1.Pod, class *nodev1.RuntimeClass) error {
	if class.Overhead == nil {
		return nil
	}
	if pod.Spec.Overhead != nil && !equality.Semantic.DeepEqual(pod.Spec.Overhead, class.Overhead.PodFixed) {
		return errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
	}
	pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	return nil
}

func mergeScheduling(pod *corev1.Pod, class *nodev1.RuntimeClass) error {
	s := class.Scheduling
	if s == nil {
		return nil
	}
	for key, value := range s.NodeSelector {
		if own, said := pod.Spec.NodeSelector[key]; said && own != value {
			return fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, own)
		}
	}
	if pod.Spec.NodeSelector == nil && len(s.NodeSelector) > 0 {
		pod.Spec.NodeSelector = make(map[string]string, len(s.NodeSelector))
	}
	for key, value := range s.NodeSelector {
		pod.Spec.NodeSelector[key] = value
	}
	for _, t := range s.Tolerations {
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(own corev1.Toleration) bool { return equality.Semantic.DeepEqual(own, t) }) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, *t.DeepCopy())
		}
	}
	return nil
}
