package diagnose

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/cause"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// byPod files the answers of failed probes under the UID of their pod.
const byPod = "unhealthy-pod"

// Indexes returns the indexes that Pod looks things up in. A controller that calls Pod declares
// them.
func Indexes() []object.Index {
	return []object.Index{troubleIndex(), {Resource: resource.Events, Name: byPod, Values: func(o object.Object) []string {
		e, ok := o.(*corev1.Event)
		if !ok || e.Reason != cause.Unhealthy || e.InvolvedObject.UID == "" {
			return nil
		}
		return []string{string(e.InvolvedObject.UID)}
	}}}
}

// answer returns what the pod's probes answered last, as the node told it in an event, if the event
// is not older than the pod's present state of readiness.
func answer(r object.Reader, pod *corev1.Pod, since time.Time) string {
	return answerOf(r, pod, since.Add(-time.Minute), cause.ReadinessProbe, cause.StartupProbe, cause.LivenessProbe)
}

// answerOf returns the last answer since then of some of its probes.
func answerOf(r object.Reader, pod *corev1.Pod, since time.Time, probes ...string) string {
	var latest time.Time
	text := ""
	for _, o := range r.Indexed(resource.Events, byPod, string(pod.UID)) {
		e, ok := o.(*corev1.Event)
		if !ok || !slices.Contains(probes, e.Action) {
			continue
		}
		at := lastSeen(e)
		if at.Before(since) || at.Before(latest) {
			continue
		}
		latest, text = at, e.Message
	}
	return text
}
