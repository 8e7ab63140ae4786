// Package deployment plans Deployments: replica sets for the revisions of a pod template, and the
// moves between them that roll a new one out.
//
// It owns revisions and their history, rolling updates, Recreate, scaling in the middle of a
// rollout, canary steps, automatic rollback, and the conditions that tell of all this. It
// refuses to touch pods, which are the business of package replicaset: it looks at them only to be sure
// before it takes some away, and at rest not even then.
//
// Behaviour: the Kubernetes documentation of Deployments, KEP-3973 (terminating replicas and pod
// replacement policy). What differs on purpose is in docs/design.
package deployment

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/refusal"
	"coracle/internal/workload/succession"
	"coracle/internal/workload/tally"
)

const controllerName = "deployment-controller"

// Controller plans Deployments.
func Controller() plan.Controller {
	return plan.Controller{
		Name:        controllerName,
		For:         resource.Deployments,
		Watches:     append(refusal.Watches(resource.Deployments, lacks), claim.Watch(resource.ReplicaSets, resource.Deployments, Selector, nil)),
		Summaries:   []object.Summary{tally.Summary},
		Successions: []plan.Succession{{Resource: resource.ReplicaSets, Of: succession.Of("Deployment")}},
		Plan:        planFor,
	}
}

// Selector reads which replica sets and pods a Deployment calls its own.
func Selector(o object.Object) (labels.Selector, error) {
	return metav1.LabelSelectorAsSelector(o.(*appsv1.Deployment).Spec.Selector)
}

func planFor(in plan.Input) plan.Plan {
	o, ok := in.Reader.Get(resource.Deployments, in.Key.Namespace, in.Key.Name)
	if !ok {
		return plan.Plan{}
	}
	d := o.(*appsv1.Deployment)
	selector, err := Selector(d)
	if err != nil {
		return stuck("InvalidSelector", "spec.selector: "+err.Error())
	}
	if selector.Empty() {
		return selectingAll(d)
	}
	sets, edits := claim.Objects(in.Reader, resource.ReplicaSets, claim.Owner{Object: d, Selector: selector}, nil)
	if len(edits) > 0 {
		// Owners first: what an adopted replica set means for the rollout is decided when it is ours.
		return plan.Plan{Actions: edits, Why: plan.Why{State: plan.Progressing,
			Next: fmt.Sprintf("change the owner of %d replica sets", len(edits))}}
	}
	return newDecision(in, d, sets).decide()
}

func stuck(reason, message string) plan.Plan {
	return plan.Plan{Why: plan.Why{State: plan.Stuck, Waits: []plan.Wait{{Reason: reason, Message: message, Hint: "correct spec.selector"}}}}
}

// selectingAll refuses a selector that would take every pod of the namespace.
func selectingAll(d *appsv1.Deployment) plan.Plan {
	const message = "This deployment is selecting all pods. A non-empty selector is required."
	out := stuck("SelectingAll", message)
	if d.Status.ObservedGeneration < d.Generation {
		changed := *d
		changed.Status.ObservedGeneration = d.Generation
		out.Status = &changed
		out.Events = []plan.Event{{Regarding: object.RefOf(d), Type: corev1.EventTypeWarning, Reason: "SelectingAll", Message: message}}
	}
	return out
}

// decide chooses what to do about the whole snapshot. Sizes and annotations are first changed on
// the members; the actions are read off them at the end, one update for each replica set.
func (p *decision) decide() plan.Plan {
	if p.d.DeletionTimestamp != nil {
		return p.finish()
	}
	if back, ok := p.rollback(); ok {
		return back
	}
	p.adjustFresh()
	switch {
	case p.d.Spec.Paused:
		p.scale()
	case p.scaling():
		p.scale()
	case p.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		p.recreate()
	default:
		p.roll()
	}
	return p.finish()
}

// finish turns the decision into a plan.
func (p *decision) finish() plan.Plan {
	out := plan.Plan{}
	if p.creation != nil {
		// Only where this very template was seen before may a replica set of it have existed.
		existed := p.d.Status.ObservedGeneration == p.d.Generation
		w, until, held := succession.Hold(p.Input, controllerName, resource.ReplicaSets, object.KeyOf(p.creation.action.Object), p.d, existed)
		if held {
			return plan.Plan{Again: until, Why: plan.Why{State: plan.Waiting, Waits: []plan.Wait{w}}}
		}
	}
	status := p.status()
	if p.creation != nil {
		out.Actions = append(out.Actions, p.creation.action)
	}
	out.Actions = append(out.Actions, p.updates()...)
	if p.d.DeletionTimestamp == nil && (p.d.Spec.Paused || p.complete(&status.Status)) {
		out.Actions = append(out.Actions, p.forget()...)
	}
	if p.worthWriting(status) {
		out.Status, out.Events = status, p.events
	}
	out.Events = append(out.Events, p.told...)
	if p.creation == nil {
		out.Again = p.again
	}
	out.Why = p.why(&status.Status)
	return out
}

// lacks says that a Deployment may have been refused a replica set: not all of its pods are of the
// present template, by its status.
func lacks(o object.Object) bool {
	d, ok := o.(*appsv1.Deployment)
	return ok && (d.Status.ObservedGeneration < d.Generation || d.Spec.Replicas == nil || d.Status.UpdatedReplicas < *d.Spec.Replicas)
}
