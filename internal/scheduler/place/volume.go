package place

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	v1helper "k8s.io/component-helpers/scheduling/corev1"
	volumehelper "k8s.io/component-helpers/storage/volume"

	"coracle/internal/plan"
	"coracle/internal/resource"
)

// AnnSelectedNode tells the provisioner of a claim that waits for its first consumer which node
// the pod is going to (the annotation upstream's scheduler and provisioners use).
const AnnSelectedNode = "volume.kubernetes.io/selected-node"

const (
	reasonVolumeAffinity = "node(s) didn't match PersistentVolume's node affinity"
	reasonVolumeSelected = "node(s) didn't find available persistent volumes to bind"
)

// claimSet is what a pod's claims demand of its node.
type claimSet struct {
	// volumes are bound volumes that only some nodes reach.
	volumes []*corev1.PersistentVolume
	// unbound are claims of classes that wait for their first consumer.
	unbound []*corev1.PersistentVolumeClaim
	// selected is the node that an unbound claim is already being provisioned for, or "".
	selected string
	// topologies limit, claim by claim, where an unbound one can be provisioned.
	topologies [][]corev1.TopologySelectorTerm
}

// claimsOf reads a pod's claims. blocked is a reason that holds for every node.
func claimsOf(pod *corev1.Pod, r plan.Reader) (set claimSet, blocked string) {
	for i := range pod.Spec.Volumes {
		name := claimName(pod, &pod.Spec.Volumes[i])
		if name == "" {
			continue
		}
		obj, ok := r.Get(resource.PersistentVolumeClaims, pod.Namespace, name)
		if !ok {
			return set, fmt.Sprintf("persistentvolumeclaim %q not found", name)
		}
		claim := obj.(*corev1.PersistentVolumeClaim)
		if claim.DeletionTimestamp != nil {
			return set, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
		}
		if bound(claim) {
			pv, ok := r.Get(resource.PersistentVolumes, "", claim.Spec.VolumeName)
			if !ok {
				return set, fmt.Sprintf("persistentvolume %q not found", claim.Spec.VolumeName)
			}
			if volume := pv.(*corev1.PersistentVolume); volume.Spec.NodeAffinity != nil {
				set.volumes = append(set.volumes, volume)
			}
			continue
		}
		class, found := classOf(claim, r)
		switch {
		case claim.Status.Phase == corev1.ClaimLost:
			return set, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
		case !found || class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer || claim.Spec.VolumeName != "":
			return set, "pod has unbound immediate PersistentVolumeClaims"
		}
		set.unbound = append(set.unbound, claim)
		if node := claim.Annotations[AnnSelectedNode]; node != "" {
			if _, ok := r.Get(resource.Nodes, "", node); ok {
				set.selected = node
			}
		}
		if len(class.AllowedTopologies) > 0 {
			set.topologies = append(set.topologies, class.AllowedTopologies)
		}
	}
	return set, ""
}

// claimName is the claim behind a volume, the generated one of an ephemeral volume included.
func claimName(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}

func bound(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName != "" && claim.Status.Phase == corev1.ClaimBound
}

func classOf(claim *corev1.PersistentVolumeClaim, r plan.Reader) (*storagev1.StorageClass, bool) {
	obj, ok := r.Get(resource.StorageClasses, "", volumehelper.GetPersistentVolumeClaimClass(claim))
	if !ok {
		return nil, false
	}
	return obj.(*storagev1.StorageClass), true
}

// refuse says why a node cannot reach the claims' volumes, or "".
func (c claimSet) refuse(node *corev1.Node) string {
	for _, pv := range c.volumes {
		if volumehelper.CheckNodeAffinity(pv, node.Labels) != nil {
			return reasonVolumeAffinity
		}
	}
	if c.selected != "" && c.selected != node.Name {
		return reasonVolumeSelected
	}
	for _, terms := range c.topologies {
		if !anyTopology(terms, node) {
			return "node(s) did not match the storage class's allowed topologies"
		}
	}
	return ""
}

func anyTopology(terms []corev1.TopologySelectorTerm, node *corev1.Node) bool {
	for _, term := range terms {
		selector := corev1.NodeSelectorTerm{}
		for _, e := range term.MatchLabelExpressions {
			selector.MatchExpressions = append(selector.MatchExpressions, corev1.NodeSelectorRequirement{
				Key: e.Key, Operator: corev1.NodeSelectorOpIn, Values: e.Values,
			})
		}
		if match, err := v1helper.MatchNodeSelectorTerms(node, &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{selector}}); err == nil && match {
			return true
		}
	}
	return false
}
