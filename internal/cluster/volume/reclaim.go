package volume

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helper "k8s.io/component-helpers/storage/volume"

	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
)

// volumes is the binder's half that decides volume by volume: its phase, and what becomes of it
// once its claim is gone.
func volumes() plan.Controller {
	return plan.Controller{
		Name: binder, For: resource.PersistentVolumes, Indexes: indexes,
		Watches: []plan.Watch{
			{Resource: resource.PersistentVolumeClaims, Keys: volumesByClaim},
			{Resource: resource.Nodes, Keys: volumesByNode},
		},
		Plan: planVolume,
	}
}

func volumesByClaim(r object.Reader, before, after object.Object) []object.Key {
	var keys []object.Key
	for _, o := range []object.Object{before, after} {
		if o == nil {
			continue
		}
		if name := o.(*corev1.PersistentVolumeClaim).Spec.VolumeName; name != "" {
			keys = append(keys, object.Key{Name: name})
		}
	}
	o := after
	if o == nil {
		o = before
	}
	return append(keys, keysOf(r.Indexed(resource.PersistentVolumes, indexClaim, object.KeyOf(o).String()))...)
}

// volumesByNode asks for volumes whose directory waits for a node to remove it.
func volumesByNode(r object.Reader, before, after object.Object) []object.Key {
	if before != nil && after != nil && nodeReady(before.(*corev1.Node)) == nodeReady(after.(*corev1.Node)) {
		return nil
	}
	return keysOf(r.Indexed(resource.PersistentVolumes, indexReclaim, "true"))
}

func planVolume(in plan.Input) plan.Plan {
	pv := getVolume(in.Reader, in.Key.Name)
	if pv == nil {
		return plan.Plan{}
	}
	ref := pv.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		if pv.DeletionTimestamp != nil && pv.Status.Phase != corev1.VolumeBound {
			return giveUp(in, pv, nil)
		}
		return phase(pv, corev1.VolumeAvailable, "", "")
	}
	claim := getClaim(in.Reader, claimKey(ref))
	switch {
	case claim == nil || claim.UID != ref.UID:
		gone := object.Ref{Resource: resource.PersistentVolumeClaims, Key: claimKey(ref), UID: ref.UID}
		return release(in, pv, []object.Ref{gone})
	case claim.Spec.VolumeName == pv.Name:
		return phase(pv, corev1.VolumeBound, "", "")
	case claim.Spec.VolumeName == "":
		return plan.Plan{} // being bound by the other half
	}
	return unbind(in, pv, claim)
}

// phase shows a volume's phase when it differs. absent are what must be gone for it to be so.
func phase(pv *corev1.PersistentVolume, want corev1.PersistentVolumePhase, reason, message string, absent ...object.Ref) plan.Plan {
	if pv.Status.Phase == want && pv.Status.Message == message {
		return plan.Plan{}
	}
	next := pv.DeepCopy()
	next.Status.Phase, next.Status.Reason, next.Status.Message = want, reason, message
	return plan.Plan{Actions: []plan.Action{plan.Update{
		Object: next, Subresource: "status", When: plan.AllAbsent(absent...), Because: "it is " + string(want),
	}}}
}

// unbind frees a volume whose claim took another one.
func unbind(in plan.Input, pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) plan.Plan {
	because := fmt.Sprintf("claim %s took volume %s", object.KeyOf(claim), claim.Spec.VolumeName)
	switch {
	case ours(pv) && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return release(in, pv, nil)
	case pv.Annotations[helper.AnnBoundByController] == "":
		next := pv.DeepCopy()
		next.Spec.ClaimRef.UID = ""
		return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, Because: because}}}
	}
	next := pv.DeepCopy()
	next.Spec.ClaimRef = nil
	delete(next.Annotations, helper.AnnBoundByController)
	return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, Because: because}}}
}

// release shows that the claim is gone, and reclaims by the volume's policy.
func release(in plan.Input, pv *corev1.PersistentVolume, absent []object.Ref) plan.Plan {
	if pv.Status.Phase != corev1.VolumeReleased && pv.Status.Phase != corev1.VolumeFailed {
		return phase(pv, corev1.VolumeReleased, "", "", absent...)
	}
	if pv.DeletionTimestamp != nil || pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		return giveUp(in, pv, absent)
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		return fail(pv, "VolumeFailedRecycle", "No recycler plugin found for the volume!", absent)
	}
	return plan.Plan{Why: plan.Why{State: plan.Waiting, Waits: []plan.Wait{{
		Reason: "Released", Message: "its claim is gone and its policy is Retain",
		Hint: "remove spec.claimRef to let another claim have the volume and its data, or delete it",
	}}}}
}

func fail(pv *corev1.PersistentVolume, reason, message string, absent []object.Ref) plan.Plan {
	p := phase(pv, corev1.VolumeFailed, reason, message, absent...)
	if len(p.Actions) > 0 {
		p.Events = []plan.Event{event(pv, corev1.EventTypeWarning, reason, message)}
	}
	p.Why = plan.Why{State: plan.Stuck, Waits: []plan.Wait{{Reason: reason, Message: message, Hint: "delete the volume by hand"}}}
	return p
}

