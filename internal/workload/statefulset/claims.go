package statefulset

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// holder is who owns a claim by the retention policy (KEP-1847). The garbage collector deletes the
// claim when its holder goes.
type holder int

const (
	nobody holder = iota
	theSet
	thePod
)

// holderFor returns the holder of a member's claims. scaledDown says that the member's ordinal is
// no longer wanted.
func holderFor(set *appsv1.StatefulSet, scaledDown bool) holder {
	policy := set.Spec.PersistentVolumeClaimRetentionPolicy
	if policy == nil {
		return nobody
	}
	switch {
	case scaledDown && policy.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		return thePod
	case policy.WhenDeleted != appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		return nobody
	default:
		return theSet
	}
}

func isSetRef(set *appsv1.StatefulSet, ref *metav1.OwnerReference) bool {
	return ref.Kind == controllerKind.Kind && ref.APIVersion == controllerKind.GroupVersion().String() && ref.UID == set.UID
}

// isPodRef says whether a reference names a member by name; of another UID, it is stale.
func isPodRef(ref *metav1.OwnerReference, podName string) bool {
	return ref.Kind == "Pod" && ref.APIVersion == "v1" && ref.Name == podName
}

// held returns the owner references a claim should have, and whether it has them already. A claim
// that somebody else controls is left to them: the set's and the pod's references are only removed.
func held(set *appsv1.StatefulSet, pod *corev1.Pod, claim *corev1.PersistentVolumeClaim, by holder) (refs []metav1.OwnerReference, right bool) {
	if by == nobody && len(claim.OwnerReferences) == 0 {
		return nil, true
	}
	ours := func(ref metav1.OwnerReference) bool {
		return isSetRef(set, &ref) || pod != nil && ref.Kind == "Pod" && ref.APIVersion == "v1" && ref.UID == pod.UID
	}
	others := slices.DeleteFunc(slices.Clone(claim.OwnerReferences), ours)
	if slices.ContainsFunc(others, func(ref metav1.OwnerReference) bool { return ref.Controller != nil && *ref.Controller }) {
		by = nobody
	}
	refs = others
	switch {
	case by == theSet:
		refs = append(refs, setRef(set))
	case by == thePod && pod != nil:
		refs = append(refs, *metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod")))
	}
	if len(refs) != len(claim.OwnerReferences) {
		return refs, false
	}
	for i := range refs {
		same := func(have metav1.OwnerReference) bool {
			return have.UID == refs[i].UID && (have.Controller != nil && *have.Controller) == (refs[i].Controller != nil && *refs[i].Controller)
		}
		if !slices.ContainsFunc(claim.OwnerReferences, same) {
			return refs, false
		}
	}
	return refs, true
}

// claimAt returns the claim of a template for an ordinal.
func (d *decision) claimAt(template *corev1.PersistentVolumeClaim, ordinal int) *corev1.PersistentVolumeClaim {
	obj, ok := d.in.Reader.Get(resource.PersistentVolumeClaims, d.set.Namespace, claimName(d.set, template, ordinal))
	if !ok {
		return nil
	}
	claim, _ := obj.(*corev1.PersistentVolumeClaim)
	return claim
}

// needClaims plans the missing claims of an ordinal. A claim that is going away, or has just gone, stands in the way of
// its successor, and of the pod: then it returns false.
func (d *decision) needClaims(ordinal int, into *[]plan.Action) bool {
	free := true
	for i := range d.set.Spec.VolumeClaimTemplates {
		t := &d.set.Spec.VolumeClaimTemplates[i]
		claim := d.claimAt(t, ordinal)
		if claim == nil {
			if d.justFreed(resource.PersistentVolumeClaims, claimName(d.set, t, ordinal)) {
				free = false
				continue
			}
			*into = append(*into, d.createClaim(t, ordinal))
			continue
		}
		if w, leaving := d.leaving(claim, ordinal); leaving {
			d.wait(w)
			free = false
		}
	}
	return free
}

// leaving says whether a claim is being deleted, or is about to be because its holder was an
// earlier pod of this identity that is gone.
func (d *decision) leaving(claim *corev1.PersistentVolumeClaim, ordinal int) (plan.Wait, bool) {
	name := podNameAt(d.set, ordinal)
	if claim.DeletionTimestamp != nil {
		return plan.Wait{
			Reason:  "ClaimTerminating",
			Message: fmt.Sprintf("pod %s cannot be made while its claim %s is being deleted", name, claim.Name),
			On:      object.RefOf(claim),
			Since:   claim.DeletionTimestamp.Time,
		}, true
	}
	policy := d.set.Spec.PersistentVolumeClaimRetentionPolicy
	if policy == nil || policy.WhenScaled != appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		return plan.Wait{}, false
	}
	for i := range claim.OwnerReferences {
		if isPodRef(&claim.OwnerReferences[i], name) {
			return plan.Wait{
				Reason:  "ClaimStale",
				Message: fmt.Sprintf("pod %s cannot be made until its claim %s, which goes with the pod that was scaled away, is collected", name, claim.Name),
				On:      object.RefOf(claim),
			}, true
		}
	}
	return plan.Wait{}, false
}

