package statefulset_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	kinds "coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/statefulset"
)

func keysOf(t *testing.T, w *model.World, before, after object.Object) []string {
	t.Helper()
	o := after
	if o == nil {
		o = before
	}
	var names []string
	for _, watch := range statefulset.Controller().Watches {
		if watch.Resource == kinds.Of(o) {
			for _, k := range watch.Keys(w, before, after) {
				names = append(names, k.Name)
			}
		}
	}
	return names
}

func TestWatches(t *testing.T) {
	w := model.New(epoch)
	put := func(name, app string) *appsv1.StatefulSet {
		return w.Put(&appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.StatefulSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}}).(*appsv1.StatefulSet)
	}
	web := put("web", "web")
	put("a-web", "other")
	pod := func(name, app string, owner *appsv1.StatefulSet) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: "u", Labels: map[string]string{"app": app}}}
		if owner != nil {
			p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))}
		}
		return p
	}
	claim := func(name string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: "c"}}
	}
	mine := pod("web-0", "web", web)
	heard := mine.DeepCopy()
	heard.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", RestartCount: 1}}
	readyNow := mine.DeepCopy()
	readyNow.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	grown := claim("data-web-0")
	grown.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	noted := claim("data-web-0")
	noted.Annotations = map[string]string{"note": "x"}
	waits := put("waits", "waits")
	model.Edit(w, ns, waits.Name, func(s *appsv1.StatefulSet) {
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{}}
		s.Status.Conditions = []appsv1.StatefulSetCondition{{Type: statefulset.ClaimsResized}}
	})
	grows := true
	var none object.Object
	for _, tc := range []struct {
		name          string
		before, after object.Object
		want          []string
	}{
		{"my pod appears", none, mine, []string{"web"}},
		{"my pod changes in nothing that matters", mine, heard, nil},
		{"my pod becomes ready", mine, readyNow, []string{"web"}},
		{"my pod goes", mine, none, []string{"web"}},
		{"an orphan that matches", none, pod("x", "web", nil), []string{"web"}},
		{"an orphan that matches nobody", none, pod("x", "z", nil), nil},
		{"a stranger under my name goes", pod("web-1", "z", nil), none, []string{"web"}},
		{"a pod of no set", none, pod("db-1", "z", nil), nil},
		{"a claim, by every split of its name", none, claim("data-a-web-0"), []string{"a-web", "web"}},
		{"a claim grows", claim("data-web-0"), grown, []string{"web"}},
		{"a claim is annotated", claim("data-web-0"), noted, nil},
		{"a claim of nobody", none, claim("data"), nil},
		{"a class allows growth", &storagev1.StorageClass{}, &storagev1.StorageClass{AllowVolumeExpansion: &grows}, []string{"waits"}},
		{"a class changes otherwise", &storagev1.StorageClass{}, &storagev1.StorageClass{Provisioner: "x"}, nil},
		{"a revision that matches", none, &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "r", Labels: map[string]string{"app": "web"}}}, []string{"web"}},
	} {
		if diff := cmp.Diff(tc.want, keysOf(t, w, tc.before, tc.after)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}
