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
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/diagnose"
	"coracle/internal/workload/refusal"
	"coracle/internal/workload/rollout"
	"coracle/internal/workload/routed"
	"coracle/internal/workload/tally"
)

// Burst is how many pods one plan creates or deletes at most, so that a big set neither holds up
// the others nor acts for long on an old snapshot. What is left comes with the next plan.
const Burst = 500

// Controller plans ReplicaSets.
func Controller() plan.Controller {
	return plan.Controller{
		Name:      "replicaset-controller",
		For:       resource.ReplicaSets,
		Watches:   append(append(refusal.Watches(resource.ReplicaSets, lacks), claim.Watch(resource.Pods, resource.ReplicaSets, Selector, alike)), routed.Watches("ReplicaSet")...),
		Indexes:   append(diagnose.Indexes(), routed.Indexes()...),
		Summaries: []object.Summary{tally.Summary, claim.Orphans(resource.Pods)},
		Plan:      planFor(resource.ReplicaSets),
	}
}

// ReplicationController plans ReplicationControllers.
func ReplicationController() plan.Controller {
	return plan.Controller{
		Name: "replication-controller",
		For:  resource.ReplicationControllers,
		Watches: append(refusal.Watches(resource.ReplicationControllers, lacks), claim.Watch(resource.Pods, resource.ReplicationControllers, Selector, alike),
			plan.Watch{Resource: resource.Leases, Keys: none}, plan.Watch{Resource: resource.Nodes, Keys: none}),
		Indexes:   append(diagnose.Indexes(), routed.Indexes()...),
		Summaries: []object.Summary{tally.Summary, claim.Orphans(resource.Pods)},
		Plan:      planFor(resource.ReplicationControllers),
	}
}

// none: a ReplicationController rolls nothing out by itself; what its pods wait for must be in the snapshot all the
// same.
func none(object.Reader, object.Object, object.Object) []object.Key { return nil }

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

// snapshot is what a decision rests on: the set and the count of its pods.
type snapshot struct {
	plan.Input
	set set
	led *routed.Book
	// groups are the set's pods. Where some are to be adopted or released, pods are they one by one, as the edits leave
	// them.
	groups []*tally.Group
	pods   []object.Object
	edits  []plan.Action
	// active pods count; terminating ones are on their way out; ended pods are in neither.
	active, terminating int
	// lack is how many pods are missing (above 0) or too many (below).
	lack int
	// held says how many of lack must wait for terminating pods to go.
	held int
	// paused is until when no pod is made in the place of those that their nodes did not take; zero when pods may be made.
	paused time.Time
	counts counts
	// unknown are ready pods that not all who lead connections know.
	unknown []string
}

func decide(in plan.Input, s set) plan.Plan {
	p := &snapshot{Input: in, set: s, led: routed.New(in.Reader, in.Now)}
	p.claim()
	for _, g := range p.groups {
		p.active += g.Active
		p.terminating += g.Terminating
	}
	p.lack = int(s.replicas) - p.active
	if p.lack > 0 && rollout.ReplacementOf(s.object.GetAnnotations()) == rollout.TerminationComplete {
		p.held = min(p.lack, p.terminating)
	}
	p.rest()

	out := plan.Plan{Actions: p.edits}
	if s.object.GetDeletionTimestamp() == nil {
		out.Actions = append(out.Actions, p.replicaActions()...)
	}
	p.counts, out.Again = p.count()
	if !p.paused.IsZero() && (out.Again.IsZero() || p.paused.Before(out.Again)) {
		out.Again = p.paused
	}
	if status := s.status(p.counts, p.failure(), in.Now); status != nil {
		out.Status = status
	}
	out.Why = p.why()
	return out
}

// claim finds the set's pods. The tally tells whether any is to be adopted or released; only then is each looked at.
func (p *snapshot) claim() {
	owner := claim.Owner{Object: p.set.object, Selector: p.set.selector}
	own := tally.Of(p.Reader, p.set.object).Groups()
	astray := func(g *tally.Group) bool {
		return g.Namespace == p.set.object.GetNamespace() && !p.set.selector.Matches(labels.Set(g.Labels))
	}
	dying := p.set.object.GetDeletionTimestamp() != nil
	if !dying && (slices.ContainsFunc(own, astray) || claim.AnyOrphan(p.Reader, resource.Pods, owner)) {
		p.pods, p.edits = claim.Objects(p.Reader, resource.Pods, owner, adoptable)
		counted := tally.New()
		for _, pod := range p.pods {
			counted.Change(nil, pod)
		}
		p.groups = counted.Groups()
		return
	}
	for _, g := range own {
		if g.Namespace == p.set.object.GetNamespace() && !astray(g) {
			p.groups = append(p.groups, g)
		}
	}
}

// each returns the active pods one by one: for deletions, which must choose among all.
func (p *snapshot) each() []*corev1.Pod {
	pods := p.pods
	if pods == nil {
		owner := claim.Owner{Object: p.set.object, Selector: p.set.selector}
		pods, _ = claim.Objects(p.Reader, resource.Pods, owner, adoptable)
	}
	active := make([]*corev1.Pod, 0, p.active)
	for _, o := range pods {
		if pod := o.(*corev1.Pod); podstate.Active(pod) {
			active = append(active, pod)
		}
	}
	return active
}

// pod returns a pod of the set by name; nil when the snapshot has none.
func (p *snapshot) pod(name string) *corev1.Pod {
	o, ok := p.Reader.Get(resource.Pods, p.set.object.GetNamespace(), name)
	if !ok {
		return nil
	}
	return o.(*corev1.Pod)
}

// adoptable keeps a set from taking pods that have ended: they would never count.
func adoptable(o object.Object) bool { return podstate.Active(o.(*corev1.Pod)) }

func (p *snapshot) replicaActions() []plan.Action {
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
func (p *snapshot) namespaceEnds() bool {
	ns, ok := p.Reader.Get(resource.Namespaces, "", p.set.object.GetNamespace())
	return ok && ns.GetDeletionTimestamp() != nil
}

func (p *snapshot) creations(n int) []plan.Action {
	about := object.RefOf(p.set.object)
	var create plan.Action = plan.Create{ // one for all: they differ in the name alone, which the API gives
		Object:  p.set.newPod(),
		Because: fmt.Sprintf("%d of %d pods exist", p.active, p.set.replicas),
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

func (p *snapshot) deletions(n int) []plan.Action {
	about := object.RefOf(p.set.object)
	done := &plan.Event{Regarding: about, Type: corev1.EventTypeNormal, Reason: "SuccessfulDelete",
		Message: "Deleted pod: " + plan.TellName}
	failed := &plan.Event{Regarding: about, Type: corev1.EventTypeWarning, Reason: failedDelete,
		Message: "Error deleting: " + plan.TellError}
	because := fmt.Sprintf("%d pods exist, %d are asked for", p.active, p.set.replicas)
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
