package admit

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apiserver/pkg/admission"

	"coracle/internal/resource"
)

const (
	defaultClassMark     = "storageclass.kubernetes.io/is-default-class"
	betaDefaultClassMark = "storageclass.beta.kubernetes.io/is-default-class"
	claimProtection      = "kubernetes.io/pvc-protection"
	volumeProtection     = "kubernetes.io/pv-protection"
)

// defaultStorageClass gives a claim that names no class the default one.
var defaultStorageClass = plugin{
	name:       "DefaultStorageClass",
	resources:  []resource.Resource{resource.PersistentVolumeClaims},
	operations: []admission.Operation{admission.Create},
	mutate: func(_ context.Context, a admission.Attributes, c Cluster) error {
		claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
		if !ok || a.GetSubresource() != "" || claim.Spec.StorageClassName != nil {
			return nil
		}
		if _, named := claim.Annotations[corev1.BetaStorageClassAnnotation]; named {
			return nil
		}
		if class := DefaultClass(c.List(resource.StorageClasses, "")); class != nil {
			name := class.Name
			claim.Spec.StorageClassName = &name
		}
		return nil
	},
}

// DefaultClass picks the default among storage classes, as upstream does: of those marked, the
// newest, and of equally old ones the first by name. It is nil when none is marked.
func DefaultClass[T any](classes []T) *storagev1.StorageClass {
	var found *storagev1.StorageClass
	for _, obj := range classes {
		class, ok := any(obj).(*storagev1.StorageClass)
		if !ok || class.Annotations[defaultClassMark] != "true" && class.Annotations[betaDefaultClassMark] != "true" {
			continue
		}
		if found == nil || found.CreationTimestamp.Before(&class.CreationTimestamp) ||
			found.CreationTimestamp.Equal(&class.CreationTimestamp) && class.Name < found.Name {
			found = class
		}
	}
	return found
}

// inUseProtection keeps claims that a pod uses, and volumes that a claim is bound to, until they
// are let go; the volume controller removes the finalizers.
var inUseProtection = plugin{
	name:       "StorageObjectInUseProtection",
	resources:  []resource.Resource{resource.PersistentVolumeClaims, resource.PersistentVolumes},
	operations: []admission.Operation{admission.Create},
	mutate: func(_ context.Context, a admission.Attributes, _ Cluster) error {
		if a.GetSubresource() != "" {
			return nil
		}
		switch obj := a.GetObject().(type) {
		case *corev1.PersistentVolumeClaim:
			obj.Finalizers = with(obj.Finalizers, claimProtection)
		case *corev1.PersistentVolume:
			obj.Finalizers = with(obj.Finalizers, volumeProtection)
		}
		return nil
	},
}

func with(list []string, name string) []string {
	if slices.Contains(list, name) {
		return list
	}
	return append(list, name)
}

// claimResize lets a claim grow only where its class can follow.
var claimResize = plugin{
	name:       "PersistentVolumeClaimResize",
	resources:  []resource.Resource{resource.PersistentVolumeClaims},
	operations: []admission.Operation{admission.Update},
	validate: func(_ context.Context, a admission.Attributes, c Cluster) error {
		claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
		old, okOld := a.GetOldObject().(*corev1.PersistentVolumeClaim)
		if !ok || !okOld || a.GetSubresource() != "" {
			return nil
		}
		size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
		before := old.Spec.Resources.Requests[corev1.ResourceStorage]
		if size.Cmp(before) <= 0 {
			return nil
		}
		if old.Status.Phase != corev1.ClaimBound {
			return admission.NewForbidden(a, fmt.Errorf("Only bound persistent volume claims can be expanded")) //nolint:staticcheck // upstream's words
		}
		name := ""
		if claim.Spec.StorageClassName != nil {
			name = *claim.Spec.StorageClassName
		}
		obj, found := c.Get(resource.StorageClasses, "", name)
		if class, ok := obj.(*storagev1.StorageClass); found && ok && class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion {
			return nil
		}
		return admission.NewForbidden(a, fmt.Errorf("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
	},
}
