package statefulset

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// newPod returns the pod of an ordinal at a revision: its name, hostname, subdomain, labels and
// claims. Nothing is shared with the template.
func newPod(set *appsv1.StatefulSet, ordinal int, template *corev1.PodTemplateSpec, revision string) *corev1.Pod {
	t := template.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       set.Namespace,
			Name:            podNameAt(set, ordinal),
			Labels:          t.Labels,
			Annotations:     t.Annotations,
			Finalizers:      t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{setRef(set)},
		},
		Spec: t.Spec,
	}
	if pod.Labels == nil {
		pod.Labels = make(map[string]string, 3)
	}
	setIdentity(pod, ordinal)
	pod.Labels[appsv1.StatefulSetRevisionLabel] = revision
	pod.Spec.Hostname = pod.Name
	pod.Spec.Subdomain = set.Spec.ServiceName
	pod.Spec.Volumes = volumes(set, ordinal, pod.Spec.Volumes)
	return pod
}

func setIdentity(pod *corev1.Pod, ordinal int) {
	pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
}

// identityHolds says whether a member still carries the labels of its identity.
func identityHolds(pod *corev1.Pod, ordinal int) bool {
	return pod.Labels[appsv1.StatefulSetPodNameLabel] == pod.Name && pod.Labels[appsv1.PodIndexLabel] == strconv.Itoa(ordinal)
}

// volumes puts the claims of an ordinal before the template's own volumes; a claim template hides
// a volume of the same name.
func volumes(set *appsv1.StatefulSet, ordinal int, own []corev1.Volume) []corev1.Volume {
	templates := set.Spec.VolumeClaimTemplates
	if len(templates) == 0 {
		return own
	}
	out := make([]corev1.Volume, 0, len(templates)+len(own))
	for i := range templates {
		out = append(out, corev1.Volume{
			Name: templates[i].Name,
			VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{
				ClaimName: claimName(set, &templates[i], ordinal),
			}},
		})
	}
	for i := range own {
		hidden := slices.ContainsFunc(templates, func(t corev1.PersistentVolumeClaim) bool { return t.Name == own[i].Name })
		if !hidden {
			out = append(out, own[i])
		}
	}
	return out
}

// usesItsClaims says whether a pod mounts the claims of its identity. An adopted pod may not, and
// a pod's volumes cannot be changed.
func usesItsClaims(set *appsv1.StatefulSet, pod *corev1.Pod, ordinal int) bool {
	for i := range set.Spec.VolumeClaimTemplates {
		t := &set.Spec.VolumeClaimTemplates[i]
		has := slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == t.Name && v.PersistentVolumeClaim != nil && isClaimName(v.PersistentVolumeClaim.ClaimName, set, t, ordinal)
		})
		if !has {
			return false
		}
	}
	return true
}

// claimName returns "<template>-<set>-<ordinal>".
func claimName(set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) string {
	return template.Name + "-" + set.Name + "-" + strconv.Itoa(ordinal)
}

// isClaimName compares without building the name: it is asked for every pod on every pass.
func isClaimName(name string, set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) bool {
	rest, ok := strings.CutPrefix(name, template.Name)
	if !ok {
		return false
	}
	if rest, ok = strings.CutPrefix(rest, "-"); !ok {
		return false
	}
	if rest, ok = strings.CutPrefix(rest, set.Name); !ok {
		return false
	}
	if rest, ok = strings.CutPrefix(rest, "-"); !ok {
		return false
	}
	n, err := strconv.Atoi(rest)
	return err == nil && n == ordinal
}

// newClaim returns the claim of a template for an ordinal. Labels of the set's selector come with
// it, so that claims are found by the pods' labels.
func newClaim(set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) *corev1.PersistentVolumeClaim {
	c := template.DeepCopy()
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   set.Namespace,
			Name:        claimName(set, template, ordinal),
			Labels:      c.Labels,
			Annotations: c.Annotations,
			Finalizers:  c.Finalizers,
		},
		Spec: c.Spec,
	}
	if set.Spec.Selector != nil && len(set.Spec.Selector.MatchLabels) > 0 {
		if claim.Labels == nil {
			claim.Labels = make(map[string]string, len(set.Spec.Selector.MatchLabels))
		}
		maps.Copy(claim.Labels, set.Spec.Selector.MatchLabels)
	}
	return claim
}
