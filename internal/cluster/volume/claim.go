package volume

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	helper "k8s.io/component-helpers/storage/volume"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podclaim"
	"coracle/internal/resource"
)

// claims is the binder's half that decides claim by claim.
func (cfg Config) claims() plan.Controller {
	return plan.Controller{
		Name: binder, For: resource.PersistentVolumeClaims, Indexes: indexes,
		Watches: []plan.Watch{
			{Resource: resource.PersistentVolumes, Keys: claimsByVolume},
			{Resource: resource.StorageClasses, Keys: claimsByClass},
			{Resource: resource.Nodes, Keys: claimsByNode},
			{Resource: resource.Pods, Keys: claimsByPod},
		},
		Plan: cfg.planClaim,
	}
}

// claimsByVolume asks for the claim a volume names, and for those that might take a free one.
func claimsByVolume(r object.Reader, before, after object.Object) []object.Key {
	var keys []object.Key
	for _, o := range []object.Object{before, after} {
		if o == nil {
			continue
		}
		if v := o.(*corev1.PersistentVolume); v.Spec.ClaimRef != nil {
			keys = append(keys, claimKey(v.Spec.ClaimRef))
		}
	}
	if after != nil && after.(*corev1.PersistentVolume).Spec.ClaimRef == nil {
		class := helper.GetPersistentVolumeClass(after.(*corev1.PersistentVolume))
		keys = append(keys, keysOf(r.Indexed(resource.PersistentVolumeClaims, indexPending, class))...)
	}
	return keys
}

func claimsByClass(r object.Reader, before, after object.Object) []object.Key {
	o := after
	if o == nil {
		o = before
	}
	keys := keysOf(r.Indexed(resource.PersistentVolumeClaims, indexPending, o.GetName()))
	if o.GetAnnotations()[defaultClass] == "true" {
		keys = append(keys, keysOf(r.Indexed(resource.PersistentVolumeClaims, indexPending, ""))...)
	}
	return keys
}

// claimsByNode asks for claims that wait for a node to come, go, or say where its volumes are.
func claimsByNode(r object.Reader, before, after object.Object) []object.Key {
	if before != nil && after != nil && before.GetAnnotations()[RootAnnotation] == after.GetAnnotations()[RootAnnotation] {
		return nil
	}
	o := after
	if o == nil {
		o = before
	}
	return keysOf(r.Indexed(resource.PersistentVolumeClaims, indexSelected, o.GetName()))
}

// claimsByPod asks for claims that wait for their first consumer when one comes, goes, or gets its node.
func claimsByPod(r object.Reader, before, after object.Object) []object.Key {
	if before != nil && after != nil && before.(*corev1.Pod).Spec.NodeName == after.(*corev1.Pod).Spec.NodeName {
		return nil
	}
	o := after
	if o == nil {
		o = before
	}
	var keys []object.Key
	for _, name := range podclaim.All(o.(*corev1.Pod)) {
		k := object.Key{Namespace: o.GetNamespace(), Name: name}
		if c := getClaim(r, k); c != nil && !isBound(c) && c.Annotations[helper.AnnSelectedNode] == "" {
			keys = append(keys, k)
		}
	}
	return keys
}

// decision gathers one claim's plan.
type decision struct {
	cfg   Config
	in    plan.Input
	r     object.Reader
	claim *corev1.PersistentVolumeClaim
	plan  plan.Plan
}

func (cfg Config) planClaim(in plan.Input) plan.Plan {
	claim := getClaim(in.Reader, in.Key)
	if claim == nil {
		return plan.Plan{}
	}
	d := &decision{cfg: cfg, in: in, r: in.Reader, claim: claim}
	switch {
	case isBound(claim):
		d.keepBound()
	case claim.DeletionTimestamp != nil:
	case claim.Spec.VolumeName != "":
		d.bindAsked()
	default:
		d.bindAny()
	}
	if in.Last != nil && len(d.plan.Actions) > 0 {
		// What the actions would make true is not known to be: the pass after them will tell.
		d.plan.Status = nil
	}
	return d.plan
}

