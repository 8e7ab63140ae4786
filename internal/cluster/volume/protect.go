package volume

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podclaim"
	"coracle/internal/resource"
)

// claimProtection keeps a deleted claim for as long as a pod uses it (Storage Object in Use
// Protection).
func claimProtection() plan.Controller {
	return plan.Controller{
		Name: "persistentvolumeclaim-protection-controller", For: resource.PersistentVolumeClaims, Indexes: indexes,
		Cares:   protectionCares,
		Watches: []plan.Watch{{Resource: resource.Pods, Keys: claimsLeft}},
		Plan:    planClaimProtection,
	}
}

// protectionCares is for both protections: only creation, deletion and a change of finalizers or
// (for volumes) of the phase bear on them.
func protectionCares(before, after object.Object) bool {
	return after != nil && (before == nil || (before.GetDeletionTimestamp() == nil) != (after.GetDeletionTimestamp() == nil) ||
		!slices.Equal(before.GetFinalizers(), after.GetFinalizers()))
}

// claimsLeft asks for the claims that a pod no longer uses.
func claimsLeft(_ object.Reader, before, after object.Object) []object.Key {
	if before == nil || after != nil {
		return nil
	}
	pod := before.(*corev1.Pod)
	var keys []object.Key
	for _, name := range podclaim.All(pod) {
		keys = append(keys, object.Key{Namespace: pod.Namespace, Name: name})
	}
	return keys
}

func planClaimProtection(in plan.Input) plan.Plan {
	c := getClaim(in.Reader, in.Key)
	if c == nil {
		return plan.Plan{}
	}
	protected := slices.Contains(c.Finalizers, pvcProtection)
	switch {
	case c.DeletionTimestamp == nil && !protected:
		next := c.DeepCopy()
		next.Finalizers = append(next.Finalizers, pvcProtection)
		return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, Because: "a claim must not go while a pod uses it"}}}
	case c.DeletionTimestamp == nil || !protected:
		return plan.Plan{}
	}
	for _, o := range in.Reader.Indexed(resource.Pods, indexUsers, in.Key.String()) {
		if holds(o, c.Name) {
			return plan.Plan{Why: plan.Why{State: plan.Waiting, Next: "let the claim go", Waits: []plan.Wait{{
				Reason: "InUse", On: object.RefOf(o), Since: c.DeletionTimestamp.Time,
				Message: fmt.Sprintf("pod %s uses the claim", o.GetName()), Hint: "delete the pod",
			}}}}
		}
	}
	next := c.DeepCopy()
	next.Finalizers = without(next.Finalizers, pvcProtection)
	// The snapshot may lack a pod that was just placed, and data are at stake: ask.
	unused := plan.Empty{
		Namespace: c.Namespace, Kinds: []resource.Resource{resource.Pods},
		Match: func(o object.Object) bool { return holds(o, c.Name) },
	}
	return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, When: []plan.Guard{unused}, Because: "no pod uses it"}}}
}

// holds says that a pod keeps a claim of its namespace. One that has no node yet does not: it
// will find the claim gone, as upstream has it.
func holds(o object.Object, claim string) bool {
	pod := o.(*corev1.Pod)
	return pod.Spec.NodeName != "" && slices.Contains(podclaim.All(pod), claim)
}

// volumeProtection keeps a deleted volume for as long as a claim is bound to it.
func volumeProtection() plan.Controller {
	return plan.Controller{
		Name: "persistentvolume-protection-controller", For: resource.PersistentVolumes,
		Cares: func(before, after object.Object) bool {
			return protectionCares(before, after) || before != nil && after != nil &&
				before.(*corev1.PersistentVolume).Status.Phase != after.(*corev1.PersistentVolume).Status.Phase
		},
		Plan: planVolumeProtection,
	}
}

func planVolumeProtection(in plan.Input) plan.Plan {
	pv := getVolume(in.Reader, in.Key.Name)
	if pv == nil {
		return plan.Plan{}
	}
	protected := slices.Contains(pv.Finalizers, pvProtection)
	next := pv.DeepCopy()
	switch {
	case pv.DeletionTimestamp == nil && !protected:
		next.Finalizers = append(next.Finalizers, pvProtection)
		return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, Because: "a volume must not go while a claim is bound to it"}}}
	case pv.DeletionTimestamp != nil && protected && pv.Status.Phase != corev1.VolumeBound:
		next.Finalizers = without(next.Finalizers, pvProtection)
		return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, Because: "no claim is bound to it"}}}
	}
	return plan.Plan{}
}
