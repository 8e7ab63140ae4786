package deployment

import (
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/workload/rollout"
)

// Reasons of the conditions, as kubectl and other clients know them.
const (
	newReplicaSetAvailable = "NewReplicaSetAvailable"
	replicaSetUpdated      = "ReplicaSetUpdated"
	timedOut               = "ProgressDeadlineExceeded"
	deploymentPaused       = "DeploymentPaused"
	deploymentResumed      = "DeploymentResumed"
	noRollback             = "NoRollback"
)

// Conditions of our own, beside upstream's Available, Progressing and ReplicaFailure.
const (
	// RolledBack is true while the Deployment runs the template that automatic rollback chose, and
	// false with reason NoRollback while it cannot go back though it is time to.
	RolledBack appsv1.DeploymentConditionType = "RolledBack"
	// ValidAnnotations is false while an annotation of ours has a value that makes no sense, and
	// absent otherwise.
	ValidAnnotations appsv1.DeploymentConditionType = "ValidAnnotations"
)

const (
	yes     = corev1.ConditionTrue
	no      = corev1.ConditionFalse
	unknown = corev1.ConditionUnknown
)

// conditions is a list of conditions being brought up to date at one instant.
type conditions struct {
	list []appsv1.DeploymentCondition
	now  metav1.Time
}

func newConditions(old []appsv1.DeploymentCondition, now time.Time) *conditions {
	// The API keeps whole seconds: what is written must equal what will be read.
	return &conditions{list: slices.Clone(old), now: metav1.Time{Time: now.Truncate(time.Second)}}
}

// second is the present instant as conditions hold it.
func (p *decision) second() time.Time { return p.Now.Truncate(time.Second) }

func (c *conditions) get(kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range c.list {
		if c.list[i].Type == kind {
			return &c.list[i]
		}
	}
	return nil
}

// condition returns a condition that a Deployment has, or nil.
func condition(d *appsv1.Deployment, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	return (&conditions{list: d.Status.Conditions}).get(kind)
}

// set puts a condition in place unless it has that status and reason already.
func (c *conditions) set(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	if old := c.get(kind); old == nil || old.Status != status || old.Reason != reason {
		c.touch(kind, status, reason, message)
	}
}

// touch puts a condition in place with the present instant as its last update; its last
// transition moves only when its status does.
func (c *conditions) touch(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	next := appsv1.DeploymentCondition{Type: kind, Status: status, Reason: reason, Message: message, LastUpdateTime: c.now, LastTransitionTime: c.now}
	old := c.get(kind)
	if old == nil {
		c.list = append(c.list, next)
		return
	}
	if old.Status == status {
		next.LastTransitionTime = old.LastTransitionTime
	}
	*old = next
}

func (c *conditions) remove(kind appsv1.DeploymentConditionType) {
	c.list = slices.DeleteFunc(c.list, func(x appsv1.DeploymentCondition) bool { return x.Type == kind })
}

func (p *decision) setAvailable(conds *conditions, next *appsv1.DeploymentStatus) {
	if next.AvailableReplicas >= p.room.Least(p.replicas) {
		conds.set(appsv1.DeploymentAvailable, yes, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		conds.set(appsv1.DeploymentAvailable, no, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
}

// setReplicaFailure passes on what stops a replica set, the present one's first.
func (p *decision) setReplicaFailure(conds *conditions) {
	c, _ := p.replicaFailure()
	if c == nil {
		conds.remove(appsv1.DeploymentReplicaFailure)
		return
	}
	if old := conds.get(appsv1.DeploymentReplicaFailure); old != nil && old.Status == c.Status && old.Reason == c.Reason {
		return
	}
	conds.remove(appsv1.DeploymentReplicaFailure)
	conds.list = append(conds.list, appsv1.DeploymentCondition{Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason,
		Message: c.Message, LastUpdateTime: c.LastTransitionTime, LastTransitionTime: c.LastTransitionTime})
}

// replicaFailure returns what the first of the members, the present one before the others, is stopped by.
func (p *decision) replicaFailure() (*appsv1.ReplicaSetCondition, *member) {
	var members []*member
	if p.fresh != nil {
		members = append(members, p.fresh)
	}
	for _, m := range append(members, p.old...) {
		for i := range m.set.Status.Conditions {
			if c := &m.set.Status.Conditions[i]; c.Type == appsv1.ReplicaSetReplicaFailure {
				return c, m
			}
		}
	}
	return nil, nil
}

// setRolledBack tells of an automatic rollback for as long as its template is the present one.
func (p *decision) setRolledBack(conds *conditions) {
	to, from := p.d.Annotations[rolledToKey], p.d.Annotations[rolledFromKey]
	if p.noWayBack != "" {
		conds.set(RolledBack, no, noRollback, "Not rolled back: "+p.noWayBack+".")
		return
	}
	if p.fresh == nil || to == "" || p.fresh.set.Name != to {
		conds.remove(RolledBack)
		return
	}
	from = from[strings.LastIndexByte(from, ',')+1:]
	conds.set(RolledBack, yes, timedOut, fmt.Sprintf(
		"ReplicaSet %q exceeded its progress deadline; the deployment went back to the template of ReplicaSet %q, which was available.", from, to))
}

const invalidAnnotation = "InvalidAnnotation"

// checkAnnotations looks for values that make no sense; the steps are checked where they are read.
func (p *decision) checkAnnotations() {
	if v := p.d.Annotations[autoRollbackKey]; v != "" && v != "true" && v != "false" {
		p.flaws = append(p.flaws, fmt.Sprintf("%s: %q is neither true nor false; it is ignored", autoRollbackKey, v))
	}
	if v := p.d.Annotations[rollout.ReplacementAnnotation]; v != "" && p.policy == rollout.Habit {
		p.flaws = append(p.flaws, fmt.Sprintf("%s: %q is neither %s nor %s; it is ignored",
			rollout.ReplacementAnnotation, v, rollout.TerminationStarted, rollout.TerminationComplete))
	}
}

// setFlaws tells of annotations that are ignored, in a condition and once in an event.
func (p *decision) setFlaws(conds *conditions) {
	if len(p.flaws) == 0 {
		conds.remove(ValidAnnotations)
		return
	}
	message := strings.Join(p.flaws, "; ")
	if old := conds.get(ValidAnnotations); old != nil && old.Message == message {
		return
	}
	conds.touch(ValidAnnotations, no, invalidAnnotation, message)
	p.events = append(p.events, plan.Event{Regarding: object.RefOf(p.d), Type: corev1.EventTypeWarning, Reason: invalidAnnotation, Message: message})
}
