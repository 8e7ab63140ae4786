package model_test

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/claim"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld() (*model.World, *appsv1.ReplicaSet) {
	w := model.New(start)
	return w, w.Put(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}}).(*appsv1.ReplicaSet)
}

func do(w *model.World, a plan.Action) metav1.StatusReason {
	_, err := w.Act(a)
	return apierrors.ReasonForError(err)
}

func get[T object.Object](t *testing.T, w *model.World, res resource.Resource, name string) T {
	t.Helper()
	o, ok := w.Get(res, "default", name)
	if !ok {
		t.Fatalf("no %s %s", res, name)
	}
	return o.(T)
}

func TestPutFillsIn(t *testing.T) {
	_, set := newWorld()
	if set.Namespace != "default" || set.UID == "" || set.Generation != 1 || !set.CreationTimestamp.Time.Equal(start) ||
		set.ResourceVersion == "" || *set.Spec.Replicas != 1 {
		t.Errorf("%+v", set)
	}
}

func TestGeneration(t *testing.T) {
	w, set := newWorld()
	next := set.DeepCopy()
	next.Status.Replicas, next.Annotations = 3, map[string]string{"a": "b"}
	do(w, plan.Update{Object: next, Subresource: "status"})
	if got := get[*appsv1.ReplicaSet](t, w, resource.ReplicaSets, "web"); got.Generation != 1 || got.Status.Replicas != 3 || got.Annotations["a"] != "b" {
		t.Errorf("after a status: %+v", got)
	}
	next = get[*appsv1.ReplicaSet](t, w, resource.ReplicaSets, "web").DeepCopy()
	*next.Spec.Replicas, next.Status.Replicas = 5, 9
	do(w, plan.Update{Object: next})
	if got := get[*appsv1.ReplicaSet](t, w, resource.ReplicaSets, "web"); got.Generation != 2 || got.Status.Replicas != 3 {
		t.Errorf("after a change of spec: %+v", got)
	}
}

func TestPreconditions(t *testing.T) {
	w, set := newWorld()
	stale := set.DeepCopy()
	model.Edit(w, "default", "web", func(s *appsv1.ReplicaSet) { s.Labels = map[string]string{"x": "y"} })
	other := object.RefOf(set)
	other.UID = "another"
	dead := other
	dead.Name = "gone"
	alive := object.RefOf(set)
	for name, c := range map[string]struct {
		action plan.Action
		want   metav1.StatusReason
	}{
		"update of an old state":          {plan.Update{Object: stale}, metav1.StatusReasonConflict},
		"create of what exists":           {plan.Create{Object: set}, metav1.StatusReasonAlreadyExists},
		"delete of another":               {plan.Delete{Object: other}, metav1.StatusReasonConflict},
		"delete of an old state":          {plan.Delete{Object: alive, ResourceVersion: stale.ResourceVersion}, metav1.StatusReasonConflict},
		"delete of what is gone":          {plan.Delete{Object: dead}, metav1.StatusReasonNotFound},
		"update for a dead owner":         {plan.Update{Object: stale, When: []plan.Guard{plan.Alive{Ref: dead}}}, ""},
		"update for another owner":        {plan.Update{Object: stale, When: []plan.Guard{plan.Alive{Ref: other}}}, ""},
		"delete unless something is gone": {plan.Delete{Object: alive, When: plan.AllAbsent(alive)}, ""},
	} {
		if got := do(w, c.action); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := get[*appsv1.ReplicaSet](t, w, resource.ReplicaSets, "web"); got.Labels["x"] != "y" || got.DeletionTimestamp != nil {
		t.Errorf("an action that was refused or passed over changed the world: %+v", got)
	}
}

func TestPodsEndInTwoSteps(t *testing.T) {
	w, set := newWorld()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "web-", Namespace: "default", OwnerReferences: []metav1.OwnerReference{claim.Reference(set)}}}
	w.Apply(plan.Plan{Actions: []plan.Action{plan.Create{Object: pod}, plan.Create{Object: pod}}})
	pods := w.Indexed(resource.Pods, object.ByController, string(set.UID))
	if len(pods) != 2 || pods[0].GetName() == pods[1].GetName() {
		t.Fatalf("want two pods of two names: %v", pods)
	}
	running := object.RefOf(pods[0])
	model.Edit(w, "default", running.Name, func(p *corev1.Pod) { p.Spec.NodeName, p.Status.Phase = "n1", corev1.PodRunning })
	do(w, plan.Delete{Object: running})
	do(w, plan.Delete{Object: object.RefOf(pods[1])})
	left := w.List(resource.Pods, "")
	if len(left) != 1 || left[0].GetName() != running.Name || !left[0].GetDeletionTimestamp().Time.Equal(start.Add(30*time.Second)) {
		t.Fatalf("a pod on a node terminates, one without a node goes at once: %v", left)
	}
	do(w, plan.Delete{Object: object.RefOf(set)})
	w.Collect()
	if w.Remove(resource.Pods, "default", running.Name); len(w.List(resource.Pods, "")) != 0 {
		t.Fatal("pods are left")
	}
}

func TestOrphansAndIndexes(t *testing.T) {
	w, set := newWorld()
	w.Put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "free"}})
	w.Put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "held", OwnerReferences: []metav1.OwnerReference{claim.Reference(set)}}})
	if got := w.Indexed(resource.Pods, object.ByOrphan, "default"); len(got) != 1 || got[0].GetName() != "free" {
		t.Errorf("orphans: %v", got)
	}
	if got := w.Indexed(resource.Pods, object.ByOwner, string(set.UID)); len(got) != 1 || got[0].GetName() != "held" {
		t.Errorf("owned: %v", got)
	}
}