func (d *decision) createClaim(t *corev1.PersistentVolumeClaim, ordinal int) plan.Action {
	claim := newClaim(d.set, t, ordinal)
	if holderFor(d.set, false) == theSet {
		claim.OwnerReferences = []metav1.OwnerReference{setRef(d.set)}
	}
	pod := podNameAt(d.set, ordinal)
	return plan.Create{
		Object:  claim,
		Because: fmt.Sprintf("pod %s has no claim for %s", pod, t.Name),
		Done:    d.told("SuccessfulCreate", fmt.Sprintf("create Claim %s Pod %s in StatefulSet %s success", claim.Name, pod, d.set.Name)),
		Failed:  d.refused("FailedCreate", fmt.Sprintf("create Claim %s for Pod %s in StatefulSet %s failed error: %s", claim.Name, pod, d.set.Name, plan.TellError)),
	}
}

// settleClaims plans the owner references that the retention policy asks for on a member's claims.
func (d *decision) settleClaims(m member, scaledDown bool) {
	by := holderFor(d.set, scaledDown)
	for i := range d.set.Spec.VolumeClaimTemplates {
		claim := d.claimAt(&d.set.Spec.VolumeClaimTemplates[i], m.ordinal)
		if claim == nil || claim.DeletionTimestamp != nil {
			continue
		}
		refs, right := held(d.set, m.pod, claim, by)
		if right {
			continue
		}
		next := claim.DeepCopy()
		next.OwnerReferences = refs
		d.touch(claim.Name)
		d.do(plan.Update{
			Object:  next,
			Because: fmt.Sprintf("the retention policy says who holds the claims of %s", m.pod.Name),
			Failed:  d.refused("FailedUpdate", fmt.Sprintf("update Claim %s for Pod %s in StatefulSet %s failed error: %s", claim.Name, m.pod.Name, d.set.Name, plan.TellError)),
		})
	}
}

// growClaims plans the growth of claims whose template now asks for more, where their class allows
// expansion, and returns the names of those that it does not allow to grow.
func (d *decision) growClaims() (barred []string) {
	for i := range d.set.Spec.VolumeClaimTemplates {
		t := &d.set.Spec.VolumeClaimTemplates[i]
		want, asked := t.Spec.Resources.Requests[corev1.ResourceStorage]
		if !asked {
			continue
		}
		for _, ordinal := range d.ordinals {
			claim := d.claimAt(t, ordinal)
			if claim == nil || claim.DeletionTimestamp != nil || d.touched[claim.Name] {
				continue
			}
			have := claim.Spec.Resources.Requests[corev1.ResourceStorage]
			if have.Cmp(want) >= 0 {
				continue
			}
			if !d.expandable(claim) {
				barred = append(barred, claim.Name)
				continue
			}
			if claim.Status.Phase != corev1.ClaimBound {
				d.wait(plan.Wait{
					Reason:  "ClaimNotBound",
					Message: fmt.Sprintf("claim %s grows to %s once it is bound", claim.Name, want.String()),
					On:      object.RefOf(claim),
				})
				continue
			}
			next := claim.DeepCopy()
			next.Spec.Resources.Requests[corev1.ResourceStorage] = want.DeepCopy()
			d.do(plan.Update{
				Object:  next,
				Because: fmt.Sprintf("the template %s asks for %s, the claim for %s", t.Name, want.String(), have.String()),
				Done:    d.told("ClaimResized", fmt.Sprintf("claim %s grows from %s to %s", claim.Name, have.String(), want.String())),
				Failed:  d.refused("FailedUpdate", fmt.Sprintf("update Claim %s in StatefulSet %s failed error: %s", claim.Name, d.set.Name, plan.TellError)),
			})
		}
	}
	return barred
}

// expandable says whether a claim's class allows expansion; a claim without a class has none.
func (d *decision) expandable(claim *corev1.PersistentVolumeClaim) bool {
	if claim.Spec.StorageClassName == nil || *claim.Spec.StorageClassName == "" {
		return false
	}
	obj, ok := d.in.Reader.Get(resource.StorageClasses, "", *claim.Spec.StorageClassName)
	if !ok {
		return false
	}
	class, _ := obj.(*storagev1.StorageClass)
	return class != nil && allowsGrowth(class)
}
