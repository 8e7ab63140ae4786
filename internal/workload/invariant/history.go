package invariant

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// HistoryKept holds when no workload keeps more of its past than revisionHistoryLimit, what pods still run aside. It is
// for a cluster at rest.
func HistoryKept(r object.Reader, _ time.Time) error {
	for _, o := range r.List(resource.Deployments, "") {
		d := o.(*appsv1.Deployment)
		old := 0
		for _, set := range setsOf(r, d) {
			if !present(d, set) && size(set.Spec.Replicas) == 0 {
				old++
			}
		}
		if limit := d.Spec.RevisionHistoryLimit; limit != nil && old > int(*limit) {
			return fmt.Errorf("history: deployment %s keeps %d old replica sets, revisionHistoryLimit is %d", object.KeyOf(d), old, *limit)
		}
	}
	for _, o := range r.List(resource.StatefulSets, "") {
		s := o.(*appsv1.StatefulSet)
		live := map[string]bool{s.Status.CurrentRevision: true, s.Status.UpdateRevision: true}
		if err := revisionsKept(r, s, s.Spec.RevisionHistoryLimit, live, func(rev *appsv1.ControllerRevision) string { return rev.Name }); err != nil {
			return err
		}
	}
	for _, o := range r.List(resource.DaemonSets, "") {
		d := o.(*appsv1.DaemonSet)
		newest := int64(0)
		hash := func(rev *appsv1.ControllerRevision) string { return rev.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] }
		live := map[string]bool{}
		for _, o := range r.Indexed(resource.ControllerRevisions, object.ByController, string(d.UID)) {
			if rev := o.(*appsv1.ControllerRevision); rev.Revision > newest {
				newest = rev.Revision
				live = map[string]bool{hash(rev): true}
			}
		}
		if err := revisionsKept(r, d, d.Spec.RevisionHistoryLimit, live, hash); err != nil {
			return err
		}
	}
	return nil
}

func revisionsKept(r object.Reader, owner object.Object, limit *int32, live map[string]bool, name func(*appsv1.ControllerRevision) string) error {
	for _, pod := range r.Indexed(resource.Pods, object.ByController, string(owner.GetUID())) {
		live[pod.GetLabels()[appsv1.ControllerRevisionHashLabelKey]] = true
	}
	old := 0
	for _, o := range r.Indexed(resource.ControllerRevisions, object.ByController, string(owner.GetUID())) {
		if !live[name(o.(*appsv1.ControllerRevision))] {
			old++
		}
	}
	if limit != nil && old > int(*limit) {
		return fmt.Errorf("history: %s keeps %d old revisions, revisionHistoryLimit is %d", object.RefOf(owner), old, *limit)
	}
	return nil
}
