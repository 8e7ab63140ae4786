package replicaset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/workload/tally"
)

// Reasons of the ReplicaFailure condition and of the events that go with it.
const (
	failedCreate = "FailedCreate"
	failedDelete = "FailedDelete"
)

// counts is the truth about a set's pods at one instant.
type counts struct {
	replicas, labeled, ready, available, terminating int32
}

// count counts the pods, and says when the next ready one turns available (zero: none will). Whoever sets no
// minReadySeconds does not ask since when a pod is ready.
func (p *snapshot) count() (c counts, next time.Time) {
	soon := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for _, g := range p.groups {
		if carries(g.Labels, p.set.template.Labels) {
			c.labeled += int32(g.Active)
		}
		available, at := g.Available(p.minReady(), p.Now)
		soon(at)
		early, at := p.early(g)
		soon(at)
		c.ready += int32(g.Ready())
		c.available += int32(available - early)
	}
	c.replicas, c.terminating = int32(p.active), int32(p.terminating)
	return c, next
}

// early counts the pods of a group that have been ready for long enough, but that not all who lead connections know,
// and says when the first of them counts as available though nobody says so. Only those that became ready of late are
// looked at, and only where a service selects them.
func (p *snapshot) early(g *tally.Group) (n int, next time.Time) {
	if !p.led.Concerns(g.Namespace, g.Labels) {
		return 0, time.Time{}
	}
	for name := range g.Young(p.Now) {
		pod := p.pod(name)
		if pod == nil {
			continue
		}
		until := p.led.Until(pod)
		if until.IsZero() || p.set.minReady > 0 && !podstate.Available(pod, p.set.minReady, p.Now) {
			continue
		}
		n++
		p.unknown = append(p.unknown, name)
		if next.IsZero() || until.Before(next) {
			next = until
		}
	}
	return n, next
}

func (p *snapshot) minReady() time.Duration { return time.Duration(p.set.minReady) * time.Second }

// carries reports whether labels contains all of wanted.
func carries(labels, wanted map[string]string) bool {
	for k, v := range wanted {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// failure is the ReplicaFailure condition's content, nil for none. Besides a refusal of the last plan it is kept as
// long as pods are missing or too many and the outcome of trying again is not known.
type failure struct{ reason, message string }

func (p *snapshot) failure() *failure {
	if p.lack-p.held == 0 || p.namespaceEnds() {
		return nil
	}
	if last := p.Last; last != nil {
		switch last.Action.(type) {
		case plan.Create:
			if namespaceEnded(last.Status) {
				return nil
			}
			return &failure{failedCreate, last.Status.Message}
		case plan.Delete:
			if r := last.Status.Reason; r == metav1.StatusReasonNotFound || r == metav1.StatusReasonConflict {
				return nil // the pod went by itself, or is another by now
			}
			return &failure{failedDelete, last.Status.Message}
		}
	}
	if reason, message, ok := p.set.failing(); ok {
		return &failure{reason, message}
	}
	return nil
}

// namespaceEnded says that the API refused because the namespace is being deleted, which the
// reader may not show yet.
func namespaceEnded(s metav1.Status) bool {
	return s.Details != nil && slices.ContainsFunc(s.Details.Causes, func(c metav1.StatusCause) bool {
		return c.Type == corev1.NamespaceTerminatingCause
	})
}

// failing returns the ReplicaFailure condition that the status has now.
func (s *set) failing() (reason, message string, ok bool) {
	switch o := s.object.(type) {
	case *appsv1.ReplicaSet:
		for _, c := range o.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				return c.Reason, c.Message, true
			}
		}
	case *corev1.ReplicationController:
		for _, c := range o.Status.Conditions {
			if c.Type == corev1.ReplicationControllerReplicaFailure && c.Status == corev1.ConditionTrue {
				return c.Reason, c.Message, true
			}
		}
	}
	return "", "", false
}

// status returns the object with its next status, or nil when it has that status already.
func (s *set) status(c counts, f *failure, now time.Time) object.Object {
	switch o := s.object.(type) {
	case *appsv1.ReplicaSet:
		next := appsv1.ReplicaSetStatus{
			Replicas: c.replicas, FullyLabeledReplicas: c.labeled, ReadyReplicas: c.ready, AvailableReplicas: c.available,
			TerminatingReplicas: &c.terminating, ObservedGeneration: o.Generation,
			Conditions: replicaSetConditions(o.Status.Conditions, f, now),
		}
		if equality.Semantic.DeepEqual(o.Status, next) {
			return nil
		}
		changed := *o
		changed.Status = next
		return &changed
	case *corev1.ReplicationController:
		next := corev1.ReplicationControllerStatus{
			Replicas: c.replicas, FullyLabeledReplicas: c.labeled, ReadyReplicas: c.ready, AvailableReplicas: c.available,
			ObservedGeneration: o.Generation,
			Conditions:         controllerConditions(o.Status.Conditions, f, now),
		}
		if equality.Semantic.DeepEqual(o.Status, next) {
			return nil
		}
		changed := *o
		changed.Status = next
		return &changed
	}
	return nil
}

// replicaSetConditions sets or removes ReplicaFailure and keeps the rest. A failure that lasts for
// the same reason keeps its first message: the API names another pod at each try, and a condition that
// changed with it would be written for ever.
func replicaSetConditions(old []appsv1.ReplicaSetCondition, f *failure, now time.Time) []appsv1.ReplicaSetCondition {
	kept := slices.DeleteFunc(slices.Clone(old), func(c appsv1.ReplicaSetCondition) bool {
		return c.Type == appsv1.ReplicaSetReplicaFailure && (f == nil || c.Reason != f.reason || c.Status != corev1.ConditionTrue)
	})
	if f == nil || slices.ContainsFunc(kept, func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }) {
		return kept
	}
	return append(kept, appsv1.ReplicaSetCondition{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
		LastTransitionTime: metav1.Time{Time: now}, Reason: f.reason, Message: f.message})
}

func controllerConditions(old []corev1.ReplicationControllerCondition, f *failure, now time.Time) []corev1.ReplicationControllerCondition {
	kept := slices.DeleteFunc(slices.Clone(old), func(c corev1.ReplicationControllerCondition) bool {
		return c.Type == corev1.ReplicationControllerReplicaFailure && (f == nil || c.Reason != f.reason || c.Status != corev1.ConditionTrue)
	})
	if f == nil || slices.ContainsFunc(kept, func(c corev1.ReplicationControllerCondition) bool {
		return c.Type == corev1.ReplicationControllerReplicaFailure
	}) {
		return kept
	}
	return append(kept, corev1.ReplicationControllerCondition{Type: corev1.ReplicationControllerReplicaFailure, Status: corev1.ConditionTrue,
		LastTransitionTime: metav1.Time{Time: now}, Reason: f.reason, Message: f.message})
}
