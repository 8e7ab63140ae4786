// Package usage keeps the status of ResourceQuotas: what they limit, and what the objects of their
// namespace use of it, counted anew.
//
// It owns a pure planner. Admission, which adds to the usage before an object is made, is the API
// server's; the arithmetic of both is package quota's. It refuses to remember: every count is whole,
// so that what was charged for nothing, or used without a charge, is put right.
package usage

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/quota"
	"coracle/internal/resource"
)

const (
	// Rest bounds how often a quota is counted: a burst of changes is one count, at the end of it.
	Rest = 50 * time.Millisecond
	// Recount is how often a quota is counted though nothing is known to have changed, for the
	// sake of charges whose outcome nobody learned. It is upstream's resync period.
	Recount = 5 * time.Minute
)

// Controller returns the planner.
func Controller() plan.Controller {
	ctl := plan.Controller{Name: "resourcequota-controller", For: resource.ResourceQuotas, Rest: Rest, Plan: planQuota}
	for _, res := range resource.All() {
		if quota.Counted(res) {
			ctl.Watches = append(ctl.Watches, plan.Watch{Resource: res, Keys: limiting(res)})
		}
	}
	return ctl
}

// limiting asks for the quotas that limit what a change to an object of a kind alters the usage of.
func limiting(res resource.Resource) func(r object.Reader, before, after object.Object) []object.Key {
	return func(r object.Reader, before, after object.Object) []object.Key {
		o := after
		if o == nil {
			o = before
		}
		var keys []object.Key
		for _, q := range r.List(resource.ResourceQuotas, o.GetNamespace()) {
			if slices.Contains(quota.Kinds(q.(*corev1.ResourceQuota)), res) {
				keys = append(keys, object.KeyOf(q))
			}
		}
		if len(keys) == 0 || before != nil && after != nil && !quota.Bears(res, before, after) {
			return nil
		}
		return keys
	}
}

func planQuota(in plan.Input) plan.Plan {
	o, ok := in.Reader.Get(resource.ResourceQuotas, in.Key.Namespace, in.Key.Name)
	if !ok {
		return plan.Plan{}
	}
	q := o.(*corev1.ResourceQuota)
	used, again := quota.Count(q, func(res resource.Resource) []object.Object {
		return in.Reader.List(res, q.Namespace)
	}, in.Now)
	p := plan.Plan{Again: in.Now.Add(Recount), Why: plan.Why{State: plan.Steady}}
	if !again.IsZero() && again.Before(p.Again) {
		p.Again = again
	}
	if quota.Equal(q.Status.Hard, q.Spec.Hard) && quota.Equal(q.Status.Used, used) {
		return p
	}
	next := q.DeepCopy()
	next.Status = corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: used}
	p.Status = next
	p.Why = plan.Why{State: plan.Progressing, Next: "write down what is used"}
	return p
}
