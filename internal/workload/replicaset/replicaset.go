// Package replicaset plans ReplicaSets and ReplicationControllers: exactly as many matching,
// controlled pods as asked for, neither more nor fewer.
//
// It owns the choice of pods to adopt, release, create and delete, and the status. It refuses
// rollouts (package deployment) and carrying anything out (package loop).
//
// Behaviour: the Kubernetes documentation of ReplicaSet, KEP-2255 (pod deletion cost), KEP-2185
// (random pod selection on scale-down), KEP-3973 (pod replacement policy, by annotation).
package replicaset

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/diagnose"
	"coracle/internal/workload/refusal"
	"coracle/internal/workload/rollout"
)

// Burst is how many pods one plan creates or deletes at most, so that a big set neither holds up
// the others nor acts for long on an old picture. What is left comes with the next plan.
const Burst = 500

// Controller plans ReplicaSets.
func Controller() plan.Controller {
	return plan.Controller{
		Name:    "replicaset-controller",
		For:     resource.ReplicaSets,
		Watches: append(refusal.Watches(resource.ReplicaSets, lacks), claim.Watch(resource.Pods, resource.ReplicaSets, selectorOf, alike)),
		Indexes: diagnose.Indexes(),
		Plan:    planFor(resource.ReplicaSets),
	}
}

// ReplicationController plans ReplicationControllers.
func ReplicationController() plan.Controller {
	return plan.Controller{
		Name:    "replication-controller",
		For:     resource.ReplicationControllers,
		Watches: append(refusal.Watches(resource.ReplicationControllers, lacks), claim.Watch(resource.Pods, resource.ReplicationControllers, selectorOf, alike)),
		Indexes: diagnose.Indexes(),
		Plan:    planFor(resource.ReplicationControllers),
	}
}

func planFor(res resource.Resource) func(plan.Input) plan.Plan {
	return func(in plan.Input) plan.Plan {
		o, ok := in.Reader.Get(res, in.Key.Namespace, in.Key.Name)
		if !ok {
			return plan.Plan{}
		}
		s, err := setOf(o)
		if err != nil {
			return plan.Plan{Why: plan.Why{State: plan.Stuck, Waits: []plan.Wait{{
				Reason: "InvalidSelector", Message: err.Error(), Hint: "correct spec.selector"}}}}
		}
		return decide(in, s)
	}
}

// picture is what a decision rests on: the set and its pods, sorted by state.
type picture struct {
	plan.Input
	set set
	// active pods count; terminating ones are on their way out; ended pods are in neither.
	active, terminating []*corev1.Pod
	// lack is how many pods are missing (above 0) or too many (below).
	lack int
	// held says how many of lack must wait for terminating pods to go.
	held int
	// refused are the pods that their nodes did not take; while they are paused no other is made.
	refused []*corev1.Pod
	paused  time.Time
}

func decide(in plan.Input, s set) plan.Plan {
	pods, edits := claim.Objects(in.Reader, resource.Pods, claim.Owner{Object: s.object, Selector: s.selector}, adoptable)
	p := &picture{Input: in, set: s}
	for _, o := range pods {
		switch pod := o.(*corev1.Pod); {
		case podstate.Active(pod):
			p.active = append(p.active, pod)
		case podstate.Terminating(pod):
			p.terminating = append(p.terminating, pod)
		case podstate.Refused(pod) && pod.DeletionTimestamp == nil:
			p.refused = append(p.refused, pod)
		}
	}
	p.lack = int(s.replicas) - len(p.active)
	if p.lack > 0 && rollout.ReplacementOf(s.object.GetAnnotations()) == rollout.TerminationComplete {
		p.held = min(p.lack, len(p.terminating))
	}
	p.rest()

	out := plan.Plan{Actions: edits}
	if s.object.GetDeletionTimestamp() == nil {
		out.Actions = append(out.Actions, p.replicaActions()...)
	}
	counts, next := p.count()
	if out.Again = next; !p.paused.IsZero() && (next.IsZero() || p.paused.Before(next)) {
		out.Again = p.paused
	}
	status := s.status(counts, p.failure(), in.Now)
	if status != nil {
		out.Status = status
	}
	out.Why = p.why(counts)
	return out
}

// adoptable keeps a set from taking pods that have ended: they would never count.
func adoptable(o object.Object) bool { return podstate.Active(o.(*corev1.Pod)) }

func (p *picture) replicaActions() []plan.Action {
	switch n := p.lack - p.held; {
	case n > 0 && !p.paused.IsZero():
	case n > 0 && !p.namespaceEnds():
		return p.creations(min(n, Burst))
	case n < 0:
		return p.deletions(min(-n, Burst))
	}
	return nil
}

// namespaceEnds says that the API would refuse every new pod.
func (p *picture) namespaceEnds() bool {
	ns, ok := p.Reader.Get(resource.Namespaces, "", p.set.object.GetNamespace())
	return ok && ns.GetDeletionTimestamp() != nil
}

func (p *picture) creations(n int) []plan.Action {
	about := object.RefOf(p.set.object)
	var create plan.Action = plan.Create{ // one for all: they differ in the name alone, which the API gives
		Object:  p.set.newPod(),
		Because: fmt.Sprintf("%d of %d pods exist", len(p.active), p.set.replicas),
		Done: &plan.Event{Regarding: about, Type: corev1.EventTypeNormal, Reason: "SuccessfulCreate",
			Message: "Created pod: " + plan.TellName},
		Failed: &plan.Event{Regarding: about, Type: corev1.EventTypeWarning, Reason: failedCreate,
			Message: "Error creating: " + plan.TellError},
	}
	actions := make([]plan.Action, n)
	for i := range actions {
		actions[i] = create
	}
	return actions
}

func (p *picture) deletions(n int) []plan.Action {
	about := object.RefOf(p.set.object)
	done := &plan.Event{Regarding: about, Type: corev1.EventTypeNormal, Reason: "SuccessfulDelete",
		Message: "Deleted pod: " + plan.TellName}
	failed := &plan.Event{Regarding: about, Type: corev1.EventTypeWarning, Reason: failedDelete,
		Message: "Error deleting: " + plan.TellError}
	because := fmt.Sprintf("%d pods exist, %d are asked for", len(p.active), p.set.replicas)
	actions := make([]plan.Action, 0, n)
	for _, pod := range p.victims(n) {
		actions = append(actions, plan.Delete{Object: object.RefOf(pod), Because: because, Done: done, Failed: failed})
	}
	return actions
}

// newPod is the pod that the template describes, to be named by the API.
func (s *set) newPod() *corev1.Pod {
	t := s.template
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       s.object.GetNamespace(),
			GenerateName:    s.object.GetName() + "-",
			Labels:          t.Labels,
			Annotations:     t.Annotations,
			Finalizers:      t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{claim.Reference(s.object)},
		},
		Spec: t.Spec,
	}
}
