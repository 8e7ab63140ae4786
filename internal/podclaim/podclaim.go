// Package podclaim names the claims behind a pod's volumes.
//
// It owns one rule: a volume's claim is the one that it refers to or, of a generic ephemeral volume, the one that is made
// for it and named after pod and volume (KEP-1698). It refuses to say whether there is such a claim, and whose it is.
package podclaim

import (
	corev1 "k8s.io/api/core/v1"
	ephemeralvolume "k8s.io/component-helpers/storage/ephemeral"
)

// Of returns the name of the claim behind a volume of a pod; empty where there is none.
func Of(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return ephemeralvolume.VolumeClaimName(pod, v)
	}
	return ""
}

// All returns the names of the claims behind a pod's volumes, in the order of the volumes.
func All(pod *corev1.Pod) (names []string) {
	for i := range pod.Spec.Volumes {
		if name := Of(pod, &pod.Spec.Volumes[i]); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Uses says whether a claim of the pod's namespace is behind one of its volumes.
func Uses(pod *corev1.Pod, claim string) bool {
	for i := range pod.Spec.Volumes {
		if name := Of(pod, &pod.Spec.Volumes[i]); name != "" && name == claim {
			return true
		}
	}
	return false
}
