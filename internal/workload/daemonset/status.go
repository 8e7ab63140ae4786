package daemonset

import (
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
const ValidAnnotations appsv1.DaemonSetConditionType = "ValidAnnotations"

// NodesWithoutPod is the condition type that counts, by cause, the nodes that run no pod of the set.
// It is present only while there are such nodes.
const NodesWithoutPod appsv1.DaemonSetConditionType = "NodesWithoutPod"

// status plans the next status, or none when nothing in it changes.
func (d *decision) status() {
	old := &d.set.Status
	next := appsv1.DaemonSetStatus{
		ObservedGeneration: d.set.Generation,
		CollisionCount:     old.CollisionCount,
		Conditions:         old.Conditions,
	}
	complete := d.count(&next)
	next.Conditions = d.progressing(next.Conditions, complete)
	next.Conditions = d.withoutPod(next.Conditions)
	next.Conditions = d.faulty(next.Conditions)
	if equality.Semantic.DeepEqual(*old, next) {
		return
	}
	// A shallow copy is enough: nothing below the status is changed.
	set := *d.set
	set.Status = next
	d.out.Status = &set
}

// count fills in the numbers, each node by its best pod, and says whether the rollout is complete.
func (d *decision) count(s *appsv1.DaemonSetStatus) (complete bool) {
	complete = true
	onDelete := d.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType
	for i := range d.spots {
		spot := &d.spots[i]
		if !spot.wanted() {
			if len(spot.pods) > 0 {
				s.NumberMisscheduled++
			}
			continue
		}
		s.DesiredNumberScheduled++
		if len(spot.pods) == 0 {
			complete = false
			continue
		}
		s.CurrentNumberScheduled++
		best := spot.pods[0]
		if at, ready := d.led.Available(best, d.set.Spec.MinReadySeconds); ready {
			s.NumberReady++
			if at.After(d.in.Now) {
				d.again(at)
				complete = false
			} else {
				s.NumberAvailable++
			}
		} else if !spot.lost {
			complete = false
		}
		if spot.fresh {
			s.UpdatedNumberScheduled++
		} else if !spot.held && !onDelete {
			complete = false // what only the user may replace is nobody's delay
		}
		for _, pod := range spot.pods[1:] {
			if at, ready := d.led.Available(pod, d.set.Spec.MinReadySeconds); ready && at.After(d.in.Now) {
				d.again(at)
			}
		}
	}
	for _, well := range []*int32{&s.DesiredNumberScheduled, &s.CurrentNumberScheduled, &s.NumberReady, &s.NumberAvailable} {
		*well += int32(d.rest.fresh + d.rest.stale)
	}
	s.UpdatedNumberScheduled += int32(d.rest.fresh)
	complete = complete && (d.rest.stale == 0 || onDelete)
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	return complete
}

// progressing returns the conditions with the Progressing condition that the annotation asks for,
// and without one when it does not.
func (d *decision) progressing(have []appsv1.DaemonSetCondition, complete bool) []appsv1.DaemonSetCondition {
	deadline, asked, err := progress.Deadline(d.set.Annotations)
	if err != nil {
		d.fault(err, "")
		return have
	}
	prev := conditionOf(have, progress.ConditionType)
	if !asked {
		return without(have, progress.ConditionType)
	}
	var before *progress.Condition
	if prev != nil {
		before = &progress.Condition{Status: prev.Status, Since: prev.LastTransitionTime.Time, Reason: prev.Reason, Message: prev.Message}
	}
	r := progress.Rollout{Revision: d.history.Present.Name, Complete: complete, Last: revision.Since(d.history.Present)}
	if d.rest.last.After(r.Last) {
		r.Last = d.rest.last
	}
	for i := range d.spots {
		for _, pod := range d.spots[i].pods {
			r.Last = progress.Latest(r.Last, pod)
		}
	}
	next, again := progress.Next(before, r, deadline, d.in.Now)
	if !again.IsZero() {
		d.again(again)
	}
	if next.Reason == progress.Exceeded {
		d.stuck = true
		if before == nil || before.Reason != progress.Exceeded {
			d.tell(corev1.EventTypeWarning, progress.Exceeded, next.Message)
		}
		d.wait(plan.Wait{Reason: next.Reason, Message: next.Message, On: object.RefOf(d.set), Since: next.Since})
	}
	return withCondition(have, appsv1.DaemonSetCondition{
		Type: progress.ConditionType, Status: next.Status, Reason: next.Reason, Message: next.Message,
		LastTransitionTime: metav1.NewTime(next.Since),
	})
}

// withoutPod returns the conditions with the count of nodes that run no pod.
func (d *decision) withoutPod(have []appsv1.DaemonSetCondition) []appsv1.DaemonSetCondition {
	reason, message := d.absences()
	if reason == "" {
		return without(have, NodesWithoutPod)
	}
	next := appsv1.DaemonSetCondition{
		Type: NodesWithoutPod, Status: corev1.ConditionTrue, Reason: reason, Message: message,
		LastTransitionTime: metav1.NewTime(d.in.Now.Truncate(time.Second)),
	}
	if prev := conditionOf(have, NodesWithoutPod); prev != nil {
		next.LastTransitionTime = prev.LastTransitionTime
	}
	return withCondition(have, next)
}

// faulty returns the conditions with the truth about the annotations. An event tells of a change.
func (d *decision) faulty(have []appsv1.DaemonSetCondition) []appsv1.DaemonSetCondition {
	if len(d.faults) == 0 {
		return without(have, ValidAnnotations)
	}
	next := appsv1.DaemonSetCondition{
		Type: ValidAnnotations, Status: corev1.ConditionFalse, Reason: "InvalidAnnotation", Message: strings.Join(d.faults, "; "),
		LastTransitionTime: metav1.NewTime(d.in.Now.Truncate(time.Second)),
	}
	prev := conditionOf(have, ValidAnnotations)
	if prev != nil {
		next.LastTransitionTime = prev.LastTransitionTime
	}
	if prev == nil || prev.Message != next.Message {
		d.tell(corev1.EventTypeWarning, next.Reason, next.Message)
	}
	return withCondition(have, next)
}

func conditionOf(have []appsv1.DaemonSetCondition, kind appsv1.DaemonSetConditionType) *appsv1.DaemonSetCondition {
	for i := range have {
		if have[i].Type == kind {
			return &have[i]
		}
	}
	return nil
}

// without returns the conditions less one type. The given slice is shared and stays as it is.
func without(have []appsv1.DaemonSetCondition, kind appsv1.DaemonSetConditionType) []appsv1.DaemonSetCondition {
	if conditionOf(have, kind) == nil {
		return have
	}
	return slices.DeleteFunc(slices.Clone(have), func(c appsv1.DaemonSetCondition) bool { return c.Type == kind })
}

// withCondition returns the conditions with one put in the place of its type.
func withCondition(have []appsv1.DaemonSetCondition, c appsv1.DaemonSetCondition) []appsv1.DaemonSetCondition {
	out := slices.Clone(have)
	if at := conditionOf(out, c.Type); at != nil {
		*at = c
		return out
	}
	return append(out, c)
}
