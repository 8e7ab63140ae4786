package revision_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/polymorphichelpers"

	"coracle/internal/object"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/revision"
)

// TestKubectl lets stock kubectl's own code read and undo the histories that this package writes.
func TestKubectl(t *testing.T) {
	for _, tc := range []struct {
		kind  string
		label string
		put   func(*model.World, *corev1.PodTemplateSpec) (object.Object, *corev1.PodTemplateSpec)
	}{
		{"StatefulSet", revision.HashLabel, func(w *model.World, t *corev1.PodTemplateSpec) (object.Object, *corev1.PodTemplateSpec) {
			set := w.Put(&appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.StatefulSetSpec{
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: *t}}).(*appsv1.StatefulSet)
			return set, &set.Spec.Template
		}},
		{"DaemonSet", appsv1.DefaultDaemonSetUniqueLabelKey, func(w *model.World, t *corev1.PodTemplateSpec) (object.Object, *corev1.PodTemplateSpec) {
			set := w.Put(&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DaemonSetSpec{
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: *t}}).(*appsv1.DaemonSet)
			return set, &set.Spec.Template
		}},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			w := model.New(epoch)
			var set object.Object
			var h revision.History
			for _, image := range []string{"app:1", "app:2"} {
				var held *corev1.PodTemplateSpec
				set, held = tc.put(w, template(image))
				h = settle(t, w, revision.Owner{Object: set, Template: held, Label: tc.label, Now: epoch,
					Selector: labels.SelectorFromSet(labels.Set{"app": "web"})})
			}
			objects := []runtime.Object{set}
			for _, rev := range h.Owned {
				objects = append(objects, rev)
			}
			kubectlReads(t, schema.GroupKind{Group: "apps", Kind: tc.kind}, set, objects)
		})
	}
}

func kubectlReads(t *testing.T, kind schema.GroupKind, set runtime.Object, objects []runtime.Object) {
	t.Helper()
	client := fake.NewClientset(objects...)
	viewer, err := polymorphichelpers.HistoryViewerFor(kind, client)
	if err != nil {
		t.Fatal(err)
	}
	for number, want := range map[int64]string{0: "REVISION  CHANGE-CAUSE\n1         <none>\n2         <none>", 1: "app:1", 2: "app:2"} {
		if text, err := viewer.ViewHistory("default", "web", number); err != nil || !strings.Contains(text, want) {
			t.Errorf("rollout history --revision=%d: %v\n%s", number, err, text)
		}
	}
	undoer, err := polymorphichelpers.RollbackerFor(kind, client)
	if err != nil {
		t.Fatal(err)
	}
	// Equality in bytes is how kubectl knows that there is nothing to undo.
	for _, undo := range []struct {
		to   int64
		says string
	}{{2, "skipped rollback"}, {0, "rolled back"}, {1, "skipped rollback"}} {
		text, err := undoer.Rollback(set, nil, undo.to, cmdutil.DryRunNone)
		if err != nil || !strings.Contains(text, undo.says) {
			t.Errorf("rollout undo --to-revision=%d says %q, not %q (%v)", undo.to, text, undo.says, err)
		}
	}
	if image := imageOf(t, client, kind.Kind); image != "app:1" {
		t.Errorf("after undo the image is %s", image)
	}
}

func imageOf(t *testing.T, client *fake.Clientset, kind string) string {
	t.Helper()
	apps := client.AppsV1()
	if kind == "StatefulSet" {
		set, err := apps.StatefulSets("default").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return set.Spec.Template.Spec.Containers[0].Image
	}
	set, err := apps.DaemonSets("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return set.Spec.Template.Spec.Containers[0].Image
}
