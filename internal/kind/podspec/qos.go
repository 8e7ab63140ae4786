package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// QOS returns the quality of service class that a spec earns, defaults filled in: Guaranteed when every container
// limits cpu and memory and requests just that, BestEffort when none asks for anything, and
// Burstable otherwise. Pod-level resources, when given, decide alone.
func QOS(s *corev1.PodSpec) corev1.PodQOSClass {
	if r := s.Resources; r != nil && resourcehelper.IsPodLevelResourcesSet(&corev1.Pod{Spec: *s}) {
		asked, exact := weigh(r)
		return class(asked, exact)
	}
	asked, exact := false, true
	for _, list := range [...][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			a, e := weigh(&list[i].Resources)
			asked, exact = asked || a, exact && e
		}
	}
	return class(asked, exact)
}

func class(asked, exact bool) corev1.PodQOSClass {
	switch {
	case !asked:
		return corev1.PodQOSBestEffort
	case exact:
		return corev1.PodQOSGuaranteed
	default:
		return corev1.PodQOSBurstable
	}
}

// weigh says whether r asks for cpu or memory at all, and whether it limits both and requests
// exactly what it is limited to.
func weigh(r *corev1.ResourceRequirements) (asked, exact bool) {
	exact = true
	for _, name := range [...]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		request, limit := positive(r.Requests, name), positive(r.Limits, name)
		asked = asked || request != nil || limit != nil
		exact = exact && limit != nil && request != nil && request.Cmp(*limit) == 0
	}
	return asked, exact
}

func positive(list corev1.ResourceList, name corev1.ResourceName) *resource.Quantity {
	if q, ok := list[name]; ok && q.Sign() > 0 {
		return &q
	}
	return nil
}
