// Package refusal is what workloads make of the API's refusals: when one that a ResourceQuota or a
// LimitRange caused may be over, and what a user can do about it.
//
// It owns the watches that have a workload try again at once, where upstream waits for its backoff to
// end, and the hints. It refuses to judge whether a write would be let through: the API does.
package refusal

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/quota"
	"coracle/internal/quota/limits"
	"coracle/internal/resource"
)

// Watches returns the watches on ResourceQuotas and LimitRanges for workloads of a kind: when there
// is more left of something, or the bounds change, those of the namespace that lack something are
// decided about again. lacks says so of a workload by its status; it may say so of too many.
func Watches(workloads resource.Resource, lacks func(object.Object) bool) []plan.Watch {
	waiting := func(r object.Reader, namespace string) []object.Key {
		var keys []object.Key
		for _, o := range r.List(workloads, namespace) {
			if lacks(o) {
				keys = append(keys, object.KeyOf(o))
			}
		}
		return keys
	}
	return []plan.Watch{
		{Resource: resource.ResourceQuotas, Keys: func(r object.Reader, before, after object.Object) []object.Key {
			was, _ := before.(*corev1.ResourceQuota)
			is, _ := after.(*corev1.ResourceQuota)
			if !quota.Freed(was, is) {
				return nil
			}
			return waiting(r, was.Namespace)
		}},
		{Resource: resource.LimitRanges, Keys: func(r object.Reader, before, after object.Object) []object.Key {
			was, _ := before.(*corev1.LimitRange)
			is, _ := after.(*corev1.LimitRange)
			switch {
			case was != nil && is != nil && equality.Semantic.DeepEqual(was.Spec, is.Spec):
				return nil
			case is == nil:
				return waiting(r, was.Namespace)
			}
			return waiting(r, is.Namespace) // a new range may give the limits that a quota wants said
		}},
	}
}

// hints are what a user can do about refusals, by the causes that the API gives for them. A quota whose usage is not known
// yet has none: that passes by itself.
var hints = map[metav1.CauseType]string{
	quota.Exceeded:  "raise the ResourceQuota, or free what it counts",
	quota.Unsaid:    "set these requests or limits in the pod template, or create a LimitRange that gives defaults",
	quota.Uncounted: "",
	limits.Outside: "change the requests and limits in the pod template or claim, or the LimitRange of the namespace" +
		" (kubectl describe limits)",
}

// Hint says what a user can do about a refusal of the API; "" when there is nothing to say.
func Hint(s metav1.Status) string {
	if s.Details != nil {
		for _, c := range s.Details.Causes {
			if hint, known := hints[c.Type]; known {
				return hint
			}
		}
	}
	if s.Reason == metav1.StatusReasonForbidden || s.Reason == metav1.StatusReasonInvalid {
		return "change the pod template so that it is allowed, or the policy that forbids it"
	}
	return ""
}

// CauseHint is Hint for one cause.
func CauseHint(cause metav1.CauseType) string { return hints[cause] }

// On is the object that a refusal of the API is for: the quota that refused it; zero where no quota
// did.
func On(s metav1.Status, namespace string) object.Ref {
	if r, ok := quota.RefusalOf(s); ok {
		return object.Ref{Resource: resource.ResourceQuotas, Key: object.Key{Namespace: namespace, Name: r.Quota}}
	}
	return object.Ref{}
}
