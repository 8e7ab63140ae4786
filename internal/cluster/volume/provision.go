package volume

import (
	"fmt"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helper "k8s.io/component-helpers/storage/volume"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
)

var (
	localModes  = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadWriteOncePod}
	sharedModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod}
)

// provision makes the claim a volume, or says who will, or why nobody can.
func (d *decision) provision(class *storagev1.StorageClass) {
	d.pend()
	switch class.Provisioner {
	case Local:
		d.provisionHere(class, localModes, d.localPlace)
	case Shared:
		d.provisionHere(class, sharedModes, d.sharedPlace)
	case noProvisioner:
		message := fmt.Sprintf("no persistent volumes available for this claim, and storage class %q makes none", class.Name)
		d.tell(corev1.EventTypeNormal, "FailedBinding", message)
		d.wait(plan.Stuck, "FailedBinding", message, object.Ref{}, "create a PersistentVolume of that class")
	default:
		d.provisionElsewhere(class)
	}
}

// provisionElsewhere names the provisioner on the claim, as external provisioners expect.
func (d *decision) provisionElsewhere(class *storagev1.StorageClass) {
	if d.claim.Annotations[helper.AnnStorageProvisioner] != class.Provisioner {
		next := d.claim.DeepCopy()
		annotate(&next.ObjectMeta, helper.AnnStorageProvisioner, class.Provisioner)
		annotate(&next.ObjectMeta, helper.AnnBetaStorageProvisioner, class.Provisioner)
		d.plan.Actions = append(d.plan.Actions, plan.Update{Object: next, Because: "its class has an external provisioner"})
	}
	message := fmt.Sprintf("Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
		"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner)
	d.tell(corev1.EventTypeNormal, "ExternalProvisioning", message)
	d.wait(plan.Waiting, "ExternalProvisioning", message, object.Ref{Resource: resource.StorageClasses, Key: object.Key{Name: class.Name}, UID: class.UID},
		fmt.Sprintf("check that the provisioner %s runs; the built-in ones are %s and %s", class.Provisioner, Local, Shared))
}

// place is where a volume's directory goes.
type place struct {
	root     string
	affinity *corev1.VolumeNodeAffinity
}

// provisionHere makes a directory volume, all in one pass: the volume, already bound, and the
// claim's side of the binding.
func (d *decision) provisionHere(class *storagev1.StorageClass, modes []corev1.PersistentVolumeAccessMode, locate func(*storagev1.StorageClass) (place, bool)) {
	if why := unsupported(d.claim, class, modes); why != "" {
		d.refuse("ProvisioningFailed", fmt.Sprintf("failed to provision volume with StorageClass %q: %s", class.Name, why),
			"change the claim, or use another class (kubectl get storageclass)")
		return
	}
	at, ok := locate(class)
	if !ok {
		return
	}
	pv := d.newVolume(class, at)
	done := event(d.claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume "+pv.Name+" using "+class.Provisioner)
	failed := event(d.claim, corev1.EventTypeWarning, "ProvisioningFailed",
		fmt.Sprintf("failed to provision volume with StorageClass %q: %s", class.Name, plan.TellError))
	d.plan.Status = nil // Pending never shows
	d.plan.Actions = append(d.plan.Actions, plan.Create{
		Object: pv, Because: "claim " + object.KeyOf(d.claim).String() + " needs a volume of class " + class.Name, Done: &done, Failed: &failed,
	})
	d.complete(pv)
	d.plan.Why = plan.Why{State: plan.Progressing, Next: "make volume " + pv.Name}
}

// unsupported says why no directory can be what the claim asks for, or "".
func unsupported(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, modes []corev1.PersistentVolumeAccessMode) string {
	for _, m := range c.Spec.AccessModes {
		if !slices.Contains(modes, m) {
			return fmt.Sprintf("invalid AccessModes %v: only AccessModes %v are supported", c.Spec.AccessModes, modes)
		}
	}
	switch {
	case c.Spec.VolumeMode != nil && *c.Spec.VolumeMode == corev1.PersistentVolumeBlock:
		return class.Provisioner + " does not support block volume provisioning"
	case c.Spec.Selector != nil:
		return "claim Selector is not supported"
	case hasSource(c):
		return "claim dataSource is not supported"
	case len(class.MountOptions) > 0:
		return fmt.Sprintf("Mount options are not supported by the provisioner but StorageClass %q has mount options %v", class.Name, class.MountOptions)
	}
	return ""
}

func (d *decision) newVolume(class *storagev1.StorageClass, at place) *corev1.PersistentVolume {
	c := d.claim
	name := "pvc-" + string(c.UID)
	policy, mode, kind := corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeFilesystem, corev1.HostPathDirectoryOrCreate
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Finalizers: []string{pvProtection, reclaim.DataFinalizer},
			Annotations: map[string]string{helper.AnnDynamicallyProvisioned: class.Provisioner, helper.AnnBoundByController: yes},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: c.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes: slices.Clone(c.Spec.AccessModes), PersistentVolumeReclaimPolicy: policy,
			StorageClassName: class.Name, VolumeMode: &mode, NodeAffinity: at.affinity,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path.Join(at.root, name), Type: &kind}},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID,
			},
		},
	}
}

