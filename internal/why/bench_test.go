package why_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/scheduler/place"
	"coracle/internal/why"
	"coracle/internal/workload/diagnose"
)

// BenchmarkUnschedulable asks about a pod that fits on none of 1,000 nodes with 20,000 pods, for which each remedy is tried.
func BenchmarkUnschedulable(b *testing.B) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w := model.New(now, plan.Controller{Indexes: append(diagnose.Indexes(), place.Indexes()...)})
	for i := range 1000 {
		name := fmt.Sprintf("n%d", i)
		w.Put(node(name, "20"))
		for j := range 20 {
			p := solo(asks("1"))
			p.Name = fmt.Sprintf("p-%d-%d", i, j)
			p.UID, p.Spec.NodeName = types.UID(p.Name), name
			w.Put(p)
		}
	}
	pod := solo(asks("2"))
	pod.UID = "solo"
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable,
		Message: "0/1000 nodes are available: 1000 Insufficient cpu.", LastTransitionTime: metav1.Time{Time: now}}}
	w.Put(pod)
	said := func(resource.Resource, object.Key) []why.Word { return nil }
	b.ReportAllocs()
	for b.Loop() {
		report, _ := why.Explain(w, said, resource.Pods, object.KeyOf(pod), now)
		if report.Causes[0].Hint == "" {
			b.Fatal("no remedy")
		}
	}
}