// giveUp removes a volume: first its directory, by the agent of a node that reaches it, then the
// object. The agent and the API server decide again, by the same rule on what they read themselves.
func giveUp(in plan.Input, pv *corev1.PersistentVolume, absent []object.Ref) plan.Plan {
	if !slices.Contains(pv.Finalizers, reclaim.DataFinalizer) {
		return deleteObject(pv, absent)
	}
	if why := reclaim.Keeps(pv); why != "" {
		p := dropData(pv, "its data stay: "+why, absent)
		if pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete && pv.Spec.HostPath != nil {
			p.Events = []plan.Event{event(pv, corev1.EventTypeWarning, "VolumeDataAbandoned",
				fmt.Sprintf("%s: the directory %s is left to the administrator", why, pv.Spec.HostPath.Path))}
		}
		return p
	}
	node, gone := reclaimer(in.Reader, pv)
	switch {
	case gone != nil:
		p := dropData(pv, "the node that held its data is gone", append(slices.Clone(absent), *gone))
		p.Events = []plan.Event{event(pv, corev1.EventTypeWarning, "VolumeDataAbandoned",
			fmt.Sprintf("node %s is gone: the directory %s, if it still exists there, is left to the administrator", gone.Name, pv.Spec.HostPath.Path))}
		return p
	case node == "":
		return plan.Plan{Why: plan.Why{State: plan.Waiting, Next: "remove the data", Waits: []plan.Wait{{
			Reason: "NoReadyNode", Message: "no ready node can remove the volume's directory", Hint: "start a node",
		}}}}
	case reclaim.Assigned(pv) == node:
		return plan.Plan{Why: plan.Why{State: plan.Waiting, Next: "delete the volume", Waits: []plan.Wait{{
			Reason: "VolumeData", Message: "node " + node + " removes the volume's directory",
			On: object.Ref{Resource: resource.Nodes, Key: object.Key{Name: node}}, Hint: "its events and the log of that node's agent say why it does not",
		}}}}
	}
	next := pv.DeepCopy()
	metav1.SetMetaDataLabel(&next.ObjectMeta, reclaim.By, node)
	return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, When: plan.AllAbsent(absent...), Because: "its claim is gone: node " + node + " is to remove its directory"}}}
}

// reclaimer chooses the node that removes a volume's directory: the one it is on, or any ready
// one that shares it. gone is the node it was on, when the snapshot no longer shows that.
func reclaimer(r object.Reader, pv *corev1.PersistentVolume) (node string, gone *object.Ref) {
	if reclaim.Maker(pv) == Local {
		hostname := reclaim.Hostname(pv)
		if n := getNode(r, hostname); n != nil {
			return n.Name, nil
		}
		for _, o := range r.List(resource.Nodes, "") {
			if o.GetLabels()[corev1.LabelHostname] == hostname {
				return o.GetName(), nil
			}
		}
		return "", &object.Ref{Resource: resource.Nodes, Key: object.Key{Name: hostname}}
	}
	if name := reclaim.Assigned(pv); name != "" && nodeReady(getNode(r, name)) {
		return name, nil
	}
	// A simulated node removes nothing: it will do only where there are no others.
	played, real := "", false
	for _, o := range r.List(resource.Nodes, "") {
		n := o.(*corev1.Node)
		switch {
		case !nodestate.Simulated(n) && nodeReady(n):
			return n.Name, nil
		case !nodestate.Simulated(n):
			real = true
		case played == "" && nodeReady(n):
			played = n.Name
		}
	}
	if real {
		return "", nil
	}
	return played, nil
}

func dropData(pv *corev1.PersistentVolume, because string, absent []object.Ref) plan.Plan {
	next := pv.DeepCopy()
	next.Finalizers = without(next.Finalizers, reclaim.DataFinalizer)
	return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, When: plan.AllAbsent(absent...), Because: because}}}
}

// deleteObject deletes a volume that no data belong to any longer. Those of other provisioners
// are theirs to delete.
func deleteObject(pv *corev1.PersistentVolume, absent []object.Ref) plan.Plan {
	switch {
	case pv.DeletionTimestamp != nil:
		return plan.Plan{}
	case ours(pv):
		return plan.Plan{Actions: []plan.Action{plan.Delete{Object: object.RefOf(pv), When: plan.AllAbsent(absent...), Because: "its claim is gone and its data are removed"}}}
	case pv.Annotations[helper.AnnDynamicallyProvisioned] != "":
		return plan.Plan{Why: plan.Why{State: plan.Waiting, Waits: []plan.Wait{{
			Reason: "ExternalDeletion", Message: "its provisioner " + pv.Annotations[helper.AnnDynamicallyProvisioned] + " is to delete it",
		}}}}
	}
	return fail(pv, "VolumeFailedDelete", fmt.Sprintf("Error getting deleter volume plugin for volume %q: no volume plugin matched", pv.Name), absent)
}
