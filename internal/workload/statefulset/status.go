package statefulset

import (
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/workload/progress"
	"coracle/internal/workload/revision"
)

// ValidAnnotations is the condition type that is False while an annotation cannot be obeyed, and
// absent otherwise.
const ValidAnnotations appsv1.StatefulSetConditionType = "ValidAnnotations"

// ClaimsResized is the condition type that says which claims cannot grow with their template. It is
// present only while there are such claims.
const ClaimsResized appsv1.StatefulSetConditionType = "ClaimsResized"

// status plans the next status, or none when nothing in it changes. barred are the claims that
// should grow but may not.
func (d *decision) status(barred []string) {
	old := &d.set.Status
	next := appsv1.StatefulSetStatus{
		ObservedGeneration: d.set.Generation,
		CurrentRevision:    d.current.Name,
		UpdateRevision:     d.updateName(),
		CollisionCount:     old.CollisionCount,
		Conditions:         old.Conditions,
	}
	if next.CollisionCount == nil {
		next.CollisionCount = new(int32)
	}
	d.count(&next)
	if d.rolledOut() {
		next.CurrentReplicas, next.CurrentRevision = next.UpdatedReplicas, next.UpdateRevision
	}
	if d.set.DeletionTimestamp == nil {
		next.Conditions = d.progressing(next.Conditions)
		next.Conditions = d.resized(next.Conditions, barred)
		next.Conditions = d.faulty(next.Conditions)
	}
	d.putStatus(next)
}

// rolledOut says whether a rolling update is complete: the wanted identities, and no others, exist, are
// available and of the update revision. (Kubernetes compares counts, in which a surplus pod can stand
// for one that is missing, and takes ready pods for available ones.)
func (d *decision) rolledOut() bool {
	if !d.rolling() || len(d.condemned) > 0 {
		return false
	}
	for _, m := range d.replicas {
		if !d.isAvailable(m) || revisionOf(m.pod) != d.updateName() {
			return false
		}
	}
	return true
}

// putStatus plans the writing of a status that differs from the present one.
func (d *decision) putStatus(next appsv1.StatefulSetStatus) {
	if equality.Semantic.DeepEqual(d.set.Status, next) {
		return
	}
	// A shallow copy is enough: nothing below the status is changed.
	set := *d.set
	set.Status = next
	d.out.Status = &set
}

// faultStatus says in the status why nothing else is decided.
func (d *decision) faultStatus() {
	next := d.set.Status
	next.Conditions = d.faulty(next.Conditions)
	d.putStatus(next)
}

// faulty returns the conditions with the truth about the annotations. An event tells of a change.
func (d *decision) faulty(have []appsv1.StatefulSetCondition) []appsv1.StatefulSetCondition {
	i := slices.IndexFunc(have, func(c appsv1.StatefulSetCondition) bool { return c.Type == ValidAnnotations })
	if len(d.faults) == 0 {
		if i >= 0 {
			have = slices.Delete(slices.Clone(have), i, i+1)
		}
		return have
	}
	next := appsv1.StatefulSetCondition{
		Type: ValidAnnotations, Status: corev1.ConditionFalse, Reason: "InvalidAnnotation", Message: strings.Join(d.faults, "; "),
		LastTransitionTime: metav1.NewTime(d.in.Now.Truncate(time.Second)),
	}
	if i >= 0 {
		next.LastTransitionTime = have[i].LastTransitionTime
	}
	if i < 0 || have[i].Message != next.Message {
		d.out.Events = append(d.out.Events, *d.refused(next.Reason, next.Message))
	}
	return withCondition(have, next)
}

func (d *decision) updateName() string {
	if d.update == nil {
		return d.set.Status.UpdateRevision
	}
	return d.update.Name
}

// count fills in the numbers: all members, condemned ones included, as they are.
func (d *decision) count(s *appsv1.StatefulSetStatus) {
	for _, m := range d.pods {
		s.Replicas++
		if at, isReady := availableAt(m.pod, d.set.Spec.MinReadySeconds); isReady {
			s.ReadyReplicas++
			if at.After(d.in.Now) {
				d.again(at)
			} else {
				s.AvailableReplicas++
			}
		}
		if terminating(m.pod) {
			continue
		}
		rev := revisionOf(m.pod)
		if rev == s.CurrentRevision {
			s.CurrentReplicas++
		}
		if rev == s.UpdateRevision {
			s.UpdatedReplicas++
		}
	}
}

