package admit

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"

	"coracle/internal/quota/limits"
	"coracle/internal/resource"
)

// limitRanger holds pods and claims to the LimitRanges of their namespace, and gives containers what
// these say of resources that they leave out. The containers of a pod are fixed: an update is not
// looked at, nor is a claim that is being deleted.
var limitRanger = plugin{
	name:       "LimitRanger",
	resources:  []resource.Resource{resource.Pods, resource.PersistentVolumeClaims},
	operations: []admission.Operation{admission.Create, admission.Update},
	needs:      resource.LimitRanges,
	mutate: func(_ context.Context, a admission.Attributes, c Cluster) error {
		pod, ok := a.GetObject().(*corev1.Pod)
		if !ok || a.GetSubresource() != "" || a.GetOperation() != admission.Create {
			return nil
		}
		for _, r := range c.List(resource.LimitRanges, a.GetNamespace()) {
			limits.Default(r.(*corev1.LimitRange), pod)
		}
		return nil
	},
	validate: func(_ context.Context, a admission.Attributes, c Cluster) error {
		if a.GetSubresource() != "" {
			return nil
		}
		judge := func(*corev1.LimitRange) error { return nil }
		switch o := a.GetObject().(type) {
		case *corev1.Pod:
			if a.GetOperation() != admission.Create {
				return nil
			}
			judge = func(r *corev1.LimitRange) error { return limits.CheckPod(r, o) }
		case *corev1.PersistentVolumeClaim:
			old, _ := a.GetOldObject().(*corev1.PersistentVolumeClaim)
			if old != nil && old.DeletionTimestamp != nil {
				return nil
			}
			judge = func(r *corev1.LimitRange) error { return limits.CheckClaim(r, o, old) }
		}
		for _, r := range c.List(resource.LimitRanges, a.GetNamespace()) {
			bounds := r.(*corev1.LimitRange)
			if err := judge(bounds); err != nil {
				return limits.Blame(admission.NewForbidden(a, err), bounds, err)
			}
		}
		return nil
	},
}
