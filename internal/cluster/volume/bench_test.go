package volume_test

import (
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/view"
)

// subscriber signals each claim's turn to Bound.
func subscriber(bound chan<- struct{}) func(view.Change) {
	return func(ch view.Change) {
		c, ok := ch.After.(*corev1.PersistentVolumeClaim)
		if !ok || c.Status.Phase != corev1.ClaimBound {
			return
		}
		if before, ok := ch.Before.(*corev1.PersistentVolumeClaim); !ok || before.Status.Phase != corev1.ClaimBound {
			bound <- struct{}{}
		}
	}
}
