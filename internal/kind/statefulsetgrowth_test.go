package kind

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestClaimTemplatesOnlyGrow(t *testing.T) {
	set := func(change func(*corev1.PersistentVolumeClaim)) *appsv1.StatefulSet {
		claim := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
		change(&claim)
		s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: appsv1.StatefulSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}}},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{claim}}}
		defaultStatefulSet(s)
		return s
	}
	size := func(text string) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse(text)
		}
	}
	old := set(size("1Gi"))
	more := set(size("1Gi"))
	more.Spec.VolumeClaimTemplates = append(more.Spec.VolumeClaimTemplates, *set(func(c *corev1.PersistentVolumeClaim) { c.Name = "logs" }).Spec.VolumeClaimTemplates[0].DeepCopy())
	for _, tc := range []struct {
		name string
		next *appsv1.StatefulSet
		ok   bool
	}{
		{"same", set(size("1024Mi")), true},
		{"larger", set(size("2Gi")), true},
		{"smaller", set(size("512Mi")), false},
		{"another mode", set(func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}), false},
		{"another name", set(func(c *corev1.PersistentVolumeClaim) { c.Name = "other" }), false},
		{"one more", more, false},
	} {
		if errs := validateStatefulSetUpdate(tc.next, old); (len(errs) == 0) != tc.ok {
			t.Errorf("%s: %v", tc.name, errs)
		}
	}
}
