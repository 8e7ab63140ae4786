package fake_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client"
	"coracle/internal/client/fake"
	"coracle/internal/object"
	"coracle/internal/resource"
)

func pod(name string, finalizers ...string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, Finalizers: finalizers, Labels: map[string]string{"app": name}}}
}

func make1[T object.Object](t *testing.T, c *fake.Cluster, obj T) T {
	t.Helper()
	o, err := c.Create(t.Context(), obj)
	if err != nil {
		t.Fatal(err)
	}
	return o.(T)
}

func exists(t *testing.T, c *fake.Cluster, o object.Object) bool {
	t.Helper()
	_, err := c.Get(t.Context(), resource.Of(o), o.GetNamespace(), o.GetName())
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

func TestWrites(t *testing.T) {
	c := fake.New()
	p := make1(t, c, pod("a"))
	if p.UID == "" || p.ResourceVersion == "" || p.CreationTimestamp.IsZero() || p.Generation != 1 {
		t.Errorf("created %+v", p.ObjectMeta)
	}
	if _, err := c.Create(t.Context(), pod("a")); !apierrors.IsAlreadyExists(err) {
		t.Errorf("created twice: %v", err)
	}
	if _, err := c.Get(t.Context(), resource.Pods, "d", "b"); !apierrors.IsNotFound(err) {
		t.Errorf("found what is not there: %v", err)
	}
	status := p.DeepCopy()
	status.Status.Phase, status.Spec.NodeName, status.Labels = corev1.PodRunning, "n", nil
	after, err := c.Update(t.Context(), status, "status")
	if err != nil {
		t.Fatal(err)
	}
	if got := after.(*corev1.Pod); got.Status.Phase != corev1.PodRunning || got.Spec.NodeName != "" || got.Labels["app"] != "a" || got.Generation != 1 {
		t.Errorf("a status update changed more, or less: %+v", got)
	}
	if _, err := c.Update(t.Context(), p, ""); !apierrors.IsConflict(err) {
		t.Errorf("an update on an old revision: %v", err)
	}
	whole := after.DeepCopyObject().(*corev1.Pod)
	whole.Spec.NodeName, whole.Status.Phase = "n", corev1.PodFailed
	after, err = c.Update(t.Context(), whole, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := after.(*corev1.Pod); got.Status.Phase != corev1.PodRunning || got.Spec.NodeName != "n" || got.Generation != 2 {
		t.Errorf("an update changed more, or less: %+v", got)
	}
	before := c.Revision()
	if _, err := c.Update(t.Context(), after, ""); err != nil || c.Revision() != before {
		t.Errorf("an update that changes nothing wrote: %v", err)
	}
	other := after.DeepCopyObject().(*corev1.Pod)
	other.UID, other.ResourceVersion = "another", ""
	if _, err := c.Update(t.Context(), other, ""); !apierrors.IsConflict(err) {
		t.Errorf("an update of another object of the name: %v", err)
	}
	patched, err := c.Patch(t.Context(), object.RefOf(p), types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}}}`), "")
	if err != nil || !maps(patched.GetLabels(), "app", "a", "x", "y") {
		t.Errorf("patched: %v %v", patched, err)
	}
}

func maps(m map[string]string, pairs ...string) bool {
	for i := 0; i < len(pairs); i += 2 {
		if m[pairs[i]] != pairs[i+1] {
			return false
		}
	}
	return len(m) == len(pairs)/2
}

func TestGeneratedNames(t *testing.T) {
	c := fake.New()
	seen := map[string]bool{}
	for range 2000 {
		p := make1(t, c, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", GenerateName: "web-"}})
		if len(p.Name) != len("web-")+5 || seen[p.Name] {
			t.Fatalf("name %q", p.Name)
		}
		seen[p.Name] = true
	}
}

func TestDeletions(t *testing.T) {
	c := fake.New()
	del := func(o object.Object, opts metav1.DeleteOptions) object.Object {
		t.Helper()
		out, err := c.Delete(t.Context(), object.RefOf(o), opts)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	zero := int64(0)
	waiting := make1(t, c, pod("waiting"))
	if del(waiting, metav1.DeleteOptions{}); exists(t, c, waiting) {
		t.Error("a pod on no node needs no grace")
	}
	running := pod("running")
	running.Spec.NodeName = "n"
	running = make1(t, c, running)
	if got := del(running, metav1.DeleteOptions{}); got.GetDeletionTimestamp() == nil || *got.GetDeletionGracePeriodSeconds() != 30 || !exists(t, c, running) {
		t.Errorf("a running pod: %+v", got)
	}
	before := c.Revision()
	if del(running, metav1.DeleteOptions{}); c.Revision() != before {
		t.Error("a second deletion wrote")
	}
	if del(running, metav1.DeleteOptions{GracePeriodSeconds: &zero}); exists(t, c, running) {
		t.Error("a forced deletion leaves it")
	}
	held := make1(t, c, pod("held", "example.com/hold"))
	del(held, metav1.DeleteOptions{})
	free := func(o object.Object) {
		t.Helper()
		got, err := c.Get(t.Context(), resource.Of(o), o.GetNamespace(), o.GetName())
		if err != nil {
			t.Fatal(err)
		}
		next := got.DeepCopyObject().(object.Object)
		next.SetFinalizers(nil)
		if _, err := c.Update(t.Context(), next, ""); err != nil {
			t.Fatal(err)
		}
	}
	if !exists(t, c, held) {
		t.Fatal("its finalizer does not hold it")
	}
	if free(held); exists(t, c, held) {
		t.Error("nothing holds it, and it stays")
	}
	for policy, finalizer := range map[metav1.DeletionPropagation]string{
		metav1.DeletePropagationForeground: metav1.FinalizerDeleteDependents, metav1.DeletePropagationOrphan: metav1.FinalizerOrphanDependents,
	} {
		o := make1(t, c, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "owner"}})
		if got := del(o, metav1.DeleteOptions{PropagationPolicy: &policy}); !slices.Equal(got.GetFinalizers(), []string{finalizer}) {
			t.Errorf("%s: %v", policy, got.GetFinalizers())
		}
		free(o)
	}
	if _, err := c.Delete(t.Context(), object.RefOf(held), metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("deleted twice: %v", err)
	}
	again := make1(t, c, pod("held"))
	if _, err := c.Delete(t.Context(), object.RefOf(held), metav1.DeleteOptions{}); !apierrors.IsConflict(err) || !exists(t, c, again) {
		t.Errorf("another object of the name: %v", err)
	}
	stale := "1"
	if _, err := c.Delete(t.Context(), object.RefOf(again), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &stale}}); !apierrors.IsConflict(err) {
		t.Errorf("an old revision: %v", err)
	}
}

func TestNamespaceTerminates(t *testing.T) {
	c := fake.New()
	ns := make1(t, c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "d"}})
	out, err := c.Delete(t.Context(), object.RefOf(ns), metav1.DeleteOptions{})
	if err != nil || out.(*corev1.Namespace).Status.Phase != corev1.NamespaceTerminating {
		t.Fatalf("%+v %v", out, err)
	}
	if _, err := c.Create(t.Context(), pod("late")); !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("new content: %v", err)
	}
	done := out.DeepCopyObject().(*corev1.Namespace)
	done.Spec.Finalizers = nil
	if _, err := c.Update(t.Context(), done, "finalize"); err != nil || exists(t, c, ns) {
		t.Errorf("finalized, and still there: %v", err)
	}
}

// TestWatch follows some pods from a revision on, sees them come into and go out of its selection,
// and is told when it is too late to resume.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := fake.New()
		make1(t, c, pod("a"))
		items, revision, err := c.List(ctx, resource.Pods, client.ListOptions{LabelSelector: "app=a"})
		if err != nil || len(items) != 1 {
			t.Fatal(items, err)
		}
		w, err := c.Watch(ctx, resource.Pods, client.ListOptions{LabelSelector: "app=a", Revision: revision})
		if err != nil {
			t.Fatal(err)
		}
		b := make1(t, c, pod("b"))
		relabel := func(o *corev1.Pod, value string) *corev1.Pod {
			next := o.DeepCopy()
			next.Labels["app"] = value
			out, err := c.Update(ctx, next, "")
			if err != nil {
				t.Fatal(err)
			}
			return out.(*corev1.Pod)
		}
		b = relabel(b, "a")
		relabel(b, "c")
		make1(t, c, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "another kind"}})
		if _, err := c.Delete(ctx, object.RefOf(items[0]), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		var got []string
		for range 3 {
			e := <-w.ResultChan()
			got = append(got, fmt.Sprint(e.Type, " ", e.Object.(*corev1.Pod).Name))
		}
		if d := cmp.Diff([]string{"ADDED b", "DELETED b", "DELETED a"}, got); d != "" {
			t.Error(d)
		}
		c.Compact()
		if _, err := c.Watch(ctx, resource.Pods, client.ListOptions{Revision: revision}); !apierrors.IsResourceExpired(err) {
			t.Errorf("a watch from the past: %v", err)
		}
		w.Stop()
		if _, open := <-w.ResultChan(); open {
			t.Error("a stopped watch goes on")
		}
	})
}

func TestForkIsIndependent(t *testing.T) {
	c := fake.New()
	p := make1(t, c, pod("a"))
	f := c.Fork()
	if !exists(t, f, p) || f.Revision() != c.Revision() {
		t.Fatal("the fork is another cluster from the start")
	}
	make1(t, f, pod("b"))
	if _, err := f.Delete(t.Context(), object.RefOf(p), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if exists(t, c, pod("b")) || !exists(t, c, p) {
		t.Error("what is done to the fork is done to the cluster")
	}
}
