package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"coracle/internal/scheduler/place"
)

// A node's change wakes only pods that it could help.
func TestHelps(t *testing.T) {
	cpu := func(amount string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(amount)}
	}
	taint := []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}}
	for _, tc := range []struct {
		name          string
		before, after corev1.Node
		want          place.Cause
	}{
		{"a heartbeat", corev1.Node{}, corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{}}}}, 0},
		{"a cordon", corev1.Node{}, corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true}}, 0},
		{"its end", corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true}}, corev1.Node{}, place.CauseNode | place.CauseVolume},
		{"a taint may take the node out of a spread", corev1.Node{}, corev1.Node{Spec: corev1.NodeSpec{Taints: taint}}, place.CausePods},
		{"a taint less", corev1.Node{Spec: corev1.NodeSpec{Taints: taint}}, corev1.Node{}, place.CausePods | place.CauseNode | place.CauseVolume},
		{"less room", corev1.Node{Status: corev1.NodeStatus{Allocatable: cpu("2")}}, corev1.Node{Status: corev1.NodeStatus{Allocatable: cpu("1")}}, 0},
		{"more room", corev1.Node{Status: corev1.NodeStatus{Allocatable: cpu("1")}}, corev1.Node{Status: corev1.NodeStatus{Allocatable: cpu("2")}}, place.CauseResources},
	} {
		if got := helps(&tc.before, &tc.after); got != tc.want {
			t.Errorf("%s: woke %b, want %b", tc.name, got, tc.want)
		}
	}
}
