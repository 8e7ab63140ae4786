package diagnose

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// troubledPod files the node's complaints about making a pod ready for its containers under the pod's UID.
const troubledPod = "troubled-pod"

// troubles are the reasons of events that say why a pod's containers cannot be made yet (the kubelet's words), and what a
// user can do about each.
var troubles = map[string]string{
	"FailedCreatePodSandBox": "correct in the pod what the message names; the node tries again by itself",
	"FailedMount":            "make what the volume needs, or correct the volume; the node tries again by itself",
	"FailedAttachVolume":     "see what the volume is attached to; the node tries again by itself",
	"FailedMapVolume":        "make what the volume needs, or correct the volume; the node tries again by itself",
}

// lasting is how often a node must have failed before it is not believed to get by alone.
const lasting = 3

func troubleIndex() object.Index {
	return object.Index{Resource: resource.Events, Name: troubledPod, Values: func(o object.Object) []string {
		e, ok := o.(*corev1.Event)
		if !ok || e.InvolvedObject.UID == "" {
			return nil
		}
		if _, told := troubles[e.Reason]; !told {
			return nil
		}
		return []string{string(e.InvolvedObject.UID)}
	}}
}

// unmade says why a node does not get a pod ready for its containers: its last word, as long as the pod has no sandbox.
func unmade(r object.Reader, pod *corev1.Pod) (Verdict, bool) {
	if c := condition(pod, corev1.PodReadyToStartContainers); c != nil && c.Status == corev1.ConditionTrue {
		return Verdict{}, false
	}
	var last *corev1.Event
	tries := int32(0)
	var first time.Time
	for _, o := range r.Indexed(resource.Events, troubledPod, string(pod.UID)) {
		e, ok := o.(*corev1.Event)
		if !ok {
			continue
		}
		if last == nil || lastSeen(e).After(lastSeen(last)) {
			last = e
		}
	}
	if last == nil {
		return Verdict{}, false
	}
	for _, o := range r.Indexed(resource.Events, troubledPod, string(pod.UID)) {
		if e, ok := o.(*corev1.Event); ok && e.Reason == last.Reason {
			tries += times(e)
			if at := firstSeen(e); first.IsZero() || at.Before(first) {
				first = at
			}
		}
	}
	v := Verdict{Stuck: tries >= lasting}
	v.Reason, v.Since, v.Hint = last.Reason, first, troubles[last.Reason]
	v.Message = fmt.Sprintf("pod %s: node %s: %s", pod.Name, pod.Spec.NodeName, last.Message)
	return v, true
}

// times is how often an event was seen.
func times(e *corev1.Event) int32 {
	if e.Series != nil {
		return max(1, e.Series.Count)
	}
	return max(1, e.Count)
}

func firstSeen(e *corev1.Event) time.Time {
	switch {
	case !e.FirstTimestamp.IsZero():
		return e.FirstTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}

// lastSeen is when an event was seen last.
func lastSeen(e *corev1.Event) time.Time {
	at := e.LastTimestamp.Time
	if at.IsZero() {
		at = firstSeen(e)
	}
	if e.Series != nil && e.Series.LastObservedTime.After(at) {
		at = e.Series.LastObservedTime.Time
	}
	return at
}
