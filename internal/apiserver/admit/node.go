package admit

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apiserver/pkg/admission"

	"coracle/internal/apiserver/authz"
	"coracle/internal/resource"
)

// nodeRestriction holds a node to its own objects where authorization cannot: the name of an
// object being created is only known here.
var nodeRestriction = plugin{
	name:       "NodeRestriction",
	resources:  []resource.Resource{resource.Nodes, resource.Pods, resource.Leases},
	operations: []admission.Operation{admission.Create, admission.Update},
	mutate:     admitNodesWrite,
}

func admitNodesWrite(_ context.Context, a admission.Attributes, c Cluster) error {
	if a.GetUserInfo() == nil {
		return nil
	}
	node, ok := authz.NodeName(a.GetUserInfo())
	if !ok {
		return nil
	}
	switch a.GetResource().Resource {
	case "nodes":
		// a.GetName is empty when a create lets the object say it.
		name := a.GetName()
		if n, ok := a.GetObject().(*corev1.Node); ok {
			name = n.Name
		}
		if name != node {
			return admission.NewForbidden(a, fmt.Errorf("node %q is not allowed to modify node %q", node, name))
		}
	case "leases":
		if a.GetNamespace() != corev1.NamespaceNodeLease {
			return admission.NewForbidden(a, fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease))
		}
		if a.GetOperation() == admission.Create && a.GetName() != node {
			return admission.NewForbidden(a, fmt.Errorf("can only access node lease with the same name as the requesting node"))
		}
	case "pods":
		return admitNodesPod(node, a, c)
	}
	return nil
}

// admitNodesPod refuses pods of a node's own making: it has no static pods to mirror.
func admitNodesPod(node string, a admission.Attributes, c Cluster) error {
	switch {
	case a.GetSubresource() == "" && a.GetOperation() == admission.Create:
		return admission.NewForbidden(a, fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node))
	case a.GetSubresource() == "status":
		pod, ok := a.GetObject().(*corev1.Pod)
		if ok && pod.Spec.NodeName != node {
			return admission.NewForbidden(a, fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node))
		}
	case a.GetSubresource() == "eviction":
		eviction, ok := a.GetObject().(*policyv1.Eviction)
		if !ok {
			return nil
		}
		obj, found := c.Get(resource.Pods, a.GetNamespace(), eviction.Name)
		if pod, ok := obj.(*corev1.Pod); found && ok && pod.Spec.NodeName != node {
			return admission.NewForbidden(a, fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", node))
		}
	}
	return nil
}

// taintNodes keeps pods off a new node until it has been seen ready.
var taintNodes = plugin{
	name:       "TaintNodesByCondition",
	resources:  []resource.Resource{resource.Nodes},
	operations: []admission.Operation{admission.Create},
	mutate: func(_ context.Context, a admission.Attributes, _ Cluster) error {
		n, ok := a.GetObject().(*corev1.Node)
		if !ok || a.GetSubresource() != "" {
			return nil
		}
		for _, t := range n.Spec.Taints {
			if t.Key == corev1.TaintNodeNotReady && t.Effect == corev1.TaintEffectNoSchedule {
				return nil
			}
		}
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
		return nil
	},
}
