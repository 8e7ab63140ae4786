// Package progress holds a StatefulSet or a DaemonSet to a progress deadline, as Kubernetes holds
// a Deployment to spec.progressDeadlineSeconds.
//
// It owns the annotation, the Progressing condition's reasons and the arithmetic of the deadline.
// It keeps no clock of its own: the last sign of progress is read off the world by the planner
// (creation, readiness and deletion times of pods), so that a restart forgets nothing.
package progress

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/podstate"
	"coracle/internal/workload/rollout"
)

// Annotation asks for a Progressing condition with this deadline, in seconds.
const Annotation = "coracle.io/progress-deadline-seconds"

// ConditionType is the type of the condition.
const ConditionType = "Progressing"

// Reasons of the condition.
const (
	Available = "RevisionAvailable"
	Rolling   = "RevisionProgressing"
	// Exceeded is Deployment's word.
	Exceeded = "ProgressDeadlineExceeded"
)

// Deadline reads the annotation. asked is false when there is none.
func Deadline(annotations map[string]string) (deadline time.Duration, asked bool, err error) {
	text, asked := annotations[Annotation]
	if !asked {
		return 0, false, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n <= 0 {
		return 0, true, fmt.Errorf("annotation %s: %q is not a positive number of seconds", Annotation, text)
	}
	return time.Duration(n) * time.Second, true, nil
}

// Condition is the Progressing condition, whatever kind carries it.
type Condition struct {
	Status corev1.ConditionStatus
	// Since is when this phase of the rollout began (lastTransitionTime). It moves with the reason,
	// not only with the status: these kinds have no lastUpdateTime to tell a rollout's beginning.
	Since   time.Time
	Reason  string
	Message string
}

// Rollout is how far a rollout has come.
type Rollout struct {
	// Revision is the one that is rolled out.
	Revision string
	// Complete says that every pod that shall have it does, and is available.
	Complete bool
	// Last is the latest sign of progress; zero when there is none.
	Last time.Time
}

// Next returns the condition at now, and when to look again (zero: when something changes). A
// completed rollout stays complete whatever becomes of its pods, until there is another revision.
func Next(prev *Condition, r Rollout, deadline time.Duration, now time.Time) (next Condition, again time.Time) {
	is := func(reason string) bool {
		return prev != nil && prev.Reason == reason && prev.Message == message(reason, r.Revision)
	}
	enter := func(status corev1.ConditionStatus, reason string) Condition {
		return Condition{Status: status, Since: now.Truncate(time.Second), Reason: reason, Message: message(reason, r.Revision)}
	}
	last := r.Last
	if prev != nil && (prev.Since.After(last) || last.After(now)) {
		last = prev.Since
	}
	standing, again := rollout.Progress{
		Complete: r.Complete || is(Available),
		Moved:    !is(Rolling) && (!is(Exceeded) || r.Last.After(prev.Since)),
		Last:     last,
		Expired:  is(Exceeded),
		Deadline: deadline,
	}.Judge(now)
	switch {
	case standing == rollout.Done && !is(Available):
		return enter(corev1.ConditionTrue, Available), again
	case standing == rollout.Advanced:
		return enter(corev1.ConditionTrue, Rolling), again
	case standing == rollout.TimedOut && !is(Exceeded):
		return enter(corev1.ConditionFalse, Exceeded), again
	}
	return *prev, again
}

func message(reason, revision string) string {
	switch reason {
	case Available:
		return fmt.Sprintf("Revision %q has successfully progressed.", revision)
	case Exceeded:
		return fmt.Sprintf("Revision %q has timed out progressing.", revision)
	}
	return fmt.Sprintf("Revision %q is progressing.", revision)
}

// Latest returns the latest of the signs of progress in a pod: it was created, became ready, or
// began to terminate.
func Latest(last time.Time, pod *corev1.Pod) time.Time {
	later := func(t time.Time) {
		if t.After(last) {
			last = t
		}
	}
	later(pod.CreationTimestamp.Time)
	if pod.DeletionTimestamp != nil {
		begun := pod.DeletionTimestamp.Time
		if g := pod.DeletionGracePeriodSeconds; g != nil {
			begun = begun.Add(-time.Duration(*g) * time.Second)
		}
		later(begun)
	}
	if since, ready := podstate.ReadySince(pod); ready {
		later(since)
	}
	return last
}
