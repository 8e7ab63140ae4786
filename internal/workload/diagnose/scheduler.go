package diagnose

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/plan"
)

// otherScheduler explains a pod that asks for a scheduler which is not the cluster's own. What that one said of the pod is
// passed on; one that has said nothing may not run at all.
func otherScheduler(_ plan.Reader, pod *corev1.Pod) Verdict {
	name := pod.Spec.SchedulerName
	v := Verdict{Stuck: true}
	v.Reason, v.Since = "OtherScheduler", pod.CreationTimestamp.Time
	v.Message = fmt.Sprintf("pod %s waits for a scheduler called %q, which has not said anything about it", pod.Name, name)
	v.Hint = fmt.Sprintf("start the scheduler %q, or leave schedulerName out: the cluster's own is %q", name, corev1.DefaultSchedulerName)
	if c := condition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse {
		v.Stuck, v.Since, v.Hint = false, c.LastTransitionTime.Time, ""
		v.Message = fmt.Sprintf("pod %s: the scheduler %q says: %s", pod.Name, name, c.Message)
	}
	return v
}
