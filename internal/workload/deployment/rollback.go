package deployment

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
)

// Automatic rollback, coracle.io/auto-rollback: "true". When a template misses its progress
// deadline, the Deployment goes back to the template that was last fully available.
//
// Which one that is, each replica set knows from its birth: lastAvailableKey names the replica
// set that was complete when this one was begun, or failing that the one its predecessor named.
//
// It never flaps. A template that was rolled back is remembered in rolledFromKey as long as its replica set
// exists, and is not rolled back again when somebody (or a GitOps agent) applies it again:
// it then misses its deadline as it would without the annotation, with the old pods serving. And a
// template that is itself the last available one is never left.
const (
	autoRollbackKey  = "coracle.io/auto-rollback"
	lastAvailableKey = "coracle.io/last-available"
	rolledFromKey    = "coracle.io/rolled-back-from"
	rolledToKey      = "coracle.io/rolled-back-to"
)

func (p *decision) autoRollback() bool { return p.d.Annotations[autoRollbackKey] == "true" }

// noteLastAvailable records on a replica set that becomes the newest which one was fully
// available before it.
func (p *decision) noteLastAvailable(m *member) {
	if !p.autoRollback() {
		return
	}
	before := p.withRevision(p.d.Annotations[revisionKey])
	if before == nil {
		return
	}
	name := before.annotation(lastAvailableKey)
	if c := condition(p.d, appsv1.DeploymentProgressing); c != nil && c.Reason == newReplicaSetAvailable {
		name = before.set.Name
	}
	m.annotate(lastAvailableKey, name, "automatic rollback needs to know where to go back to")
}

func (p *decision) withRevision(revision string) *member {
	i := slices.IndexFunc(p.all, func(m *member) bool { return revision != "" && m.set.Annotations[revisionKey] == revision })
	if i < 0 {
		return nil
	}
	return p.all[i]
}

// rollback plans the way back, when it is time for it and there is one.
func (p *decision) rollback() (plan.Plan, bool) {
	if !p.failed() || p.d.Spec.Paused {
		return plan.Plan{}, false
	}
	target, no := p.wayBack()
	if target == nil {
		p.noWayBack = no
		return plan.Plan{}, false
	}
	changed := p.d.DeepCopy()
	hash := target.set.DeepCopy().Spec.Template
	hash.Labels = withoutHash(hash.Labels)
	changed.Spec.Template = hash
	changed.Annotations[rolledFromKey] = strings.Join(append(p.rolledBack(), p.fresh.set.Name), ",")
	changed.Annotations[rolledToKey] = target.set.Name
	if cause := target.set.Annotations[causeKey]; cause != "" {
		changed.Annotations[causeKey] = cause
	} else {
		delete(changed.Annotations, causeKey)
	}
	message := fmt.Sprintf("replica set %q missed its progress deadline; going back to revision %s, replica set %q, which was available",
		p.fresh.set.Name, target.set.Annotations[revisionKey], target.set.Name)
	return plan.Plan{
		Actions: []plan.Action{plan.Update{Object: changed, Because: message, Done: &plan.Event{Regarding: object.RefOf(p.d),
			Type: corev1.EventTypeWarning, Reason: "DeploymentRollback",
			Message: fmt.Sprintf("Rolled back deployment %q to revision %s: replica set %q exceeded its progress deadline",
				p.d.Name, target.set.Annotations[revisionKey], p.fresh.set.Name)}}},
		Why: plan.Why{State: plan.Progressing, Next: message},
	}, true
}

// failed reports whether automatic rollback is asked for and the present template has missed its
// deadline, which the status says since an earlier pass.
func (p *decision) failed() bool {
	if !p.autoRollback() || p.fresh == nil {
		return false
	}
	c := condition(p.d, appsv1.DeploymentProgressing)
	return c != nil && c.Reason == timedOut && p.d.Status.ObservedGeneration == p.d.Generation &&
		p.d.Annotations[revisionKey] == p.fresh.set.Annotations[revisionKey]
}

// wayBack returns the replica set to go back to, or says why there is none.
func (p *decision) wayBack() (target *member, no string) {
	name := p.fresh.set.Annotations[lastAvailableKey]
	switch {
	case slices.Contains(p.rolledBack(), p.fresh.set.Name):
		return nil, fmt.Sprintf("the template of replica set %q was rolled back once already and came back: it is not rolled back again", p.fresh.set.Name)
	case name == "":
		return nil, "no earlier revision is known to have been available"
	case name == p.fresh.set.Name:
		return nil, "the present template is the one that was last available"
	}
	i := slices.IndexFunc(p.old, func(m *member) bool { return m.set.Name == name && m.set.DeletionTimestamp == nil })
	if i < 0 {
		return nil, fmt.Sprintf("replica set %q, the last one that was available, is gone (revisionHistoryLimit)", name)
	}
	return p.old[i], ""
}

// rolledBack returns the names of the replica sets that were rolled back and still exist.
func (p *decision) rolledBack() []string {
	names := strings.FieldsFunc(p.d.Annotations[rolledFromKey], func(r rune) bool { return r == ',' })
	return slices.DeleteFunc(names, func(name string) bool {
		return !slices.ContainsFunc(p.all, func(m *member) bool { return m.set.Name == name })
	})
}
