package volume

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	helper "k8s.io/component-helpers/storage/volume"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// bindForPlaced serves a claim that waits for its first consumer, where that consumer names its node itself: the scheduler
// never sees such a pod, so nobody else would say for which node the claim is to be bound. As the scheduler does, it takes
// a free volume that the node reaches, or else selects the node for a new one. It returns false where there is no such pod.
func (d *decision) bindForPlaced(class *storagev1.StorageClass) bool {
	pod, node := d.placed()
	if pod == nil {
		return false
	}
	pv, err := helper.FindMatchingVolume(d.claim, d.candidates(class.Name), node, nil, true, true)
	because := fmt.Sprintf("pod %s, which uses it, names node %s itself", pod.Name, node.Name)
	switch {
	case err != nil:
		d.refuse("FailedBinding", err.Error(), "correct the claim's selector")
	case pv != nil:
		d.plan.Status = nil // Pending never shows
		d.bind(pv, because+", which reaches the volume")
	case class.Provisioner == noProvisioner:
		message := fmt.Sprintf("pod %s names node %s itself, no free volume of class %q can be used there, and the class makes none", pod.Name, node.Name, class.Name)
		d.tell(corev1.EventTypeNormal, "FailedBinding", message)
		d.wait(plan.Stuck, "FailedBinding", message, object.RefOf(pod), "create a PersistentVolume of that class for the node, or let the scheduler choose the pod's node")
	case !allowed(class, node):
		d.refuse("FailedBinding", fmt.Sprintf("pod %s names node %s itself, which the allowedTopologies of class %q exclude", pod.Name, node.Name, class.Name),
			"let the scheduler choose the pod's node, or name another")
	default:
		d.plan.Status = nil // and no status of the claim as it was before
		next := d.claim.DeepCopy()
		annotate(&next.ObjectMeta, helper.AnnSelectedNode, node.Name)
		d.plan.Actions = append(d.plan.Actions, plan.Update{Object: next, Because: because})
		d.plan.Why = plan.Why{State: plan.Progressing, Next: "bind the claim for node " + node.Name + ": " + because}
	}
	return true
}

// placed returns the first pod that uses the claim and names a node that exists, with that node.
func (d *decision) placed() (*corev1.Pod, *corev1.Node) {
	for _, o := range d.r.Indexed(resource.Pods, indexUsers, object.KeyOf(d.claim).String()) {
		pod := o.(*corev1.Pod)
		if pod.Spec.NodeName == "" || pod.DeletionTimestamp != nil || podstate.Ended(pod) {
			continue
		}
		if node := getNode(d.r, pod.Spec.NodeName); node != nil {
			return pod, node
		}
	}
	return nil, nil
}
