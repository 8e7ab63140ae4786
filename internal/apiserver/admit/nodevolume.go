package admit

import (
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"

	"coracle/internal/reclaim"
	"coracle/internal/resource"
)

// admitNodesVolume lets a node say one thing of a volume: that the data which it was told to
// remove, and which were to be removed, are gone. It says so by taking the finalizer off.
func admitNodesVolume(node string, a admission.Attributes, c Cluster) error {
	old, ok := a.GetOldObject().(*corev1.PersistentVolume)
	if !ok || a.GetOperation() != admission.Update || a.GetSubresource() != "" {
		return forbid(a, "node %q may only remove the finalizer %s of a volume", node, reclaim.DataFinalizer)
	}
	pv, ok := a.GetObject().(*corev1.PersistentVolume)
	if !ok {
		return unexpected(a, a.GetObject())
	}
	if reclaim.Assigned(old) != node {
		return forbid(a, "node %q is not told to remove the data of the volume", node)
	}
	if why := reclaim.Keeps(old); why != "" {
		return forbid(a, "the data of the volume are to stay: %s", why)
	}
	if ref := old.Spec.ClaimRef; ref != nil {
		obj, _ := c.Get(resource.PersistentVolumeClaims, ref.Namespace, ref.Name)
		if claim, ok := obj.(*corev1.PersistentVolumeClaim); ok && reclaim.Holds(claim, old) {
			return forbid(a, "the data of the volume are to stay: the claim %s/%s has it", ref.Namespace, ref.Name)
		}
	}
	done := reclaim.Done(old)
	equal := apiequality.Semantic.DeepEqual
	if !equal(said(done.ObjectMeta), said(pv.ObjectMeta)) || !equal(done.Spec, pv.Spec) {
		return forbid(a, "node %q may remove the finalizer %s of the volume, and change nothing else",
			node, reclaim.DataFinalizer)
	}
	return nil
}

// said is metadata without what the server itself keeps.
func said(m metav1.ObjectMeta) metav1.ObjectMeta {
	m.ResourceVersion, m.ManagedFields, m.Generation = "", nil, 0
	if len(m.Finalizers) == 0 {
		m.Finalizers = nil
	}
	return m
}
