package sim

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// greedy is what the scheduler reaches the API by, with a defect in whom it preempts.
type greedy struct {
	client.Interface
	// instead names the pod that goes in place of a victim, or along with it.
	instead func(victim, other *corev1.Pod) bool
	also    bool
}

// Delete implements client.Interface.
func (g greedy) Delete(ctx context.Context, ref object.Ref, opts metav1.DeleteOptions) (object.Object, error) {
	o, err := g.Get(ctx, ref.Resource, ref.Namespace, ref.Name)
	if err != nil {
		return nil, err
	}
	items, _, _ := g.List(ctx, resource.Pods, client.ListOptions{Namespace: ref.Namespace})
	for _, other := range items {
		p := other.(*corev1.Pod)
		if p.UID == o.GetUID() || p.DeletionTimestamp != nil || p.Spec.NodeName == "" || !g.instead(o.(*corev1.Pod), p) {
			continue
		}
		if !g.also {
			return g.Interface.Delete(ctx, object.RefOf(p), opts)
		}
		if _, err := g.Interface.Delete(ctx, ref, opts); err != nil {
			return nil, err
		}
		return g.Interface.Delete(ctx, object.RefOf(p), opts)
	}
	return g.Interface.Delete(ctx, ref, opts)
}

func preempts(also bool, instead func(victim, other *corev1.Pod) bool) func(client.Interface) client.Interface {
	return func(c client.Interface) client.Interface { return greedy{c, instead, also} }
}

// turns changes the template that a Deployment goes back to; nil has it not go back.
func turns(to func(in plan.Input, d *appsv1.Deployment) *appsv1.ReplicaSet) func(plan.Input, plan.Plan) plan.Plan {
	return each(func(in plan.Input, a plan.Action) plan.Action {
		u, ok := a.(plan.Update)
		d, is := u.Object.(*appsv1.Deployment)
		if !ok || !is {
			return a
		}
		was, there := in.Reader.Get(resource.Deployments, d.Namespace, d.Name)
		if !there || imageOf(was.(*appsv1.Deployment).Spec.Template) == imageOf(d.Spec.Template) {
			return a
		}
		rs := to(in, d)
		if rs == nil {
			return nil
		}
		d.Spec.Template.Spec = rs.Spec.Template.Spec
		return u
	})
}

// promiseMutations are defects that the promises of quotas, preemption, automatic rollback and of restarts and watches find.
var promiseMutations = []mutation{
	{Name: "a quota's count is taken from an old picture", Where: []feature{quotas}, Uncorrected: true},
	{Name: "one pod more than is in the way is preempted", Where: []feature{scarce}, Past: 440, Scheduler: preempts(true, func(victim, other *corev1.Pod) bool {
		return victim.Spec.NodeName == other.Spec.NodeName
	})},
	{Name: "a more important pod is preempted", Where: []feature{scarce}, Past: 440, Scheduler: preempts(false, func(victim, other *corev1.Pod) bool {
		return victim.Spec.NodeName == other.Spec.NodeName && priority(other) > priority(victim)
	})},
	{Name: "a pod on another node is preempted", Where: []feature{scarce}, Past: 440, Scheduler: preempts(false, func(victim, other *corev1.Pod) bool {
		return victim.Spec.NodeName != other.Spec.NodeName
	})},
	{Name: "a Deployment never goes back", Where: []feature{rollbacks}, Past: 1930, Controller: dep, Plan: turns(func(plan.Input, *appsv1.Deployment) *appsv1.ReplicaSet { return nil })},
	{Name: "deletions go by name once they are decided", Where: []feature{past}, Past: 340, Action: func(a plan.Action) plan.Action {
		if d, ok := a.(plan.Delete); ok {
			d.Object.UID = ""
			return d
		}
		return a
	}},
	{Name: "nobody hears of what a watch missed", Where: []feature{gaps}, Past: 290, Unheard: func(before, after object.Object) bool { return before != nil && after != nil }},
	{Name: "an owner goes before its dependents are let go", Where: []feature{gaps}, Past: 170, Controller: "generic-garbage-collector", Plan: func(_ plan.Input, p plan.Plan) plan.Plan {
		if n := len(p.Actions); n > 1 {
			if u, ok := p.Actions[n-1].(plan.Update); ok && len(u.When) > 0 {
				u.When = nil
				p.Actions = append([]plan.Action{u}, p.Actions[:n-1]...)
			}
		}
		return p
	}},
}
