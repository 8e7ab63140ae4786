package admit

import (
	"context"
	"fmt"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/admission"

	"coracle/internal/apiserver/authz"
	"coracle/internal/resource"
)

// nodeRestriction holds a node to its own objects where authorization cannot: what an object is
// made or changed into is only known here
// (https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction).
// It does not count on authorization: each check is whole.
var nodeRestriction = plugin{
	name: "NodeRestriction",
	resources: []resource.Resource{
		resource.Nodes, resource.Pods, resource.Leases, resource.ServiceAccounts,
		resource.PersistentVolumes, resource.PersistentVolumeClaims,
	},
	operations: []admission.Operation{admission.Create, admission.Update, admission.Delete},
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
	switch a.GetResource().GroupResource() {
	case resource.Nodes.GroupResource():
		return admitNodesNode(node, a)
	case resource.Leases.GroupResource():
		return admitNodesLease(node, a)
	case resource.Pods.GroupResource():
		return admitNodesPod(node, a, c)
	case resource.ServiceAccounts.GroupResource():
		return admitNodesToken(node, a, c)
	case resource.PersistentVolumes.GroupResource():
		return admitNodesVolume(node, a, c)
	case resource.PersistentVolumeClaims.GroupResource():
		// The controllers grow claims here: a node has nothing to say of one.
		return forbid(a, "node %q may not change claims", node)
	}
	return nil
}

func forbid(a admission.Attributes, format string, args ...any) error {
	return admission.NewForbidden(a, fmt.Errorf(format, args...))
}

func unexpected(a admission.Attributes, obj any) error { return forbid(a, "unexpected type %T", obj) }

// admitNodesNode lets a node make and change its own Node, but for what would bring pods to it
// that are meant for others: taints, and labels outside the allowed list.
func admitNodesNode(name string, a admission.Attributes) error {
	if a.GetOperation() == admission.Delete {
		return forbid(a, "node %q is not allowed to delete nodes", name)
	}
	node, ok := a.GetObject().(*corev1.Node)
	if !ok {
		return unexpected(a, a.GetObject())
	}
	// The name in the request is empty when a create lets the object say it.
	if node.Name != name || a.GetName() != "" && a.GetName() != name {
		return forbid(a, "node %q is not allowed to modify node %q", name, node.Name)
	}
	if a.GetOperation() == admission.Create {
		if configSource(node) != nil {
			return forbid(a, "node %q is not allowed to create pods with a non-nil configSource", name)
		}
		if bad := forbiddenLabels(node.Labels, nil); len(bad) > 0 {
			return forbid(a, "node %q is not allowed to set the following labels: %s", name, strings.Join(bad, ", "))
		}
		return nil
	}
	old, ok := a.GetOldObject().(*corev1.Node)
	if !ok {
		return unexpected(a, a.GetOldObject())
	}
	switch {
	case configSource(node) != nil && !apiequality.Semantic.DeepEqual(configSource(node), configSource(old)):
		return forbid(a, "node %q is not allowed to update configSource to a new non-nil configSource", name)
	case !apiequality.Semantic.DeepEqual(node.Spec.Taints, old.Spec.Taints):
		return forbid(a, "node %q is not allowed to modify taints", name)
	case !apiequality.Semantic.DeepEqual(node.OwnerReferences, old.OwnerReferences):
		return forbid(a, "node %q is not allowed to modify ownerReferences", name)
	}
	if bad := forbiddenLabels(node.Labels, old.Labels); len(bad) > 0 {
		return forbid(a, "is not allowed to modify labels: %s", strings.Join(bad, ", "))
	}
	return nil
}

// configSource names objects that a node would once have been let read for it.
func configSource(node *corev1.Node) *corev1.NodeConfigSource {
	return node.Spec.ConfigSource //nolint:staticcheck // deprecated, and still accepted
}

// nodeLabels are the labels below kubernetes.io that a node may give itself, beside those in
// the namespaces nodeLabelSpaces.
var nodeLabels = []string{
	corev1.LabelHostname, corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
	corev1.LabelInstanceType, corev1.LabelInstanceTypeStable,
	corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
}

var nodeLabelSpaces = []string{corev1.LabelNamespaceSuffixKubelet, corev1.LabelNamespaceSuffixNode}

// forbiddenLabels names, in order, the labels that were set, changed or removed and are not a
// node's to touch.
func forbiddenLabels(now, before map[string]string) []string {
	var bad []string
	for _, labels := range [][2]map[string]string{{now, before}, {before, now}} {
		for key, value := range labels[0] {
			if other, ok := labels[1][key]; (!ok || other != value) && !nodesLabel(key) && !slices.Contains(bad, key) {
				bad = append(bad, key)
			}
		}
	}
	slices.Sort(bad)
	return bad
}

func nodesLabel(key string) bool {
	space, _, ok := strings.Cut(key, "/")
	switch {
	case !ok:
		return true
	case below(space, corev1.LabelNamespaceNodeRestriction):
		return false
	case slices.Contains(nodeLabels, key):
		return true
	case slices.ContainsFunc(nodeLabelSpaces, func(s string) bool { return below(space, s) }):
		return true
	}
	return !below(space, "kubernetes.io") && !below(space, "k8s.io")
}

func below(space, parent string) bool { return space == parent || strings.HasSuffix(space, "."+parent) }

// admitNodesLease lets a node have the lease with its name.
func admitNodesLease(node string, a admission.Attributes) error {
	if a.GetNamespace() != corev1.NamespaceNodeLease {
		return forbid(a, "can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	name := a.GetName()
	if a.GetOperation() == admission.Create {
		lease, ok := a.GetObject().(*coordinationv1.Lease)
		if !ok {
			return unexpected(a, a.GetObject())
		}
		name = lease.Name
	}
	if name != node {
		return forbid(a, "can only access node lease with the same name as the requesting node")
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
