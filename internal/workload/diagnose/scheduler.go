package diagnose

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/podstate"
)

// gated explains a pod that no scheduler looks at until its gates are removed (KEP-3521).
func gated(pod *corev1.Pod) Verdict {
	var names []string
	for _, g := range pod.Spec.SchedulingGates {
		names = append(names, g.Name)
	}
	v := Verdict{}
	v.Reason, v.Since = corev1.PodReasonSchedulingGated, pod.CreationTimestamp.Time
	v.Message = fmt.Sprintf("pod %s is not scheduled while it has scheduling gates: %s", pod.Name, strings.Join(names, ", "))
	v.Hint = "remove the pod's scheduling gates, or see what is to remove them"
	return v
}

// otherScheduler explains a pod that asks for a scheduler which is not the cluster's own. What that one said of the pod is
// passed on; one that has said nothing may not run at all.
func otherScheduler(pod *corev1.Pod) Verdict {
	name := pod.Spec.SchedulerName
	v := Verdict{Stuck: true}
	v.Reason, v.Since = "OtherScheduler", pod.CreationTimestamp.Time
	v.Message = fmt.Sprintf("pod %s waits for a scheduler called %q, which has not said anything about it", pod.Name, name)
	v.Hint = fmt.Sprintf("start the scheduler %q, or leave schedulerName out: the cluster's own is %q", name, corev1.DefaultSchedulerName)
	if c := podstate.Condition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse {
		v.Stuck, v.Since, v.Hint = false, c.LastTransitionTime.Time, ""
		v.Message = fmt.Sprintf("pod %s: the scheduler %q says: %s", pod.Name, name, c.Message)
	}
	return v
}
