package place

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	v1helper "k8s.io/component-helpers/scheduling/corev1"
	ephemeralvolume "k8s.io/component-helpers/storage/ephemeral"
	volumehelper "k8s.io/component-helpers/storage/volume"

	"coracle/internal/object"
	"coracle/internal/podclaim"
	"coracle/internal/resource"
)

// AnnSelectedNode tells the provisioner of a claim that waits for its first consumer which node
// the pod is going to (the annotation upstream's scheduler and provisioners use).
const AnnSelectedNode = "volume.kubernetes.io/selected-node"

// AvailableVolumes files the volumes that no claim has, by storage class.
const AvailableVolumes = "available-by-class"

// Indexes are what the Reader given to Place must keep.
func Indexes() []object.Index {
	return []object.Index{{
		Resource: resource.PersistentVolumes, Name: AvailableVolumes,
		Values: func(o object.Object) []string {
			pv := o.(*corev1.PersistentVolume)
			if pv.Spec.ClaimRef != nil && pv.Status.Phase != corev1.VolumeAvailable {
				return nil
			}
			return []string{pv.Spec.StorageClassName}
		},
	}}
}

// The reasons that claims and volumes give.
const (
	VolumeAffinity Reason = "node(s) didn't match PersistentVolume's node affinity"
	NoVolume       Reason = "node(s) didn't find available persistent volumes to bind"
	VolumeTopology Reason = "node(s) did not match the storage class's allowed topologies"
)

// claimSet is what a pod's claims demand of its node.
type claimSet struct {
	// bound are volumes that only some nodes reach.
	bound []*corev1.PersistentVolume
	// unbound are claims of classes that wait for their first consumer.
	unbound []unboundClaim
}

type unboundClaim struct {
	claim *corev1.PersistentVolumeClaim
	// selected is the node that the claim is already being provisioned for, or "".
	selected string
	// volumes are existing ones it might take.
	volumes []*corev1.PersistentVolume
	// provisions says that the class can make a volume where topologies allow.
	provisions bool
	topologies []corev1.TopologySelectorTerm
}

// noProvisioner is the provisioner of classes whose volumes are made by hand (API doc of
// StorageClass, local volumes).
const noProvisioner = "kubernetes.io/no-provisioner"

// claimsOf reads a pod's claims. blocked is a reason that holds for every node.
func claimsOf(pod *corev1.Pod, r object.Reader) (set claimSet, blocked string) {
	for i := range pod.Spec.Volumes {
		name := podclaim.Of(pod, &pod.Spec.Volumes[i])
		if name == "" {
			continue
		}
		obj, ok := r.Get(resource.PersistentVolumeClaims, pod.Namespace, name)
		ephemeral := pod.Spec.Volumes[i].Ephemeral != nil
		switch {
		case !ok && ephemeral:
			return set, fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
		case !ok:
			return set, fmt.Sprintf("persistentvolumeclaim %q not found", name)
		}
		claim := obj.(*corev1.PersistentVolumeClaim)
		if ephemeral {
			if err := ephemeralvolume.VolumeIsForPod(pod, claim); err != nil {
				return set, err.Error()
			}
		}
		switch {
		case claim.DeletionTimestamp != nil:
			return set, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
		case claim.Status.Phase == corev1.ClaimLost:
			return set, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
		case claim.Spec.VolumeName != "" && claim.Status.Phase == corev1.ClaimBound:
			pv, ok := r.Get(resource.PersistentVolumes, "", claim.Spec.VolumeName)
			if !ok {
				return set, fmt.Sprintf("persistentvolume %q not found", claim.Spec.VolumeName)
			}
			if volume := pv.(*corev1.PersistentVolume); volume.Spec.NodeAffinity != nil {
				set.bound = append(set.bound, volume)
			}
			continue
		}
		waiting, ok := unboundOf(claim, r)
		if !ok {
			return set, "pod has unbound immediate PersistentVolumeClaims"
		}
		set.unbound = append(set.unbound, waiting)
	}
	return set, ""
}

// unboundOf reads an unbound claim; ok is false unless its class waits for the first consumer.
func unboundOf(claim *corev1.PersistentVolumeClaim, r object.Reader) (unboundClaim, bool) {
	u := unboundClaim{claim: claim}
	className := volumehelper.GetPersistentVolumeClaimClass(claim)
	obj, ok := r.Get(resource.StorageClasses, "", className)
	if !ok || claim.Spec.VolumeName != "" {
		return u, false
	}
	class := obj.(*storagev1.StorageClass)
	if class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
		return u, false
	}
	u.provisions = class.Provisioner != noProvisioner
	u.topologies = class.AllowedTopologies
	if node := claim.Annotations[AnnSelectedNode]; node != "" {
		if _, ok := r.Get(resource.Nodes, "", node); ok {
			u.selected = node
		}
	}
	if claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil {
		return u, true // no volume that is there begins with those data
	}
	for _, o := range r.Indexed(resource.PersistentVolumes, AvailableVolumes, className) {
		u.volumes = append(u.volumes, o.(*corev1.PersistentVolume))
	}
	return u, true
}

// free says that every node will do.
func (c claimSet) free() bool {
	for _, u := range c.unbound {
		if u.selected != "" || len(u.volumes) > 0 || len(u.topologies) > 0 || !u.provisions {
			return false
		}
	}
	return len(c.bound) == 0
}

// refuse says why a node cannot reach the claims' volumes, or "".
func (c claimSet) refuse(node *corev1.Node) Reason {
	for _, pv := range c.bound {
		if volumehelper.CheckNodeAffinity(pv, node.Labels) != nil {
			return VolumeAffinity
		}
	}
	if len(c.unbound) == 0 {
		return ""
	}
	_, _, reason := c.resolve(node)
	return reason
}

// on says which volumes the unbound claims take on a node, and which of them must be told it.
func (c claimSet) on(node *corev1.Node) ([]VolumeBinding, []*corev1.PersistentVolumeClaim) {
	bind, provision, _ := c.resolve(node)
	return bind, provision
}

func (c claimSet) resolve(node *corev1.Node) (bind []VolumeBinding, provision []*corev1.PersistentVolumeClaim, reason Reason) {
	taken := map[string]*corev1.PersistentVolume{}
	for _, u := range c.unbound {
		if u.selected != "" {
			if u.selected != node.Name {
				return nil, nil, NoVolume
			}
			provision = append(provision, u.claim)
			continue
		}
		pv, err := volumehelper.FindMatchingVolume(u.claim, u.volumes, node, taken, true, true)
		switch {
		case err == nil && pv != nil:
			taken[pv.Name] = pv
			bind = append(bind, VolumeBinding{u.claim, pv})
		case !u.provisions:
			return nil, nil, NoVolume
		case len(u.topologies) > 0 && !anyTopology(u.topologies, node):
			return nil, nil, VolumeTopology
		default:
			provision = append(provision, u.claim)
		}
	}
	return bind, provision, ""
}

func anyTopology(terms []corev1.TopologySelectorTerm, node *corev1.Node) bool {
	for _, t := range terms {
		selector := corev1.NodeSelectorTerm{}
		for _, e := range t.MatchLabelExpressions {
			selector.MatchExpressions = append(selector.MatchExpressions, corev1.NodeSelectorRequirement{
				Key: e.Key, Operator: corev1.NodeSelectorOpIn, Values: e.Values,
			})
		}
		wanted := &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{selector}}
		if match, err := v1helper.MatchNodeSelectorTerms(node, wanted); err == nil && match {
			return true
		}
	}
	return false
}
