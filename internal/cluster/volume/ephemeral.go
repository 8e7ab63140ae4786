package volume

import (
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ephemeralvolume "k8s.io/component-helpers/storage/ephemeral"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
)

// reasonNoClaim is the reason of the event and of the wait when an ephemeral volume has no claim.
const reasonNoClaim = "EphemeralVolumeClaim"

// ephemeralClaims makes the claims of generic ephemeral volumes (KEP-1698). The pod owns them: they go with it.
func ephemeralClaims() plan.Controller {
	return plan.Controller{
		Name: "ephemeral-volume-controller", For: resource.Pods, Indexes: indexes,
		Cares:   ephemeralCares,
		Watches: []plan.Watch{{Resource: resource.PersistentVolumeClaims, Keys: podsOfLostClaim}},
		Plan:    planEphemeralClaims,
	}
}

// ephemeralCares is for pods that come: their volumes do not change.
func ephemeralCares(before, after object.Object) bool {
	return before == nil && after != nil && wantsClaims(after.(*corev1.Pod))
}

// wantsClaims says whether a pod is to have claims made for it.
func wantsClaims(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil || podstate.Ended(pod) {
		return false
	}
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Ephemeral != nil {
			return true
		}
	}
	return false
}

// podsOfLostClaim asks for the pods whose ephemeral volumes have the name of a claim that is gone: it was theirs, or
// it was another's and in their way.
func podsOfLostClaim(r object.Reader, before, after object.Object) []object.Key {
	if before == nil || after != nil {
		return nil
	}
	var keys []object.Key
	for _, o := range r.Indexed(resource.Pods, indexUsers, object.KeyOf(before).String()) {
		if wantsClaims(o.(*corev1.Pod)) {
			keys = append(keys, object.KeyOf(o))
		}
	}
	return keys
}

func planEphemeralClaims(in plan.Input) plan.Plan {
	o, ok := in.Reader.Get(resource.Pods, in.Key.Namespace, in.Key.Name)
	if !ok || !wantsClaims(o.(*corev1.Pod)) {
		return plan.Plan{}
	}
	pod, p := o.(*corev1.Pod), plan.Plan{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		name := ephemeralvolume.VolumeClaimName(pod, v)
		there := getClaim(in.Reader, object.Key{Namespace: pod.Namespace, Name: name})
		if there == nil {
			p.Actions = append(p.Actions, makeClaim(pod, v, name))
			continue
		}
		if err := ephemeralvolume.VolumeIsForPod(pod, there); err != nil {
			p.Events = append(p.Events, event(pod, corev1.EventTypeWarning, reasonNoClaim, fmt.Sprintf("volume %s: %v", v.Name, err)))
		}
	}
	return p
}

func makeClaim(pod *corev1.Pod, v *corev1.Volume, name string) plan.Action {
	t, alive := v.Ephemeral.VolumeClaimTemplate, object.RefOf(pod)
	return plan.Create{
		Object: &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: pod.Namespace, Name: name,
				Labels: maps.Clone(t.Labels), Annotations: maps.Clone(t.Annotations),
				OwnerReferences: []metav1.OwnerReference{claim.Reference(pod)},
			},
			Spec: *t.Spec.DeepCopy(),
		},
		Because: fmt.Sprintf("volume %s of pod %s is ephemeral and needs a claim", v.Name, pod.Name),
		Failed: &plan.Event{
			Regarding: alive, Type: corev1.EventTypeWarning, Reason: reasonNoClaim,
			Message: fmt.Sprintf("the claim %s of volume %s cannot be made: %s", name, v.Name, plan.TellError),
		},
	}
}
