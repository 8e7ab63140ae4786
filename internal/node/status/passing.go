package status

import corev1 "k8s.io/api/core/v1"

// Passing says that a status tells no more than that the pod's start goes on, which the next one will say better: where
// nobody else goes by it, it need not be told at once. An address is gone by, and so is anything that went wrong.
func Passing(told, next *corev1.PodStatus) bool {
	if next.Phase != corev1.PodPending || next.Reason != "" || told.PodIP != next.PodIP || told.NominatedNodeName != next.NominatedNodeName {
		return false
	}
	for _, list := range [][]corev1.ContainerStatus{next.InitContainerStatuses, next.ContainerStatuses} {
		for i := range list {
			cs := &list[i]
			if cs.State.Waiting == nil || cs.RestartCount > 0 || cs.LastTerminationState.Terminated != nil {
				return false
			}
			if r := cs.State.Waiting.Reason; r != containerCreating && r != podInitializing {
				return false
			}
		}
	}
	return true
}
