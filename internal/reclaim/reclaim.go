// Package reclaim says when the data of a persistent volume may be removed, and by whom.
//
// It owns the rule that the volume controller (which names the node), the API server (which holds
// nodes to what is theirs) and the node (which removes the directory) all decide by, each on what
// it has read itself. It refuses to take an annotation's word for anything: an annotation must
// agree with what nobody can change, and with the claim, the phase and the policy. It does no I/O.
package reclaim

import (
	"fmt"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	helper "k8s.io/component-helpers/storage/volume"
)

// The built-in provisioners.
const (
	// Local makes a directory on one node.
	Local = "coracle.io/local"
	// Shared makes a directory that all nodes see.
	Shared = "coracle.io/shared"
)

const (
	// DataFinalizer keeps a volume's object until its directory is removed.
	DataFinalizer = "coracle.io/volume-data"
	// By is the label that names the node whose agent is to remove the directory and then the
	// finalizer. It is a label so that a node can watch what it is to do, and nothing else.
	By = "coracle.io/reclaim-by"
)

// PathParameter is the StorageClass parameter of the shared provisioner that overrides the cluster's
// directory of shared volumes.
const PathParameter = "path"

// Selector selects the volumes whose data a node is to remove, as a label selector.
func Selector(node string) string { return By + "=" + node }

// Assigned returns the node that is told to remove the data of a volume, "" when none is.
func Assigned(pv *corev1.PersistentVolume) string {
	if !slices.Contains(pv.Finalizers, DataFinalizer) {
		return ""
	}
	return pv.Labels[By]
}

// Done returns the volume as it is once its data are removed.
func Done(pv *corev1.PersistentVolume) *corev1.PersistentVolume {
	next := pv.DeepCopy()
	next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == DataFinalizer })
	return next
}

// Maker returns the built-in provisioner that made a volume, or "" when it was made otherwise. The
// annotation that names the provisioner must agree with the source and the node affinity, which
// do not change after creation: a local volume is on one node, a shared one is not, and either is
// a directory named after its volume.
func Maker(pv *corev1.PersistentVolume) string {
	by, host := pv.Annotations[helper.AnnDynamicallyProvisioned], pv.Spec.HostPath
	if host == nil || host.Type == nil || *host.Type != corev1.HostPathDirectoryOrCreate || !ownDirectory(host.Path, pv.Name) {
		return ""
	}
	if by == Local && Hostname(pv) != "" || by == Shared && pv.Spec.NodeAffinity == nil {
		return by
	}
	return ""
}

// ownDirectory says that a path is a directory's below some root, named after its volume.
func ownDirectory(dir, volume string) bool {
	return path.IsAbs(dir) && path.Clean(dir) == dir && path.Base(dir) == volume && path.Dir(dir) != "/"
}

// Hostname reads the one node, by its label kubernetes.io/hostname, that a local volume is on.
func Hostname(pv *corev1.PersistentVolume) string {
	a := pv.Spec.NodeAffinity
	if a == nil || a.Required == nil || len(a.Required.NodeSelectorTerms) != 1 {
		return ""
	}
	for _, e := range a.Required.NodeSelectorTerms[0].MatchExpressions {
		if e.Key == corev1.LabelHostname && e.Operator == corev1.NodeSelectorOpIn && len(e.Values) == 1 {
			return e.Values[0]
		}
	}
	return ""
}

// Keeps says why the data of a volume must stay, as far as the volume itself tells; "" when
// nothing in it speaks for them. The claim must be asked as well: Holds.
func Keeps(pv *corev1.PersistentVolume) string {
	switch {
	case pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete:
		return fmt.Sprintf("its reclaim policy is %s, not Delete", pv.Spec.PersistentVolumeReclaimPolicy)
	case Maker(pv) == "":
		return "it is not plainly a directory that a built-in storage class made for it"
	case pv.Status.Phase == corev1.VolumeReleased || pv.Status.Phase == corev1.VolumeFailed:
		return ""
	case pv.DeletionTimestamp == nil || pv.Status.Phase == corev1.VolumeBound:
		return fmt.Sprintf("it is %s, not Released", pv.Status.Phase)
	}
	return ""
}

// Holds says that a claim has the volume, or is about to: claim is what is found under the name in
// spec.claimRef, nil when there is none.
func Holds(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) bool {
	ref := pv.Spec.ClaimRef
	switch {
	case ref == nil || claim == nil:
		return false
	case claim.Spec.VolumeName == pv.Name:
		return ref.UID == "" || ref.UID == claim.UID
	case claim.Spec.VolumeName == "":
		return ref.UID == claim.UID
	}
	return false
}
