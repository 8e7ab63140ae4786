package diagnose

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/plan"
	"coracle/internal/resource"
)

// byPod files the answers of failed probes under the UID of their pod.
const byPod = "unhealthy-pod"

// Indexes returns the indexes that Pod looks things up in. A controller that calls Pod declares
// them.
func Indexes() []plan.Index {
	return []plan.Index{{Resource: resource.Events, Name: byPod, Values: func(o plan.Object) []string {
		e, ok := o.(*corev1.Event)
		if !ok || e.Reason != "Unhealthy" || e.InvolvedObject.UID == "" {
			return nil
		}
		return []string{string(e.InvolvedObject.UID)}
	}}}
}

// answer returns what the pod's probes answered last, as the node told it in an event, if the event
// is not older than the pod's present state of readiness.
func answer(r plan.Reader, pod *corev1.Pod, since time.Time) string {
	var latest time.Time
	text := ""
	for _, o := range r.Indexed(resource.Events, byPod, string(pod.UID)) {
		e, ok := o.(*corev1.Event)
		if !ok {
			continue
		}
		at := e.LastTimestamp.Time
		if at.IsZero() {
			at = e.EventTime.Time
		}
		if at.IsZero() {
			at = e.CreationTimestamp.Time
		}
		if e.Series != nil && e.Series.LastObservedTime.After(at) {
			at = e.Series.LastObservedTime.Time
		}
		if at.Before(since.Add(-time.Minute)) || at.Before(latest) {
			continue
		}
		latest, text = at, e.Message
	}
	return text
}
