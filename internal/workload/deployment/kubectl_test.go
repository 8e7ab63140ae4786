package deployment_test

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubectl/pkg/polymorphichelpers"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/deployment"
	"coracle/internal/workload/replicaset"
)

// TestRolloutStatus asks kubectl's own code, after every pass, what it would tell the user of a
// rollout that fails, is undone and completes.
func TestRolloutStatus(t *testing.T) {
	controllers := []plan.Controller{deployment.Controller(), replicaset.Controller()}
	w := model.New(epoch, controllers...)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	d.Spec.Replicas = new(int32(3))
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	d.Spec.Template.Labels = map[string]string{"app": "web"}
	w.Put(d)
	image := func(name string) {
		model.Edit(w, "default", "web", func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "main", Image: name}}
		})
	}

	image("web:1")
	if said := follow(t, w, controllers, true); said[len(said)-1] != `deployment "web" successfully rolled out` {
		t.Fatalf("the first rollout: %q", said)
	}
	image("web:bad")
	said := follow(t, w, controllers, false)
	if last := said[len(said)-1]; !strings.Contains(last, "1 out of 3 new replicas have been updated") {
		t.Fatalf("a rollout that waits: %q", said)
	}
	w.Now = w.Now.Add(10 * time.Minute)
	said = follow(t, w, controllers, false)
	if last := said[len(said)-1]; last != `error: deployment "web" exceeded its progress deadline` {
		t.Fatalf("a rollout that missed its deadline: %q", said)
	}
	image("web:1")
	said = follow(t, w, controllers, true)
	if last := said[len(said)-1]; last != `deployment "web" successfully rolled out` || strings.Contains(strings.Join(said, "\n"), "error") {
		t.Fatalf("undone, with a deadline of its own: %q", said)
	}
}

// follow runs the planners until they rest and returns what kubectl rollout status says after each
// pass, repeats left out. With healthy, pods become ready in between.
func follow(t *testing.T, w *model.World, controllers []plan.Controller, healthy bool) []string {
	t.Helper()
	said := []string{}
	for moved := true; moved; {
		moved = false
		for _, c := range controllers {
			for _, o := range w.List(c.For, "") {
				if p := c.Plan(plan.Input{Reader: w, Key: object.KeyOf(o), Now: w.Now}); len(p.Actions) > 0 || p.Status != nil {
					w.Apply(p)
					moved = true
				}
				if text := rolloutStatus(t, w); len(said) == 0 || said[len(said)-1] != text {
					said = append(said, text)
				}
			}
		}
		for _, o := range w.List(resource.Pods, "") {
			switch p := o.(*corev1.Pod); {
			case podstate.Terminating(p):
				moved = true
				w.Remove(resource.Pods, p.Namespace, p.Name)
			case healthy && !podstate.Ready(p):
				moved = true
				model.Edit(w, p.Namespace, p.Name, func(p *corev1.Pod) {
					p.Spec.NodeName, p.Status.Phase = "node-1", corev1.PodRunning
					p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: w.Now}}}
				})
			}
		}
	}
	return said
}

func rolloutStatus(t *testing.T, w *model.World) string {
	t.Helper()
	o, _ := w.Get(resource.Deployments, "default", "web")
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := (&polymorphichelpers.DeploymentStatusViewer{}).Status(&unstructured.Unstructured{Object: fields}, 0)
	if err != nil {
		return "error: " + err.Error()
	}
	return strings.TrimSpace(text)
}
