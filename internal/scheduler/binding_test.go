package scheduler

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/client/fake"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// TestRoomOfABinding: a pod whose binding is under way, or not yet seen, takes room as one that is bound does. A more important
// pod has it deleted and waits; it is not placed where both would be.
func TestRoomOfABinding(t *testing.T) {
	for name, first := range map[string]int{"the binding comes first": 0, "the preemption comes first": 1} {
		t.Run(name, func(t *testing.T) {
			ctx, now := t.Context(), time.Unix(1000, 0)
			c, v := fake.New(), view.New()
			cpu := corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse("1"), corev1.ResourcePods: apiresource.MustParse("10")}
			make := func(o object.Object) {
				t.Helper()
				if _, err := c.Create(ctx, o); err != nil {
					t.Fatal(err)
				}
			}
			see := func(s *Stepper) {
				t.Helper()
				for _, res := range Resources() {
					items, _, err := c.List(ctx, res, client.ListOptions{})
					if err != nil {
						t.Fatal(err)
					}
					v.Replace(res, items, c.Revision())
				}
				if s != nil {
					for s.Due() {
						s.Step(ctx)
					}
				}
			}
			make(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
			make(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Allocatable: cpu}})
			see(nil)
			s := NewStepper(c, v, func(plan.Event) {}, func() time.Time { return now })
			make(testPod("low", "1", 0))
			see(s)
			make(testPod("high", "1", 100))
			see(s)
			if n := len(s.Effects()); n != 2 {
				t.Fatalf("%d effects are under way, want a binding and a preemption", n)
			}
			s.Run(ctx, s.Effects()[first])
			for range 20 {
				see(s)
				on := 0
				for _, name := range []string{"low", "high"} {
					if o, err := c.Get(ctx, resource.Pods, "default", name); err == nil && o.(*corev1.Pod).Spec.NodeName != "" {
						on++
					}
				}
				if on > 1 {
					t.Fatal("both pods are on a node that has room for one")
				}
				if len(s.Effects()) > 0 {
					s.Run(ctx, slices.Clone(s.Effects())[0])
				}
				if o, err := c.Get(ctx, resource.Pods, "default", "low"); err == nil && o.GetDeletionTimestamp() != nil {
					now0 := int64(0)
					_, _ = c.Delete(ctx, object.RefOf(o.(*corev1.Pod)), metav1.DeleteOptions{GracePeriodSeconds: &now0})
				}
				now = now.Add(time.Second)
			}
			if o, err := c.Get(ctx, resource.Pods, "default", "high"); err != nil || o.(*corev1.Pod).Spec.NodeName != "n" {
				t.Errorf("the more important pod is not placed in the end: %v", err)
			}
			if _, err := c.Get(ctx, resource.Pods, "default", "low"); err == nil {
				t.Error("the less important pod stays")
			}
		})
	}
}
