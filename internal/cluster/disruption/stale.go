package disruption

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// stale takes back the announcement that a pod is about to be disrupted when, two minutes later,
// nobody deleted it (KEP-3329).
func stale() plan.Controller {
	return plan.Controller{
		Name: "disruption-controller", For: resource.Pods, Plan: planStale,
		Cares: func(before, after object.Object) bool {
			return after != nil && announced(after.(*corev1.Pod)) != nil && (before == nil || announced(before.(*corev1.Pod)) == nil)
		},
	}
}

// announced returns the condition of a living pod that says it is about to be disrupted.
func announced(p *corev1.Pod) *corev1.PodCondition {
	if p.DeletionTimestamp != nil || podstate.Ended(p) {
		return nil
	}
	at := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue
	})
	if at < 0 {
		return nil
	}
	return &p.Status.Conditions[at]
}

func planStale(in plan.Input) plan.Plan {
	o, ok := in.Reader.Get(resource.Pods, in.Key.Namespace, in.Key.Name)
	if !ok {
		return plan.Plan{}
	}
	c := announced(o.(*corev1.Pod))
	if c == nil {
		return plan.Plan{}
	}
	if ends := c.LastTransitionTime.Add(DeletionTimeout); in.Now.Before(ends) {
		return plan.Plan{Again: ends}
	}
	next := o.(*corev1.Pod).DeepCopy()
	c = announced(next)
	c.Status, c.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(in.Now)
	return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, Subresource: "status", Because: "its disruption was announced and did not come"}}}
}
