package diagnose

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/plan"
)

// unmounted finds the claim for which a pod waits that has a node and has not begun: one that named its node did not wait
// for the scheduler, which sees to claims first.
func unmounted(r plan.Reader, pod *corev1.Pod, _ time.Time) (Verdict, bool) {
	if pod.Status.Phase == corev1.PodRunning || len(pod.Spec.Volumes) == 0 {
		return Verdict{}, false
	}
	claim, why, found := claimInTheWay(r, pod)
	if !found {
		return Verdict{}, false
	}
	v := Verdict{}
	v.Reason, v.Since, v.On = "ClaimNotBound", pod.CreationTimestamp.Time, claim
	v.Message = fmt.Sprintf("pod %s: %s", pod.Name, why)
	return v, true
}