// progressing returns the conditions with the Progressing condition that the annotation asks for,
// and without one when it does not.
func (d *decision) progressing(have []appsv1.StatefulSetCondition) []appsv1.StatefulSetCondition {
	deadline, asked, err := progress.Deadline(d.set.Annotations)
	if err != nil {
		d.fault(err)
		return have
	}
	i := slices.IndexFunc(have, func(c appsv1.StatefulSetCondition) bool { return c.Type == appsv1.StatefulSetProgressing })
	if !asked {
		if i >= 0 {
			have = slices.Delete(slices.Clone(have), i, i+1)
		}
		return have
	}
	var prev *progress.Condition
	if i >= 0 {
		c := have[i]
		prev = &progress.Condition{Status: c.Status, Since: c.LastTransitionTime.Time, Reason: c.Reason, Message: c.Message}
	}
	next, again := progress.Next(prev, d.rollout(), deadline, d.in.Now)
	if !again.IsZero() {
		d.again(again)
	}
	if next.Reason == progress.Exceeded {
		d.stuck = true
		if prev == nil || prev.Reason != progress.Exceeded {
			d.out.Events = append(d.out.Events, *d.refused(progress.Exceeded, next.Message))
		}
		d.wait(plan.Wait{Reason: next.Reason, Message: next.Message, On: object.RefOf(d.set), Since: next.Since})
	}
	return withCondition(have, appsv1.StatefulSetCondition{
		Type: appsv1.StatefulSetProgressing, Status: next.Status, Reason: next.Reason, Message: next.Message,
		LastTransitionTime: metav1.NewTime(next.Since),
	})
}

// rollout says how far the set is from what it shall be.
func (d *decision) rollout() progress.Rollout {
	r := progress.Rollout{Revision: d.update.Name, Complete: len(d.condemned) == 0, Last: revision.Since(d.update)}
	for _, m := range d.replicas {
		if !d.isAvailable(m) || d.rolling() && m.ordinal >= partitionOf(d.set) && revisionOf(m.pod) != d.update.Name {
			r.Complete = false
		}
	}
	for _, m := range d.pods {
		r.Last = progress.Latest(r.Last, m.pod)
	}
	return r
}

// resized returns the conditions with the truth about claims that cannot grow.
func (d *decision) resized(have []appsv1.StatefulSetCondition, barred []string) []appsv1.StatefulSetCondition {
	i := slices.IndexFunc(have, func(c appsv1.StatefulSetCondition) bool { return c.Type == ClaimsResized })
	if len(barred) == 0 {
		if i >= 0 {
			have = slices.Delete(slices.Clone(have), i, i+1)
		}
		return have
	}
	slices.Sort(barred)
	next := appsv1.StatefulSetCondition{
		Type: ClaimsResized, Status: corev1.ConditionFalse, Reason: "ExpansionNotAllowed",
		Message:            fmt.Sprintf("claims that stay as they are because their storage class does not allow expansion: %s", strings.Join(barred, ", ")),
		LastTransitionTime: metav1.NewTime(d.in.Now.Truncate(time.Second)),
	}
	since := next.LastTransitionTime
	if i >= 0 {
		since = have[i].LastTransitionTime
		next.LastTransitionTime = since
	} else {
		d.out.Events = append(d.out.Events, *d.refused(next.Reason, next.Message))
	}
	d.wait(plan.Wait{
		Reason: next.Reason, Message: next.Message, On: object.RefOf(d.set), Since: since.Time,
		Hint: "set allowVolumeExpansion on the storage class, or move the data to new claims",
	})
	return withCondition(have, next)
}

// withCondition returns the conditions with one put in the place of its type. The given slice is
// shared and stays as it is.
func withCondition(have []appsv1.StatefulSetCondition, c appsv1.StatefulSetCondition) []appsv1.StatefulSetCondition {
	out := slices.Clone(have)
	for i := range out {
		if out[i].Type == c.Type {
			out[i] = c
			return out
		}
	}
	return append(out, c)
}
