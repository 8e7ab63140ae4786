package admit

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apiserver/pkg/admission"

	"coracle/internal/resource"
)

// priority resolves a pod's priority class to a number.
var priority = plugin{
	name:       "Priority",
	resources:  []resource.Resource{resource.Pods},
	operations: []admission.Operation{admission.Create, admission.Update},
	mutate:     admitPriority,
}

// priorityClass lets at most one class be the default.
var priorityClass = plugin{
	name:       "Priority",
	resources:  []resource.Resource{resource.PriorityClasses},
	operations: []admission.Operation{admission.Create, admission.Update},
	validate: func(_ context.Context, a admission.Attributes, c Cluster) error {
		class, ok := a.GetObject().(*schedulingv1.PriorityClass)
		if !ok || a.GetSubresource() != "" || !class.GlobalDefault {
			return nil
		}
		if other := defaultClass(c); other != nil && (a.GetOperation() == admission.Create || other.Name != class.Name) {
			return admission.NewForbidden(a, fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", other.Name))
		}
		return nil
	},
}

func admitPriority(_ context.Context, a admission.Attributes, c Cluster) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok || a.GetSubresource() != "" {
		return nil
	}
	if a.GetOperation() == admission.Update {
		keepPriority(pod, a)
		return nil
	}
	value, policy := int32(0), corev1.PreemptLowerPriority
	class := defaultClassOr(c, pod.Spec.PriorityClassName)
	switch {
	case class != nil:
		pod.Spec.PriorityClassName = class.Name
		value = class.Value
		if class.PreemptionPolicy != nil {
			policy = *class.PreemptionPolicy
		}
	case pod.Spec.PriorityClassName != "":
		return admission.NewForbidden(a, fmt.Errorf("no PriorityClass with name %v was found", pod.Spec.PriorityClassName))
	}
	if p := pod.Spec.Priority; p != nil && *p != value {
		return admission.NewForbidden(a, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *p, value))
	}
	pod.Spec.Priority = &value
	if p := pod.Spec.PreemptionPolicy; p != nil && *p != policy {
		return admission.NewForbidden(a, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *p, policy))
	}
	pod.Spec.PreemptionPolicy = &policy
	return nil
}

// keepPriority restores what was computed at creation when an update leaves it out.
func keepPriority(pod *corev1.Pod, a admission.Attributes) {
	old, ok := a.GetOldObject().(*corev1.Pod)
	if !ok {
		return
	}
	if pod.Spec.PriorityClassName != old.Spec.PriorityClassName {
		return
	}
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = old.Spec.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
	}
}

// defaultClassOr returns the class named, or, when none is, the default one; nil when there is
// no such class.
func defaultClassOr(c Cluster, name string) *schedulingv1.PriorityClass {
	if name == "" {
		return defaultClass(c)
	}
	if obj, ok := c.Get(resource.PriorityClasses, "", name); ok {
		return obj.(*schedulingv1.PriorityClass)
	}
	return nil
}

// defaultClass returns the class marked as default; of several (they can only have come from
// outside) the one of least value, as upstream does.
func defaultClass(c Cluster) *schedulingv1.PriorityClass {
	var found *schedulingv1.PriorityClass
	for _, obj := range c.List(resource.PriorityClasses, "") {
		class := obj.(*schedulingv1.PriorityClass)
		if class.GlobalDefault && (found == nil || class.Value < found.Value) {
			found = class
		}
	}
	return found
}

// defaultTolerationSeconds is how long a pod stays on a node that is lost, unless it says.
const defaultTolerationSeconds = 300

// tolerationSeconds lets pods outlast a short absence of their node.
var tolerationSeconds = plugin{
	name:       "DefaultTolerationSeconds",
	resources:  []resource.Resource{resource.Pods},
	operations: []admission.Operation{admission.Create, admission.Update},
	mutate: func(_ context.Context, a admission.Attributes, _ Cluster) error {
		pod, ok := a.GetObject().(*corev1.Pod)
		if !ok || a.GetSubresource() != "" {
			return nil
		}
		missing := []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable}
		for _, key := range missing {
			if toleratesLoss(pod.Spec.Tolerations, key) {
				continue
			}
			seconds := int64(defaultTolerationSeconds)
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
			})
		}
		return nil
	},
}

func toleratesLoss(tolerations []corev1.Toleration, key string) bool {
	for i := range tolerations {
		t := &tolerations[i]
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}
