// Package refusal is what workloads make of the API's refusals: when one that a ResourceQuota or a
// LimitRange caused may be over, and what a user can do about it.
//
// It owns the watches that have a workload try again at once, where upstream waits for its backoff to
// end, and the hints. It refuses to judge whether a write would be let through: the API does.
package refusal

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/quota"
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

// Hint says what a user can do about a refusal of the API, by its message; "" when there is nothing
// to say.
func Hint(message string) string {
	switch {
	case strings.Contains(message, "exceeded quota"):
		return "raise the ResourceQuota, or free what it counts"
	case strings.Contains(message, "failed quota") && strings.Contains(message, "must specify"):
		return "set these requests or limits in the pod template, or create a LimitRange that gives defaults"
	case strings.Contains(message, " usage per ") || strings.Contains(message, "max limit to request ratio per "):
		return "change the requests and limits in the pod template or claim, or the LimitRange of the namespace (kubectl describe limits)"
	case strings.Contains(message, "is forbidden"), strings.Contains(message, "is invalid"):
		return "change the pod template so that it is allowed, or the policy that forbids it"
	}
	return ""
}
