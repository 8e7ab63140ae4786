package deployment_test

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/deployment"
	"coracle/internal/workload/replicaset"
)

// settled returns a world with one complete Deployment of n ready pods and some history.
func settled(b *testing.B, n int32) *model.World {
	b.Helper()
	controllers := []plan.Controller{deployment.Controller(), replicaset.Controller()}
	w := model.New(epoch, controllers...)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	d.Spec.Replicas = new(int32)
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	d.Spec.Template.Labels = map[string]string{"app": "web"}
	w.Put(d)
	for i := range 10 {
		model.Edit(w, "default", "web", func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "main", Image: fmt.Sprintf("web:%d", i),
				Env:   []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}},
				Ports: []corev1.ContainerPort{{ContainerPort: 80, Protocol: corev1.ProtocolTCP}}}}
		})
		settle(w, controllers)
		w.Now = w.Now.Add(time.Second)
	}
	model.Edit(w, "default", "web", func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
	settle(w, controllers)
	return w
}

func settle(w *model.World, controllers []plan.Controller) {
	for moved := true; moved; {
		moved = false
		for _, c := range controllers {
			for _, o := range w.List(c.For, "") {
				if p := c.Plan(plan.Input{Reader: w, Key: object.KeyOf(o), Now: w.Now}); len(p.Actions) > 0 || p.Status != nil {
					w.Apply(p)
					moved = true
				}
			}
		}
		for _, o := range w.List(resource.Pods, "") {
			if o.(*corev1.Pod).Status.Phase == corev1.PodPending {
				moved = true
				model.Edit(w, o.GetNamespace(), o.GetName(), func(p *corev1.Pod) {
					p.Spec.NodeName, p.Status.Phase = "node-1", corev1.PodRunning
					p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: w.Now}}}
				})
			}
		}
	}
}

var webKey = object.Key{Namespace: "default", Name: "web"}

// BenchmarkPlanAtRest plans a complete Deployment of 1,000 replicas with ten revisions of history.
func BenchmarkPlanAtRest(b *testing.B) {
	w := settled(b, 1000)
	c := deployment.Controller()
	b.ReportAllocs()
	for b.Loop() {
		if p := c.Plan(plan.Input{Reader: w, Key: webKey, Now: w.Now}); len(p.Actions) > 0 || p.Status != nil {
			b.Fatalf("not at rest: %+v", p)
		}
	}
}

// BenchmarkPlanRolling plans the next move of a rolling update of 1,000 replicas.
func BenchmarkPlanRolling(b *testing.B) {
	w := settled(b, 1000)
	c := deployment.Controller()
	model.Edit(w, "default", "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "web:next" })
	w.Apply(c.Plan(plan.Input{Reader: w, Key: webKey, Now: w.Now}))
	b.ReportAllocs()
	for b.Loop() {
		if p := c.Plan(plan.Input{Reader: w, Key: webKey, Now: w.Now}); len(p.Actions) == 0 {
			b.Fatal("nothing to do")
		}
	}
}

// BenchmarkPlanNewRevision plans the replica set of a new template.
func BenchmarkPlanNewRevision(b *testing.B) {
	w := settled(b, 1000)
	c := deployment.Controller()
	model.Edit(w, "default", "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "web:next" })
	b.ReportAllocs()
	for b.Loop() {
		if p := c.Plan(plan.Input{Reader: w, Key: webKey, Now: w.Now}); len(p.Actions) != 1 {
			b.Fatal("want one action")
		}
	}
}
