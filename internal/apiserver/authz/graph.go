package authz

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/podclaim"
	"coracle/internal/reclaim"
)

type (
	fieldRequirement = fields.Requirement
	labelRequirement = labels.Requirement
)

// Cluster finds what binds objects to a node, without a scan of all and without lists. The objects
// are shared and must not be changed.
//
// The relations are those of upstream's graph - node <- pod <- secret, configmap, account, claim
// <- volume - but they are looked up rather than kept: a decision costs no more than a look at the
// pods of one node, and is never older than the pod it is about; a change of a pod costs nothing.
type Cluster interface {
	// Pod returns a pod, or nil.
	Pod(namespace, name string) *corev1.Pod
	// AnyPodOn says whether match holds for a pod that is bound to a node.
	AnyPodOn(node string, match func(*corev1.Pod) bool) bool
	// Volume returns a persistent volume, or nil.
	Volume(name string) *corev1.PersistentVolume
	// AnyVolumeFor says whether match holds for a volume whose spec.claimRef names a claim.
	AnyVolumeFor(namespace, claim string, match func(*corev1.PersistentVolume) bool) bool
}

// bound says that a pod is bound to a node.
func (a *Authorizer) bound(node, namespace, name string) bool {
	p := a.cluster.Pod(namespace, name)
	return p != nil && p.Spec.NodeName == node
}

// used says that a pod of the node uses an object of its namespace. Mirror pods use nothing: a node
// makes them itself, and must not reach by them what it does not reach already.
func (a *Authorizer) used(node, namespace, name string, uses func(*corev1.Pod, string) bool) bool {
	return a.cluster.AnyPodOn(node, func(p *corev1.Pod) bool {
		if p.Namespace != namespace || !uses(p, name) {
			return false
		}
		_, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]
		return !mirror
	})
}

// usesVolume says that a pod of the node uses the claim that a volume is bound to.
func (a *Authorizer) usesVolume(node string, pv *corev1.PersistentVolume) bool {
	ref := pv.Spec.ClaimRef
	return ref != nil && a.used(node, ref.Namespace, ref.Name, podclaim.Uses)
}

// released says that the node is to reclaim a volume that names the claim: before it removes
// anything it asks whether the claim is gone.
func (a *Authorizer) released(node, namespace, claim string) bool {
	return a.cluster.AnyVolumeFor(namespace, claim, func(pv *corev1.PersistentVolume) bool {
		return reclaim.Assigned(pv) == node
	})
}
