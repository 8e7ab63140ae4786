package admit

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"

	"coracle/internal/apiserver/authz"
	"coracle/internal/resource"
)

// admitNodesPod lets a node report on, evict and delete the pods bound to it, and make the mirrors
// of its static pods.
func admitNodesPod(node string, a admission.Attributes, c Cluster) error {
	switch op := a.GetOperation(); a.GetSubresource() {
	case "":
		switch op {
		case admission.Create:
			return admitMirrorOf(node, a, c)
		case admission.Delete:
			return boundTo(node, a, c, a.GetName(), "node %q can only delete pods with spec.nodeName set to itself")
		}
		return forbid(a, "unexpected operation %q, node %q can only create and delete mirror pods", op, node)
	case "status":
		return admitPodStatus(node, a)
	case "eviction":
		eviction, ok := a.GetObject().(*policyv1.Eviction)
		if !ok || op != admission.Create {
			return unexpected(a, a.GetObject())
		}
		name := a.GetName()
		if name == "" {
			name = eviction.Name
		}
		return boundTo(node, a, c, name, "node %s can only evict pods with spec.nodeName set to itself")
	}
	return forbid(a, "unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.GetSubresource())
}

// boundTo refuses, in the words given, a pod that is not bound to the node.
func boundTo(node string, a admission.Attributes, c Cluster, name, words string) error {
	obj, found := c.Get(resource.Pods, a.GetNamespace(), name)
	pod, ok := obj.(*corev1.Pod)
	if !found || !ok {
		return apierrors.NewNotFound(resource.Pods.GroupResource(), name)
	}
	if pod.Spec.NodeName != node {
		return forbid(a, words, node)
	}
	return nil
}

func admitPodStatus(node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Update {
		return forbid(a, "unexpected operation %q", a.GetOperation())
	}
	old, ok := a.GetOldObject().(*corev1.Pod)
	if !ok {
		return unexpected(a, a.GetOldObject())
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	switch {
	case !ok:
		return unexpected(a, a.GetObject())
	case old.Spec.NodeName != node:
		return forbid(a, "node %q can only update pod status for pods with spec.nodeName set to itself", node)
	case !maps.Equal(old.Labels, pod.Labels):
		return forbid(a, "node %q cannot update labels through pod status", node)
	case !apiequality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		return forbid(a, "node %q cannot update resource claim statuses", node)
	}
	return nil
}

// admitMirrorOf lets a node make only a mirror pod: bound to it, owned by it, and without a
// reference by which it would come to reach another object.
func admitMirrorOf(node string, a admission.Attributes, c Cluster) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return unexpected(a, a.GetObject())
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
		return forbid(a, "pod does not have %q annotation, node %q can only create mirror pods",
			corev1.MirrorPodAnnotationKey, node)
	}
	if pod.Spec.NodeName != node {
		return forbid(a, "node %q can only create pods with spec.nodeName set to itself", node)
	}
	if err := ownedBy(node, pod, a, c); err != nil {
		return err
	}
	if kind := authz.References(pod); kind != "" {
		return forbid(a, "node %q can not create pods that reference %s", node, kind)
	}
	return nil
}

// ownedBy checks that the node's own Node object, and nothing else, owns a pod.
func ownedBy(node string, pod *corev1.Pod, a admission.Attributes, c Cluster) error {
	switch len(pod.OwnerReferences) {
	case 0:
		return forbid(a, "node %q can only create pods with an owner reference set to itself", node)
	case 1:
	default:
		return forbid(a, "node %q can only create pods with a single owner reference set to itself", node)
	}
	owner := pod.OwnerReferences[0]
	switch {
	case owner.APIVersion != corev1.SchemeGroupVersion.String() || owner.Kind != resource.Nodes.Kind || owner.Name != node:
		return forbid(a, "node %q can only create pods with an owner reference set to itself", node)
	case owner.Controller == nil || !*owner.Controller:
		return forbid(a, "node %q can only create pods with a controller owner reference set to itself", node)
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return forbid(a, "node %q must not set blockOwnerDeletion on an owner reference", node)
	}
	obj, found := c.Get(resource.Nodes, "", node)
	if !found {
		return apierrors.NewNotFound(resource.Nodes.GroupResource(), node)
	}
	if uid := obj.(metav1.Object).GetUID(); owner.UID != uid {
		return forbid(a, "node %s UID mismatch: expected %s got %s", node, owner.UID, uid)
	}
	return nil
}
