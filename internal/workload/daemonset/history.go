package daemonset

import (
	"fmt"
	"math"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/workload/revision"
)

// readHistory finds the revisions, and returns false when the history must be brought up to date
// before anything else.
func (d *decision) readHistory(selector labels.Selector, pods func() []*corev1.Pod) bool {
	var err error
	d.history, err = revision.Read(d.in.Reader, revision.Owner{
		Object: d.set, Selector: selector, Template: &d.set.Spec.Template, Now: d.in.Now,
		Collisions: d.set.Status.CollisionCount, Label: appsv1.DefaultDaemonSetUniqueLabelKey,
	}, "")
	if err != nil {
		d.refuse("InvalidTemplate", err)
		return false
	}
	if w, until, held := d.history.JustFreed(d.in, controllerName, d.set, d.set.Status.ObservedGeneration == d.set.Generation); held {
		d.wait(w)
		d.again(until)
		return false
	}
	d.out.Actions = d.history.Actions
	if c := d.history.Collisions; c != nil {
		next := *d.set
		next.Status.CollisionCount = c
		d.out.Status = &next
	}
	if len(d.out.Actions) == 0 {
		d.label()
	}
	if len(d.out.Actions) == 0 {
		d.deduplicate(pods)
	}
	if len(d.out.Actions) > 0 {
		return false
	}
	d.hash = hashOf(d.history.Present)
	return true
}

// label gives revisions from before hashes the label that pods refer to: their name.
func (d *decision) label() {
	for _, rev := range d.history.Owned {
		if hashOf(rev) != "" || rev.DeletionTimestamp != nil {
			continue
		}
		next := rev.DeepCopy()
		next.Labels = withLabel(next.Labels, appsv1.DefaultDaemonSetUniqueLabelKey, rev.Name)
		d.out.Actions = append(d.out.Actions, plan.Update{Object: next, Because: "pods refer to revisions by this label"})
	}
}

// deduplicate leaves one revision for the present template: pods of the others are relabelled, then
// the others go.
func (d *decision) deduplicate(pods func() []*corev1.Pod) {
	keep := hashOf(d.history.Present)
	for _, rev := range d.history.Duplicates {
		if rev.DeletionTimestamp != nil {
			continue
		}
		for _, pod := range pods() {
			if hashOf(pod) != hashOf(rev) || pod.DeletionTimestamp != nil {
				continue
			}
			next := pod.DeepCopy()
			next.Labels = withLabel(next.Labels, appsv1.DefaultDaemonSetUniqueLabelKey, keep)
			d.out.Actions = append(d.out.Actions, plan.Update{Object: next, Because: "its revision duplicates " + d.history.Present.Name})
		}
		d.out.Actions = append(d.out.Actions, plan.Delete{Object: object.RefOf(rev), Because: "it duplicates " + d.history.Present.Name})
	}
}

// forget truncates the history. Live are the revisions of pods.
func (d *decision) forget(pods func() []*corev1.Pod) {
	limit := 10
	if d.set.Spec.RevisionHistoryLimit != nil {
		limit = int(*d.set.Spec.RevisionHistoryLimit)
	}
	if limit < 0 {
		limit = math.MaxInt
	}
	if len(d.history.Owned)-1 <= limit {
		return
	}
	live := make(map[string]bool)
	for _, pod := range pods() {
		live[hashOf(pod)] = true
	}
	d.out.Actions = append(d.out.Actions, d.history.Forget(limit, true, func(r *appsv1.ControllerRevision) bool {
		return live[hashOf(r)] || r == d.heldAt
	})...)
}

// revisionText names a pod's revision for people.
func (d *decision) revisionText(hash string) string {
	for _, rev := range d.history.Owned {
		if hashOf(rev) == hash {
			return fmt.Sprintf("revision %d", rev.Revision)
		}
	}
	return fmt.Sprintf("hash %q", hash)
}
