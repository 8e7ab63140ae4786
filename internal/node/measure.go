package node

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/node/podsync"
)

// measureEvery is how often volumes on disk and containers that have a limit of size are measured. File systems
// without project quotas leave no other way; pods without such limits cost nothing.
const measureEvery = 30 * time.Second

// measureVolumes measures the volumes that have a size limit when it is time, and returns when it
// is next. Call it with w.mu held.
func (w *worker) measureVolumes(ctx context.Context, now time.Time) time.Time {
	if !w.mounted || !w.ending.IsZero() || w.evicted != nil || !limitsVolumes(w.pod) {
		return time.Time{}
	}
	if w.measure.IsZero() {
		w.measure = now.Add(measureEvery)
	}
	if now.Before(w.measure) {
		return w.measure
	}
	w.measure = now.Add(measureEvery)
	pod := w.pod
	w.a.wg.Go(func() {
		message, err := w.a.volumes.Overfull(ctx, pod)
		if err == nil && message == "" {
			message, err = w.overStorage(ctx, pod)
		}
		switch {
		case err != nil:
			w.a.cfg.Log.Warn("measure volumes", "pod", pod.Name, "namespace", pod.Namespace, "err", err)
		case message != "":
			w.a.events.Pod(pod, "", corev1.EventTypeWarning, "Evicted", message)
			w.tell(func() { w.evicted = &podsync.Stop{Reason: "Evicted", Message: message} })
		}
	})
	return w.measure
}

func limitsVolumes(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if d := pod.Spec.Volumes[i].EmptyDir; d != nil && d.Medium == corev1.StorageMediumDefault && d.SizeLimit != nil && !d.SizeLimit.IsZero() {
			return true
		}
	}
	limits, _ := storageLimits(pod)
	return limits != nil
}