func (d *decision) sharedPlace(class *storagev1.StorageClass) (place, bool) {
	root := d.cfg.SharedRoot
	if p := class.Parameters[reclaim.PathParameter]; p != "" {
		root = p
	}
	if !path.IsAbs(root) {
		d.refuse("ProvisioningFailed", fmt.Sprintf("failed to provision volume with StorageClass %q: parameter path %q is not absolute", class.Name, root),
			"set the class's parameter path to an absolute path that every node sees")
		return place{}, false
	}
	return place{root: root}, true
}

// localPlace is on the node that the scheduler selected, or, for a class that does not wait for
// one, on some ready node.
func (d *decision) localPlace(class *storagev1.StorageClass) (place, bool) {
	var node *corev1.Node
	if name := d.claim.Annotations[helper.AnnSelectedNode]; name != "" {
		if node = getNode(d.r, name); node == nil {
			// The node went between placement and now: the pod must be placed again.
			next := d.claim.DeepCopy()
			delete(next.Annotations, helper.AnnSelectedNode)
			d.plan.Actions = append(d.plan.Actions, plan.Update{Object: next, Because: "the node selected for it, " + name + ", is gone"})
			return place{}, false
		}
	} else if node = d.someNode(class); node == nil {
		d.refuse("ProvisioningFailed", fmt.Sprintf("failed to provision volume with StorageClass %q: no ready node keeps local volumes", class.Name), "start a node")
		return place{}, false
	}
	root := node.Annotations[RootAnnotation]
	if !path.IsAbs(root) {
		d.refuse("ProvisioningFailed", fmt.Sprintf("failed to provision volume with StorageClass %q: node %q keeps no local volumes (annotation %s)", class.Name, node.Name, RootAnnotation), "")
		return place{}, false
	}
	hostname := node.Labels[corev1.LabelHostname]
	if hostname == "" {
		hostname = node.Name
	}
	if hostname != node.Name && getNode(d.r, hostname) != nil {
		// The volume would be looked for, and its directory removed, by that other node.
		d.refuse("ProvisioningFailed", fmt.Sprintf("failed to provision volume with StorageClass %q: the label %s of node %q is the name of another node, %q",
			class.Name, corev1.LabelHostname, node.Name, hostname), "put the node's label right")
		return place{}, false
	}
	return place{root: root, affinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{
			Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{hostname},
		}}}},
	}}}, true
}

// someNode spreads volumes over the ready nodes that keep any, by the claim's identity.
func (d *decision) someNode(class *storagev1.StorageClass) *corev1.Node {
	var fit []*corev1.Node
	for _, o := range d.r.List(resource.Nodes, "") {
		if n := o.(*corev1.Node); nodeReady(n) && !n.Spec.Unschedulable && path.IsAbs(n.Annotations[RootAnnotation]) && allowed(class, n) {
			fit = append(fit, n)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	var sum uint32
	for _, b := range []byte(d.claim.UID) {
		sum = sum*31 + uint32(b)
	}
	return fit[sum%uint32(len(fit))]
}

func allowed(class *storagev1.StorageClass, n *corev1.Node) bool {
	if len(class.AllowedTopologies) == 0 {
		return true
	}
	return slices.ContainsFunc(class.AllowedTopologies, func(t corev1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(t.MatchLabelExpressions, func(e corev1.TopologySelectorLabelRequirement) bool {
			return !slices.Contains(e.Values, n.Labels[e.Key])
		})
	})
}
