package statefulset_test

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/plan"
	kinds "coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/statefulset"
)

// BenchmarkPlan is one pass over a settled StatefulSet with one claim per pod.
func BenchmarkPlan(b *testing.B) {
	for _, n := range []int32{10, 300} {
		w := model.New(epoch, statefulset.Controller())
		w.Put(&appsv1.StatefulSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
			Spec: appsv1.StatefulSetSpec{
				Replicas:            &n,
				PodManagementPolicy: appsv1.ParallelPodManagement,
				Selector:            &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
				UpdateStrategy:      appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "good:0"}}},
				},
				VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"},
					Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{
						Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}},
			},
		})
		for range 5 {
			w.Apply(statefulset.Plan(plan.Input{Reader: w, Key: key, Now: w.Now}))
			for _, o := range w.List(kinds.Pods, ns) {
				model.Edit(w, ns, o.GetName(), func(p *corev1.Pod) {
					p.Status.Phase = corev1.PodRunning
					p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: epoch}}}
				})
			}
		}
		w.Indexed(kinds.Pods, "", "")
		b.Run(fmt.Sprintf("replicas=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if p := statefulset.Plan(plan.Input{Reader: w, Key: key, Now: w.Now.Add(time.Minute)}); len(p.Actions) > 0 || p.Status != nil {
					b.Fatalf("not settled: %+v", p)
				}
			}
		})
	}
}
