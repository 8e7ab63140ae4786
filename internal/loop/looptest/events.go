package looptest

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// Events lists the events about an object, oldest first.
func Events(c *Cluster, obj object.Object) []*corev1.Event {
	var out []*corev1.Event
	for _, o := range c.View.List(resource.Events, "") {
		e := o.(*corev1.Event)
		if e.InvolvedObject.UID == obj.GetUID() {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Event) int { return a.FirstTimestamp.Compare(b.FirstTimestamp.Time) })
	return out
}
