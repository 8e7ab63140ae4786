package replicaset_test

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/invariant"
	"coracle/internal/workload/replicaset"
)

// drawWorld makes two ReplicaSets with disjoint selectors, one ReplicationController, and pods of every
// sort: controlled, orphaned, terminating, ended, with labels that match one owner or none.
func drawWorld(t *rapid.T) (*model.World, []plan.Controller) {
	controllers := []plan.Controller{replicaset.Controller(), replicaset.ReplicationController()}
	w := model.New(epoch, controllers...)
	var owners []object.Object
	for _, app := range []string{"a", "b"} {
		set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: app}}
		set.Spec.Replicas = ptr(rapid.Int32Range(0, 5).Draw(t, "replicas"))
		set.Spec.MinReadySeconds = rapid.SampledFrom([]int32{0, 10}).Draw(t, "minReady")
		set.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
		set.Spec.Template.Labels = map[string]string{"app": app}
		owners = append(owners, w.Put(set))
	}
	rc := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "c"}}
	rc.Spec.Replicas = ptr(rapid.Int32Range(0, 3).Draw(t, "replicas"))
	rc.Spec.Selector = map[string]string{"app": "c"}
	rc.Spec.Template = &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: rc.Spec.Selector}}
	owners = append(owners, w.Put(rc))
	for i := range rapid.IntRange(0, 12).Draw(t, "pods") {
		w.Put(drawPod(t, fmt.Sprintf("pod-%d", i), owners))
	}
	return w, controllers
}

func drawPod(t *rapid.T, name string, owners []object.Object) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name,
		Labels: map[string]string{"app": rapid.SampledFrom([]string{"a", "b", "c", "x"}).Draw(t, "app")}}}
	if i := rapid.IntRange(0, len(owners)).Draw(t, "owner"); i < len(owners) {
		pod.OwnerReferences = []metav1.OwnerReference{claim.Reference(owners[i])}
	}
	pod.Spec.NodeName = rapid.SampledFrom([]string{"", "n1", "n2"}).Draw(t, "node")
	pod.Status.Phase = rapid.SampledFrom([]corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodUnknown,
		corev1.PodFailed, corev1.PodSucceeded}).Draw(t, "phase")
	if rapid.Bool().Draw(t, "ready") {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue,
			LastTransitionTime: metav1.Time{Time: epoch.Add(-time.Duration(rapid.IntRange(0, 100).Draw(t, "age")) * time.Second)}}}
	}
	if cost := rapid.SampledFrom([]string{"", "-1", "5", "nonsense"}).Draw(t, "cost"); cost != "" {
		pod.Annotations = map[string]string{corev1.PodDeletionCost: cost}
	}
	if rapid.IntRange(0, 4).Draw(t, "leaving") == 0 {
		pod.DeletionTimestamp, pod.Finalizers = &metav1.Time{Time: epoch}, []string{"x/y"}
	}
	return pod
}

// TestConverges: from any world the planners reach, in a few passes, exactly the pods asked for and
// a true status; then they want nothing more. No step gives a pod two controllers, or deletes
// more pods than are too many.
func TestConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, controllers := drawWorld(t)
		for range 6 {
			for _, c := range controllers {
				for _, o := range w.List(c.For, "") {
					p := c.Plan(plan.Input{Reader: w, Key: object.KeyOf(o), Now: w.Now})
					checkPlan(t, p)
					if out := w.Apply(p); out.Failure != nil {
						t.Fatalf("the world refused %v: %s", out.Failure.Action.Target(), out.Failure.Status.Message)
					}
					if err := invariant.OneController(w, w.Now); err != nil {
						t.Fatal(err)
					}
				}
			}
			w.Now = w.Now.Add(10 * time.Second)
		}
		if err := invariant.All(invariant.SetsExact, invariant.NoOrphans, invariant.AtRest(controllers...))(w, w.Now); err != nil {
			t.Fatal(err)
		}
	})
}

// checkPlan: a plan never both creates and deletes, and deletes with a UID.
func checkPlan(t *rapid.T, p plan.Plan) {
	creates, deletes := 0, 0
	for _, a := range p.Actions {
		switch a := a.(type) {
		case plan.Create:
			creates++
		case plan.Delete:
			deletes++
			if a.Object.UID == "" {
				t.Fatal("a deletion without a UID")
			}
		}
	}
	if creates > 0 && deletes > 0 {
		t.Fatalf("%d creations and %d deletions in one plan", creates, deletes)
	}
}

// TestScaleDownTakesTheLeastMissed: whatever pods there are, no pod that is not ready survives
// one that is ready and on a node.
func TestScaleDownTakesTheLeastMissed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "pods")
		keep := rapid.Int32Range(0, int32(n)).Draw(t, "keep")
		c := replicaset.Controller()
		w := model.New(epoch, c)
		set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
		set.Spec.Replicas = &keep
		set.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}
		set.Spec.Template.Labels = set.Spec.Selector.MatchLabels
		owner := w.Put(set)
		for i := range n {
			pod := drawPod(t, fmt.Sprintf("pod-%d", i), []object.Object{owner})
			pod.OwnerReferences, pod.Labels = []metav1.OwnerReference{claim.Reference(owner)}, set.Spec.Template.Labels
			pod.DeletionTimestamp, pod.Finalizers = nil, nil
			w.Put(pod)
		}
		w.Apply(c.Plan(plan.Input{Reader: w, Key: object.KeyOf(owner), Now: w.Now}))
		var worst, best int // of the survivors, of the deleted
		best = -1
		for i := range n {
			o, there := w.Get(resource.Pods, "default", fmt.Sprintf("pod-%d", i))
			if there && podstate.Active(o.(*corev1.Pod)) {
				if !podstate.Ready(o.(*corev1.Pod)) {
					worst++
				}
			} else if there && podstate.Terminating(o.(*corev1.Pod)) && podstate.Ready(o.(*corev1.Pod)) &&
				o.(*corev1.Pod).Status.Phase == corev1.PodRunning {
				best = i
			}
		}
		if worst > 0 && best >= 0 {
			t.Fatalf("%d pods that are not ready outlived pod-%d, which was", worst, best)
		}
	})
}
