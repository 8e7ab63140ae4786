package deployment

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
)

// why explains the plan: the moves decided, and what every further move waits for, what is likely
// the cause first.
func (p *decision) why(s *appsv1.DeploymentStatus) plan.Why {
	if p.d.DeletionTimestamp != nil {
		return plan.Why{State: plan.Waiting, Waits: []plan.Wait{{Reason: "Deleting", Since: p.d.DeletionTimestamp.Time,
			Message: "the deployment is being deleted; finalizers: " + strings.Join(p.d.Finalizers, ", ")}}}
	}
	w := plan.Why{State: plan.Steady, Next: strings.Join(p.next, "; "), Waits: p.troubles(s)}
	stuck := len(w.Waits) > 0
	if p.d.Spec.Paused {
		w.Waits = append(w.Waits, plan.Wait{Reason: deploymentPaused, Message: "the deployment is paused: it scales, but does not roll",
			Hint: "kubectl rollout resume deployment/" + p.d.Name})
	}
	if p.fresh != nil && !p.complete(s) {
		w.Waits = append(w.Waits, p.waitForSet(p.fresh))
	}
	w.Waits = append(w.Waits, p.waits...)
	switch {
	case stuck:
		w.State = plan.Stuck
	case w.Next != "":
		w.State = plan.Progressing
	case len(w.Waits) > 0 || !p.complete(s):
		w.State = plan.Waiting
	}
	for _, f := range p.flaws {
		w.Waits = append(w.Waits, plan.Wait{Reason: invalidAnnotation, Message: f, Hint: "correct the annotation"})
	}
	return w
}

// troubles are what will hardly pass without the user.
func (p *decision) troubles(s *appsv1.DeploymentStatus) []plan.Wait {
	var waits []plan.Wait
	if failure := p.createFailure(); failure != "" {
		waits = append(waits, plan.Wait{Reason: createError, Message: failure, Since: p.Last.At})
	}
	if c, m := p.replicaFailure(); c != nil {
		waits = append(waits, plan.Wait{Reason: c.Reason, On: object.RefOf(m.set), Since: c.LastTransitionTime.Time,
			Message: fmt.Sprintf("replica set %q: %s", m.set.Name, c.Message)})
	}
	for i := range s.Conditions {
		if c := &s.Conditions[i]; c.Reason == timedOut && c.Type == appsv1.DeploymentProgressing {
			waits = append(waits, plan.Wait{Reason: timedOut, Message: c.Message, Since: c.LastTransitionTime.Time,
				Hint: "correct the template, or kubectl rollout undo deployment/" + p.d.Name})
		}
	}
	if p.noWayBack != "" {
		waits = append(waits, plan.Wait{Reason: noRollback, Message: p.noWayBack})
	}
	return waits
}

// waitForSet says how far the present replica set has got; what holds it up is its own plan's to
// say. When it has all its pods, it is old ones that have yet to leave.
func (p *decision) waitForSet(m *member) plan.Wait {
	if m.set.Status.AvailableReplicas >= p.replicas {
		w := plan.Wait{Reason: "OldPodsLeaving", On: object.RefOf(m.set), Message: "pods that are not asked for any more have yet to leave"}
		for _, o := range p.all {
			if o.set.Status.Replicas > o.size {
				w.On = object.RefOf(o.set)
				w.Message = fmt.Sprintf("replica set %q: %d pods have yet to leave", o.set.Name, o.set.Status.Replicas-o.size)
			}
		}
		return w
	}
	w := plan.Wait{Reason: "ReplicaSetNotComplete", On: object.RefOf(m.set)}
	if c := condition(p.d, appsv1.DeploymentProgressing); c != nil {
		w.Since = c.LastUpdateTime.Time
	}
	w.Message = fmt.Sprintf("replica set %q: %d of %d pods are available", m.set.Name, m.set.Status.AvailableReplicas, p.replicas)
	if m.size != p.replicas {
		w.Message += fmt.Sprintf("; for now %d may be", m.size)
	}
	return w
}

// waitForOthers explains why a rolling update does not go further in this pass.
func (p *decision) waitForOthers(target int32) {
	if m := p.unsettled(); m != nil {
		p.waits = append(p.waits, plan.Wait{Reason: "ReplicaSetNotObserved", On: object.RefOf(m.set),
			Message: fmt.Sprintf("replica set %q has not yet taken note of its new size", m.set.Name)})
		return
	}
	if p.fresh.size < target && p.space() == 0 {
		p.waits = append(p.waits, plan.Wait{Reason: "MaxSurge", On: object.RefOf(p.fresh.set),
			Message: fmt.Sprintf("no new pod may be added: at most %d may exist (replicas %d, maxSurge %d)",
				p.room.Most(p.replicas), p.replicas, p.room.Surge)})
	}
	if old := total(p.old); old > p.replicas-target {
		var sure int32
		for _, m := range p.all {
			sure += p.sure(m)
		}
		if least := p.room.Least(p.replicas); sure <= least {
			p.waits = append(p.waits, plan.Wait{Reason: "MaxUnavailable", On: object.RefOf(p.fresh.set),
				Message: fmt.Sprintf("%d of the old pods stay: %d pods are available, %d must be (replicas %d, maxUnavailable %d)",
					old, sure, least, p.replicas, p.room.Unavailable)})
		}
	}
}
