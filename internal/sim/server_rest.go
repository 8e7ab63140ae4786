package sim

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// serverExact holds when what the cluster's own controllers keep is as it shall be.
func serverExact(r object.Reader) error {
	for _, check := range []func(object.Reader) error{nodesExact, namespacesExact, claimsExact, quotasExact, nothingLeft} {
		if err := check(r); err != nil {
			return err
		}
	}
	return nil
}

// nodesExact holds when each node has a range of its own, and just the taints of its conditions.
func nodesExact(r object.Reader) error {
	ranges := map[string]string{}
	for _, o := range r.List(resource.Nodes, "") {
		node := o.(*corev1.Node)
		if other, taken := ranges[node.Spec.PodCIDR]; taken || node.Spec.PodCIDR == "" {
			return fmt.Errorf("ranges: node %s has the range %q, as %q has", node.Name, node.Spec.PodCIDR, other)
		}
		ranges[node.Spec.PodCIDR] = node.Name
		for _, t := range node.Spec.Taints {
			if t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable || t.Key == corev1.TaintNodeUnschedulable {
				return fmt.Errorf("taints: node %s is well and has the taint %s", node.Name, t.Key)
			}
		}
	}
	return nil
}

// namespacesExact holds when each namespace has its service account and the cluster's root of trust.
func namespacesExact(r object.Reader) error {
	for _, o := range r.List(resource.Namespaces, "") {
		if o.GetDeletionTimestamp() != nil {
			return fmt.Errorf("left: namespace %s is still on its way out", o.GetName())
		}
		if _, ok := r.Get(resource.ServiceAccounts, o.GetName(), "default"); !ok {
			return fmt.Errorf("account: namespace %s has no service account", o.GetName())
		}
		if c, ok := r.Get(resource.ConfigMaps, o.GetName(), "kube-root-ca.crt"); !ok || c.(*corev1.ConfigMap).Data["ca.crt"] != rootCA {
			return fmt.Errorf("trust: namespace %s does not have the root certificate", o.GetName())
		}
	}
	return nil
}

// claimsExact holds when each claim and its volume name each other, and no volume waits to be reclaimed.
func claimsExact(r object.Reader) error {
	for _, o := range r.List(resource.PersistentVolumeClaims, "") {
		claim := o.(*corev1.PersistentVolumeClaim)
		if claim.Spec.VolumeName == "" {
			continue // nobody uses it yet
		}
		v, ok := r.Get(resource.PersistentVolumes, "", claim.Spec.VolumeName)
		if !ok || claim.Status.Phase != corev1.ClaimBound {
			return fmt.Errorf("claims: %s is %s to volume %s, there is %v", claim.Name, claim.Status.Phase, claim.Spec.VolumeName, ok)
		}
		if ref := v.(*corev1.PersistentVolume).Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
			return fmt.Errorf("claims: %s has volume %s, which is another's", claim.Name, v.GetName())
		}
	}
	for _, o := range r.List(resource.PersistentVolumes, "") {
		pv := o.(*corev1.PersistentVolume)
		if pv.Status.Phase == corev1.VolumeReleased && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
			return fmt.Errorf("claims: volume %s is not reclaimed", pv.Name)
		}
	}
	return nil
}

// quotasExact holds when quotas count the pods that there are.
func quotasExact(r object.Reader) error {
	for _, o := range r.List(resource.ResourceQuotas, ns) {
		used := o.(*corev1.ResourceQuota).Status.Used[corev1.ResourcePods]
		if n := charged(r); used.Value() != n {
			return fmt.Errorf("quota counts: %s says %d pods, there are %d", o.GetName(), used.Value(), n)
		}
	}
	return nil
}

// nothingLeft holds when nothing is on its way out, on a node that is no more, in a namespace that is no more, or kept
// for an owner that is no more.
func nothingLeft(r object.Reader) error {
	for _, res := range []resource.Resource{resource.Pods, resource.ReplicaSets, resource.ControllerRevisions, resource.PersistentVolumeClaims} {
		for _, o := range r.List(res, "") {
			if o.GetDeletionTimestamp() != nil {
				return fmt.Errorf("left: %s %s is still on its way out", res, o.GetName())
			}
			if _, ok := r.Get(resource.Namespaces, "", o.GetNamespace()); !ok {
				return fmt.Errorf("left: %s %s is in no namespace", res, o.GetName())
			}
			for _, ref := range o.GetOwnerReferences() {
				if _, known := owners[ref.Kind]; known && owner(r, o.GetNamespace(), ref) == nil {
					return fmt.Errorf("left: %s %s names owner %s, which is no more", res, o.GetName(), ref.Name)
				}
			}
			if pod, ok := o.(*corev1.Pod); ok {
				if _, there := r.Get(resource.Nodes, "", pod.Spec.NodeName); !there {
					return fmt.Errorf("left: pod %s is on node %q, which is not there", pod.Name, pod.Spec.NodeName)
				}
			}
		}
	}
	return nil
}
