package replicaset_test

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/replicaset"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// sized returns a world with one ReplicaSet that asks for want pods and has n, ready on 50 nodes.
func sized(want, n int) (*model.World, object.Key) {
	c := replicaset.Controller()
	w := model.New(epoch, c)
	replicas := int32(want)
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	set.Spec.Replicas = &replicas
	set.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web", "pod-template-hash": "abc"}}
	set.Spec.Template.Labels = set.Spec.Selector.MatchLabels
	set.Spec.Template.Spec.Containers = []corev1.Container{{Name: "main", Image: "web:1"}}
	owner := w.Put(set)
	for i := range n {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("web-%05d", i), Labels: set.Spec.Template.Labels,
			OwnerReferences: []metav1.OwnerReference{claim.Reference(owner)}}}
		pod.Spec.NodeName, pod.Status.Phase = fmt.Sprintf("node-%d", i%50), corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: epoch.Add(-time.Duration(i) * time.Minute)}}}
		w.Put(pod)
	}
	return w, object.KeyOf(owner)
}

func bench(b *testing.B, want, n, actions int) {
	w, key := sized(want, n)
	c := replicaset.Controller()
	if want == n {
		w.Apply(c.Plan(plan.Input{Reader: w, Key: key, Now: w.Now}))
	}
	b.ReportAllocs()
	for b.Loop() {
		if p := c.Plan(plan.Input{Reader: w, Key: key, Now: w.Now}); len(p.Actions) != actions {
			b.Fatalf("%d actions, want %d", len(p.Actions), actions)
		}
	}
}

// BenchmarkPlanAtRest plans a ReplicaSet that has its 1,000 pods.
func BenchmarkPlanAtRest(b *testing.B) { bench(b, 1000, 1000, 0) }

// BenchmarkPlanCreate plans the first 500 pods of 1,000.
func BenchmarkPlanCreate(b *testing.B) { bench(b, 1000, 0, 500) }

// BenchmarkPlanScaleDown ranks 1,000 pods to delete 250.
func BenchmarkPlanScaleDown(b *testing.B) { bench(b, 750, 1000, 250) }
