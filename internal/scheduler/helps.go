package scheduler

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"coracle/internal/scheduler/place"
)

// helps says which waiting pods a node's change could help. Less room, one more taint and a cordon
// help none to that node; any change of taints or labels may even out a spread.
func helps(before, after *corev1.Node) (causes place.Cause) {
	if before.Spec.Unschedulable && !after.Spec.Unschedulable {
		causes |= place.CauseNode | place.CauseVolume
	}
	if !maps.Equal(before.Labels, after.Labels) {
		causes |= place.CauseNode | place.CauseVolume | place.CausePods | place.CauseResources
	}
	if !equality.Semantic.DeepEqual(before.Spec.Taints, after.Spec.Taints) {
		causes |= place.CausePods
		for i := range before.Spec.Taints {
			if !slices.ContainsFunc(after.Spec.Taints, func(t corev1.Taint) bool {
				return t.MatchTaint(&before.Spec.Taints[i]) && t.Value == before.Spec.Taints[i].Value
			}) {
				causes |= place.CauseNode | place.CauseVolume
			}
		}
	}
	for name, now := range after.Status.Allocatable {
		if was := before.Status.Allocatable[name]; now.Cmp(was) > 0 {
			causes |= place.CauseResources
		}
	}
	return causes
}
