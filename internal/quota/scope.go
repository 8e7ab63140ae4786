package quota

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"coracle/internal/kind/podspec"
	"coracle/internal/resource"
)

// inScope says whether an object is among those that a quota is about: it lies in each of its scopes.
// A quota without scopes is about all objects; one with scopes about pods, or, by volume attributes class,
// about claims.
func inScope(q *corev1.ResourceQuota, res resource.Resource, obj runtime.Object) bool {
	for _, scope := range q.Spec.Scopes {
		if !lies(corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists}, res, obj) {
			return false
		}
	}
	if q.Spec.ScopeSelector == nil {
		return true
	}
	for _, scope := range q.Spec.ScopeSelector.MatchExpressions {
		if !lies(scope, res, obj) {
			return false
		}
	}
	return true
}

func lies(scope corev1.ScopedResourceSelectorRequirement, res resource.Resource, obj runtime.Object) bool {
	switch o := obj.(type) {
	case *corev1.Pod:
		return res == resource.Pods && podLies(scope, o)
	case *corev1.PersistentVolumeClaim:
		return scope.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass && selects(scope, attributesClasses(o))
	}
	return false
}

func podLies(scope corev1.ScopedResourceSelectorRequirement, pod *corev1.Pod) bool {
	switch scope.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return ends(pod)
	case corev1.ResourceQuotaScopeNotTerminating:
		return !ends(pod)
	case corev1.ResourceQuotaScopeBestEffort:
		return podspec.QOS(&pod.Spec) == corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopeNotBestEffort:
		return podspec.QOS(&pod.Spec) != corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopePriorityClass:
		var classes []string
		if c := pod.Spec.PriorityClassName; c != "" {
			classes = []string{c}
		}
		return selects(scope, classes)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return looksAbroad(pod.Spec.Affinity)
	}
	return false
}

// ends says whether a pod is meant to end by itself.
func ends(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

// selects applies an operator to the classes that an object has, as label selectors do: who has none
// is not in any list, and so outside of it.
func selects(scope corev1.ScopedResourceSelectorRequirement, classes []string) bool {
	among := func(c string) bool { return slices.Contains(scope.Values, c) }
	switch scope.Operator {
	case corev1.ScopeSelectorOpExists:
		return len(classes) > 0
	case corev1.ScopeSelectorOpDoesNotExist:
		return len(classes) == 0
	case corev1.ScopeSelectorOpIn:
		return slices.ContainsFunc(classes, among)
	case corev1.ScopeSelectorOpNotIn:
		return len(classes) == 0 || slices.ContainsFunc(classes, func(c string) bool { return !among(c) })
	}
	return false
}

// attributesClasses are the volume attributes classes that a claim asks for, has, or is on its way to.
func attributesClasses(c *corev1.PersistentVolumeClaim) []string {
	var out []string
	for _, name := range []*string{c.Spec.VolumeAttributesClassName, c.Status.CurrentVolumeAttributesClassName} {
		if name != nil && *name != "" {
			out = append(out, *name)
		}
	}
	if m := c.Status.ModifyVolumeStatus; m != nil && m.TargetVolumeAttributesClassName != "" {
		out = append(out, m.TargetVolumeAttributesClassName)
	}
	return out
}

// looksAbroad says whether a pod's affinity looks at pods of namespaces that it names or selects.
func looksAbroad(a *corev1.Affinity) bool {
	if a == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	var soft []corev1.WeightedPodAffinityTerm
	if p := a.PodAffinity; p != nil {
		terms, soft = append(terms, p.RequiredDuringSchedulingIgnoredDuringExecution...), append(soft, p.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	if p := a.PodAntiAffinity; p != nil {
		terms, soft = append(terms, p.RequiredDuringSchedulingIgnoredDuringExecution...), append(soft, p.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	for i := range soft {
		terms = append(terms, soft[i].PodAffinityTerm)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}
