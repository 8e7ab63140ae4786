package deployment

import (
	"fmt"
	"maps"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"coracle/internal/workload/rollout"
)

// status computes the Deployment with its next status. The revision annotation travels with it, as the
// status subresource allows.
func (p *decision) status() *appsv1.Deployment {
	changed := *p.d
	old := &p.d.Status
	next := appsv1.DeploymentStatus{ObservedGeneration: p.d.Generation, CollisionCount: old.CollisionCount}
	var terminating int32
	for _, m := range p.all {
		s := &m.set.Status
		next.Replicas += s.Replicas
		next.ReadyReplicas += s.ReadyReplicas
		next.AvailableReplicas += s.AvailableReplicas
		terminating += m.terminating()
	}
	next.TerminatingReplicas = &terminating
	next.UnavailableReplicas = max(0, total(p.all)-next.AvailableReplicas)
	if p.fresh != nil {
		next.UpdatedReplicas = p.fresh.set.Status.Replicas
	}
	if p.creation != nil && p.creation.collisions > 0 {
		next.CollisionCount = &p.creation.collisions
	}
	changed.Status = next
	conds := newConditions(old.Conditions, p.Now)
	p.setAvailable(conds, &next)
	if p.d.DeletionTimestamp == nil {
		p.setProgressing(conds, &next)
		p.setRevision(&changed)
		p.setRolledBack(conds)
		p.setFlaws(conds)
	}
	p.setReplicaFailure(conds)
	changed.Status.Conditions = conds.list
	return &changed
}

// setRevision puts the present revision's number on the Deployment, where kubectl looks for it.
func (p *decision) setRevision(d *appsv1.Deployment) {
	if p.fresh == nil {
		return
	}
	if revision := p.fresh.annotation(revisionKey); revision != "" && d.Annotations[revisionKey] != revision {
		d.Annotations = maps.Clone(d.Annotations)
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		d.Annotations[revisionKey] = revision
	}
}

// worthWriting reports whether the next status says anything new. When a replica set is about
// to be created the status waits for it, so that it never tells of one that the API refused.
func (p *decision) worthWriting(next *appsv1.Deployment) bool {
	if p.creation != nil && p.createFailure() == "" && equality.Semantic.DeepEqual(p.d.Status.CollisionCount, next.Status.CollisionCount) {
		return false
	}
	return p.d.Annotations[revisionKey] != next.Annotations[revisionKey] || !equality.Semantic.DeepEqual(p.d.Status, next.Status)
}

// complete reports whether the rollout is done: all pods are of the present template and available.
func (p *decision) complete(s *appsv1.DeploymentStatus) bool {
	return p.fresh != nil && s.UpdatedReplicas == p.replicas && s.Replicas == p.replicas && s.AvailableReplicas == p.replicas
}

// moved reports whether a status is further on than the last one.
func moved(old, next *appsv1.DeploymentStatus) bool {
	return next.UpdatedReplicas > old.UpdatedReplicas ||
		next.Replicas-next.UpdatedReplicas < old.Replicas-old.UpdatedReplicas ||
		next.ReadyReplicas > old.ReadyReplicas || next.AvailableReplicas > old.AvailableReplicas
}

// deadline returns spec.progressDeadlineSeconds; false when there is none (nil, or the highest number).
func deadline(d *appsv1.Deployment) (time.Duration, bool) {
	s := d.Spec.ProgressDeadlineSeconds
	if s == nil || *s == 1<<31-1 {
		return 0, false
	}
	return time.Duration(*s) * time.Second, true
}

