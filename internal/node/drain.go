package node

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/drain"
	"coracle/internal/node/routed"
)

// drains says whether the worker's pod, which ends, is still to be kept as it is. It begins the wait when it is asked
// first. w.mu is held.
func (w *worker) drains(ctx context.Context) bool {
	if w.drainBegun || w.gone || w.pod.DeletionTimestamp == nil {
		return w.draining
	}
	w.drainBegun = true
	a, pod := w.a, w.pod
	if !a.routed.Awaits(pod) {
		return false
	}
	limit, problem := drain.Limit(pod)
	if problem != nil {
		a.events.Pod(pod, "", corev1.EventTypeWarning, "InvalidDrainTimeout", problem.Error())
	}
	if limit <= 0 {
		return false
	}
	w.draining = true
	a.wg.Go(func() {
		if why := a.routed.LetGo(ctx, pod, limit); why != "" {
			a.events.Pod(pod, "", corev1.EventTypeWarning, routed.TimedOut,
				fmt.Sprintf("Stopped %s after its deletion though new connections may still be led to it: %s", limit, why))
		}
		w.tell(func() { w.draining = false })
	})
	return true
}
