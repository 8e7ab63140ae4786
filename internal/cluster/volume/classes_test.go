package volume_test

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/cluster/volume"
	"coracle/internal/view"
)

// classes are the built-in StorageClasses, as the API server makes them.
func classes() []*storagev1.StorageClass {
	wait, now := storagev1.VolumeBindingWaitForFirstConsumer, storagev1.VolumeBindingImmediate
	remove, grow := corev1.PersistentVolumeReclaimDelete, true
	return []*storagev1.StorageClass{
		{
			ObjectMeta:  metav1.ObjectMeta{Name: "local", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
			Provisioner: volume.Local, VolumeBindingMode: &wait, ReclaimPolicy: &remove, AllowVolumeExpansion: &grow,
		},
		{
			ObjectMeta:  metav1.ObjectMeta{Name: "shared"},
			Provisioner: volume.Shared, VolumeBindingMode: &now, ReclaimPolicy: &remove, AllowVolumeExpansion: &grow,
		},
	}
}

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