// tell adds an event about the claim.
func (d *decision) tell(kind, reason, message string) {
	d.plan.Events = append(d.plan.Events, event(d.claim, kind, reason, message))
}

func (d *decision) wait(state plan.State, reason, message string, on object.Ref, hint string) {
	d.plan.Why = plan.Why{State: state, Next: "bind the claim", Waits: []plan.Wait{{
		Reason: reason, Message: message, On: on, Hint: hint, Since: d.claim.CreationTimestamp.Time,
	}}}
}

// refuse tells and explains what the user must put right.
func (d *decision) refuse(reason, message, hint string) {
	d.tell(corev1.EventTypeWarning, reason, message)
	d.wait(plan.Stuck, reason, message, object.Ref{}, hint)
}

// status plans the claim's status when it differs.
func (d *decision) status(of *corev1.PersistentVolumeClaim, s corev1.PersistentVolumeClaimStatus) {
	if apiequality.Semantic.DeepEqual(d.claim.Status, s) {
		return
	}
	next := of.DeepCopy()
	next.Status = s
	d.plan.Status = next
}

// keepBound looks after a claim whose binding was complete once.
func (d *decision) keepBound() {
	c := d.claim
	if c.Spec.VolumeName == "" {
		d.lose("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
		return
	}
	pv := getVolume(d.r, c.Spec.VolumeName)
	switch {
	case pv == nil:
		d.lose("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case pv.Spec.ClaimRef == nil:
		if c.DeletionTimestamp == nil {
			d.bind(pv, "the claim is bound to it")
		}
	case pv.Spec.ClaimRef.UID == c.UID:
		d.bind(pv, "")
		d.expand(pv)
	default:
		d.lose("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
	}
}

func (d *decision) lose(reason, message string) {
	if d.claim.Status.Phase != corev1.ClaimLost {
		d.status(d.claim, corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimLost, Conditions: d.claim.Status.Conditions})
		d.tell(corev1.EventTypeWarning, reason, message)
	}
	d.wait(plan.Stuck, reason, message, object.Ref{}, "restore the PersistentVolume, or delete the claim")
}

// bindAsked binds a claim to the volume it asks for by name.
func (d *decision) bindAsked() {
	c := d.claim
	pv := getVolume(d.r, c.Spec.VolumeName)
	switch {
	case pv == nil:
		d.pend()
		d.wait(plan.Stuck, "VolumeNotFound", fmt.Sprintf("the PersistentVolume %q that the claim asks for does not exist", c.Spec.VolumeName),
			object.Ref{Resource: resource.PersistentVolumes, Key: object.Key{Name: c.Spec.VolumeName}}, "create the volume, or make a claim without volumeName")
	case pv.Spec.ClaimRef == nil:
		if why := unfit(pv, c); why != "" {
			d.pend()
			d.refuse("VolumeMismatch", fmt.Sprintf("Cannot bind to requested volume %q: %s", pv.Name, why), "change the volume or the claim")
			return
		}
		d.bind(pv, "the claim asks for it")
	case helper.IsVolumeBoundToClaim(pv, c):
		d.bind(pv, "it is reserved for the claim")
	default:
		d.pend()
		d.refuse("FailedBinding", fmt.Sprintf("volume %q already bound to a different claim.", pv.Name), "make a claim without volumeName")
	}
}

// unfit says in upstream's words why a volume cannot serve a claim that names it, or "".
func unfit(pv *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) string {
	want, have := c.Spec.Resources.Requests[corev1.ResourceStorage], pv.Spec.Capacity[corev1.ResourceStorage]
	switch {
	case hasSource(c):
		return "the claim is to begin with the data of its dataSource, and the volume was made without"
	case pv.DeletionTimestamp != nil:
		return "the volume is marked for deletion " + pv.Name
	case have.Cmp(want) < 0:
		return "requested PV is too small"
	case helper.GetPersistentVolumeClass(pv) != helper.GetPersistentVolumeClaimClass(c):
		return "storageClassName does not match"
	case helper.CheckVolumeModeMismatches(&c.Spec, &pv.Spec):
		return "incompatible volumeMode"
	case !helper.CheckAccessModes(c, pv):
		return "incompatible accessMode"
	}
	return ""
}

// hasSource says that a claim's volume is to begin with data of something else: no free volume does.
func hasSource(c *corev1.PersistentVolumeClaim) bool {
	return c.Spec.DataSource != nil || c.Spec.DataSourceRef != nil
}

func (d *decision) pend() {
	if d.claim.Status.Phase != corev1.ClaimPending {
		d.status(d.claim, corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending, Conditions: d.claim.Status.Conditions})
	}
}

// bindAny finds a claim a volume, or has one made.
func (d *decision) bindAny() {
	c := d.claim
	if !helper.PersistentVolumeClaimHasClass(c) {
		if class := defaultOf(d.r); class != "" {
			next := c.DeepCopy()
			next.Spec.StorageClassName = &class
			d.plan.Actions = []plan.Action{plan.Update{Object: next, Because: "it names no class, and there is a default one"}}
			return
		}
	}
	name := helper.GetPersistentVolumeClaimClass(c)
	class := getClass(d.r, name)
	waits := class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	// A class that waits takes free volumes only by the scheduler's hand, which knows the node.
	pv, err := helper.FindMatchingVolume(c, d.candidates(name), nil, nil, waits, true)
	switch {
	case err != nil:
		d.pend()
		d.refuse("FailedBinding", err.Error(), "correct the claim's selector")
	case pv != nil:
		d.bind(pv, "it fits the claim")
	case waits && c.Annotations[helper.AnnSelectedNode] == "":
		d.pend()
		if !d.bindForPlaced(class) {
			d.waitForConsumer()
		}
	case name == "":
		d.pend()
		d.tell(corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
		d.wait(plan.Stuck, "FailedBinding", "no persistent volumes available for this claim and no storage class is set", object.Ref{},
			"create a PersistentVolume, or set storageClassName (kubectl get storageclass)")
	case class == nil:
		d.pend()
		d.refuse("ProvisioningFailed", fmt.Sprintf("storageclass.storage.k8s.io %q not found", name), "create the StorageClass, or name one that exists (kubectl get storageclass)")
		d.plan.Why.Waits[0].On = object.Ref{Resource: resource.StorageClasses, Key: object.Key{Name: name}}
	default:
		d.provision(class)
	}
}

// candidates are the volumes reserved for the claim, and the free ones of its class.
func (d *decision) candidates(class string) []*corev1.PersistentVolume {
	var out []*corev1.PersistentVolume
	for _, o := range d.r.Indexed(resource.PersistentVolumes, indexClaim, object.KeyOf(d.claim).String()) {
		out = append(out, o.(*corev1.PersistentVolume))
	}
	if hasSource(d.claim) {
		return out
	}
	for _, o := range d.r.Indexed(resource.PersistentVolumes, indexFree, class) {
		if v := o.(*corev1.PersistentVolume); helper.CheckAccessModes(d.claim, v) {
			out = append(out, v)
		}
	}
	return out
}

func (d *decision) waitForConsumer() {
	for _, o := range d.r.Indexed(resource.Pods, indexUsers, object.KeyOf(d.claim).String()) {
		if pod := o.(*corev1.Pod); pod.Spec.NodeName == "" {
			message := fmt.Sprintf("waiting for pod %s to be scheduled", pod.Name)
			d.tell(corev1.EventTypeNormal, "WaitForPodScheduled", message)
			d.wait(plan.Waiting, "WaitForPodScheduled", message, object.RefOf(pod), "")
			return
		}
	}
	const message = "waiting for first consumer to be created before binding"
	d.tell(corev1.EventTypeNormal, "WaitForFirstConsumer", message)
	d.wait(plan.Waiting, "WaitForFirstConsumer", message, object.Ref{}, "create a pod that uses the claim")
}

// bind makes claim and volume name each other, and shows it; because is empty when the volume
// is known to name the claim already.
func (d *decision) bind(pv *corev1.PersistentVolume, because string) {
	c := d.claim
	if next, changed, err := helper.GetBindVolumeToClaim(pv, c); err == nil && changed {
		next.Spec.ClaimRef.APIVersion, next.Spec.ClaimRef.Kind = "v1", "PersistentVolumeClaim"
		next.Spec.ClaimRef.ResourceVersion = ""
		d.plan.Actions = append(d.plan.Actions, plan.Update{Object: next, Because: because})
	}
	d.complete(pv)
}

// complete writes the claim's side of a binding.
func (d *decision) complete(pv *corev1.PersistentVolume) {
	next := d.claim
	if !isBound(next) || next.Spec.VolumeName != pv.Name {
		next = next.DeepCopy()
		if next.Spec.VolumeName != pv.Name {
			next.Spec.VolumeName = pv.Name
			annotate(&next.ObjectMeta, helper.AnnBoundByController, yes)
		}
		annotate(&next.ObjectMeta, helper.AnnBindCompleted, yes)
		d.plan.Actions = append(d.plan.Actions, plan.Update{Object: next, Because: "it is bound to volume " + pv.Name})
	}
	status := *d.claim.Status.DeepCopy()
	if status.Phase != corev1.ClaimBound || len(status.Capacity) == 0 {
		status.Capacity = corev1.ResourceList{corev1.ResourceStorage: pv.Spec.Capacity[corev1.ResourceStorage]}
	}
	status.Phase, status.AccessModes = corev1.ClaimBound, slices.Clone(pv.Spec.AccessModes)
	d.status(next, status)
	d.plan.Why = plan.Why{State: plan.Steady}
}

// expand grows a directory volume: it only needs to be said.
func (d *decision) expand(pv *corev1.PersistentVolume) {
	c := d.claim
	want := c.Spec.Resources.Requests[corev1.ResourceStorage]
	have := c.Status.Capacity[corev1.ResourceStorage]
	if c.Status.Phase != corev1.ClaimBound || want.Cmp(have) <= 0 || c.DeletionTimestamp != nil {
		return
	}
	if !ours(pv) {
		const message = "waiting for an external controller to expand this PVC"
		d.tell(corev1.EventTypeNormal, "ExternalExpanding", message)
		d.wait(plan.Waiting, "ExternalExpanding", message, object.RefOf(pv), "")
		return
	}
	if size := pv.Spec.Capacity[corev1.ResourceStorage]; size.Cmp(want) < 0 {
		next := pv.DeepCopy()
		next.Spec.Capacity[corev1.ResourceStorage] = want.DeepCopy()
		d.plan.Actions = append(d.plan.Actions, plan.Update{Object: next, Because: "the claim asks for " + want.String()})
	}
	status := *c.Status.DeepCopy()
	if d.plan.Status != nil {
		status = d.plan.Status.(*corev1.PersistentVolumeClaim).Status
	}
	status.Capacity = corev1.ResourceList{corev1.ResourceStorage: want.DeepCopy()}
	d.status(c, status)
	d.tell(corev1.EventTypeNormal, "VolumeResizeSuccessful", "Resize volume succeeded")
}

// ours says that a volume was made by a built-in provisioner.
func ours(pv *corev1.PersistentVolume) bool {
	by := pv.Annotations[helper.AnnDynamicallyProvisioned]
	return (by == Local || by == Shared) && pv.Spec.HostPath != nil
}

func getClass(r object.Reader, name string) *storagev1.StorageClass {
	if o, ok := r.Get(resource.StorageClasses, "", name); ok && name != "" {
		return o.(*storagev1.StorageClass)
	}
	return nil
}

// defaultOf names the default class, the newest where several claim to be (KEP-3333).
func defaultOf(r object.Reader) string {
	var best object.Object
	for _, o := range r.List(resource.StorageClasses, "") {
		if o.GetAnnotations()[defaultClass] != "true" {
			continue
		}
		if best == nil || o.GetCreationTimestamp().After(best.GetCreationTimestamp().Time) {
			best = o
		}
	}
	if best == nil {
		return ""
	}
	return best.GetName()
}
