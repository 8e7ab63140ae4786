package status

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestPassing(t *testing.T) {
	waiting := func(reason string) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}}
	}
	creating := corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: waiting(containerCreating)}
	for name, c := range map[string]struct {
		edit func(*corev1.PodStatus)
		want bool
	}{
		"a container is made":     {func(*corev1.PodStatus) {}, true},
		"init containers come":    {func(s *corev1.PodStatus) { s.InitContainerStatuses = waiting(podInitializing) }, true},
		"it has an id":            {func(s *corev1.PodStatus) { s.ContainerStatuses[0].ContainerID = "coracle://x" }, true},
		"the pod has an address":  {func(s *corev1.PodStatus) { s.PodIP = "10.0.0.1" }, false},
		"it runs":                 {func(s *corev1.PodStatus) { s.Phase = corev1.PodRunning }, false},
		"it was refused":          {func(s *corev1.PodStatus) { s.Reason = "Evicted" }, false},
		"the image does not come": {func(s *corev1.PodStatus) { s.ContainerStatuses = waiting("ErrImagePull") }, false},
		"a container has begun": {func(s *corev1.PodStatus) {
			s.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
		}, false},
		"a container is made again": {func(s *corev1.PodStatus) { s.ContainerStatuses[0].RestartCount = 1 }, false},
		"an init container is done": {func(s *corev1.PodStatus) {
			s.InitContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
		}, false},
	} {
		next := creating.DeepCopy()
		c.edit(next)
		if got := Passing(&corev1.PodStatus{Phase: corev1.PodPending}, next); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