// setProgressing keeps the Progressing condition, by which kubectl rollout status goes.
func (p *decision) setProgressing(conds *conditions, next *appsv1.DeploymentStatus) {
	limit, ok := deadline(p.d)
	if !ok {
		conds.remove(appsv1.DeploymentProgressing)
		return
	}
	c := conds.get(appsv1.DeploymentProgressing)
	paused := c != nil && c.Reason == deploymentPaused
	switch {
	case p.d.Spec.Paused:
		if !paused && (c == nil || c.Reason != timedOut) {
			conds.set(appsv1.DeploymentProgressing, unknown, deploymentPaused, "Deployment is paused")
		}
		return
	case paused:
		conds.set(appsv1.DeploymentProgressing, unknown, deploymentResumed, "Deployment is resumed")
	}
	if failure := p.createFailure(); failure != "" {
		conds.set(appsv1.DeploymentProgressing, no, createError, failure)
		return
	}
	p.beginProgress(conds)
	p.judgeProgress(conds, next, limit)
}

// createFailure words the API's refusal to create the present template's replica set, empty when
// there was none.
func (p *decision) createFailure() string {
	if p.creation == nil || p.Last == nil || p.Last.Action.Target().Resource != p.creation.action.Target().Resource ||
		p.Last.Action.Target().Name != p.creation.name {
		return ""
	}
	return fmt.Sprintf("Failed to create new replica set %q: %s", p.creation.name, p.Last.Status.Message)
}

// beginProgress starts the clock anew when another template has become the present one.
func (p *decision) beginProgress(conds *conditions) {
	c := conds.get(appsv1.DeploymentProgressing)
	if p.fresh == nil {
		if c != nil && (c.Reason == timedOut || c.Reason == newReplicaSetAvailable) {
			conds.set(appsv1.DeploymentProgressing, yes, replicaSetUpdated, p.subject()+" is progressing.")
		}
		return
	}
	if c != nil && p.fresh.annotation(revisionKey) == p.d.Annotations[revisionKey] {
		return
	}
	name := p.fresh.set.Name
	ours := p.fresh.annotation(historyKey) == "" && !p.fresh.set.CreationTimestamp.Before(&p.d.CreationTimestamp)
	if ours && p.fresh.annotation(revisionKey) != p.d.Annotations[revisionKey] {
		conds.set(appsv1.DeploymentProgressing, yes, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", name))
	} else {
		conds.set(appsv1.DeploymentProgressing, yes, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", name))
	}
}

func (p *decision) judgeProgress(conds *conditions, next *appsv1.DeploymentStatus, limit time.Duration) {
	c := conds.get(appsv1.DeploymentProgressing)
	begun := p.fresh != nil && p.fresh.annotation(revisionKey) != p.d.Annotations[revisionKey]
	if c != nil && c.Reason == newReplicaSetAvailable && next.Replicas == next.UpdatedReplicas {
		return
	}
	progress := rollout.Progress{Complete: p.complete(next), Moved: !begun && moved(&p.d.Status, next), Deadline: limit}
	if c != nil {
		progress.Expired, progress.Rested, progress.Last = c.Reason == timedOut, c.Reason == newReplicaSetAvailable, c.LastUpdateTime.Time
	}
	if p.fresh != nil {
		if began := stampOf(p.fresh.annotation(stepSinceKey)); began.After(progress.Last) {
			progress.Last = began
		}
	}
	if p.resting && !progress.Expired {
		progress.Last = time.Time{}
	}
	standing, end := progress.Judge(p.Now)
	switch standing {
	case rollout.Done:
		conds.set(appsv1.DeploymentProgressing, yes, newReplicaSetAvailable, p.subject()+" has successfully progressed.")
	case rollout.Advanced:
		conds.touch(appsv1.DeploymentProgressing, yes, replicaSetUpdated, p.subject()+" is progressing.")
		p.soon(p.second().Add(limit))
		return
	case rollout.TimedOut:
		conds.set(appsv1.DeploymentProgressing, no, timedOut, p.subject()+" has timed out progressing.")
	}
	p.soon(end)
}

// subject names what progresses, in upstream's words.
func (p *decision) subject() string {
	if p.fresh != nil {
		return fmt.Sprintf("ReplicaSet %q", p.fresh.set.Name)
	}
	return fmt.Sprintf("Deployment %q", p.d.Name)
}
