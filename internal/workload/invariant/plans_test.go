package invariant_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/invariant"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// member puts a pod of an owner into the world; serving or not, on a node.
func member(w *model.World, owner object.Object, name, revision, node string, serving bool) *corev1.Pod {
	status := corev1.ConditionFalse
	if serving {
		status = corev1.ConditionTrue
	}
	return w.Put(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"controller-revision-hash": revision},
			OwnerReferences: []metav1.OwnerReference{claim.Reference(owner)}},
		Spec:   corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}},
	}).(*corev1.Pod)
}

func deletion(pods ...*corev1.Pod) plan.Plan {
	var p plan.Plan
	for _, pod := range pods {
		p.Actions = append(p.Actions, plan.Delete{Object: object.RefOf(pod)})
	}
	return p
}

// TestStatefulSetPlanRefuses gives each check a plan that breaks its promise, and one that keeps it.
func TestStatefulSetPlanRefuses(t *testing.T) {
	set := func(change func(*appsv1.StatefulSetSpec)) (*model.World, *appsv1.StatefulSet) {
		w := model.New(start)
		three := int32(3)
		s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.StatefulSetSpec{Replicas: &three, ServiceName: "svc",
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}},
			Status: appsv1.StatefulSetStatus{CurrentRevision: "old", UpdateRevision: "new"}}
		change(&s.Spec)
		return w, w.Put(s).(*appsv1.StatefulSet)
	}
	newborn := func(s *appsv1.StatefulSet, n int, revision string) *corev1.Pod {
		name := "web-" + strconv.Itoa(n)
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{
			"controller-revision-hash": revision, appsv1.StatefulSetPodNameLabel: name, appsv1.PodIndexLabel: strconv.Itoa(n)}},
			Spec: corev1.PodSpec{Hostname: name, Subdomain: "svc", Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data-" + name}}}}}}
	}
	pvc := func(n int, size string, owners ...metav1.OwnerReference) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data-web-" + strconv.Itoa(n), OwnerReferences: owners},
			Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}}}
	}
	create := func(objects ...object.Object) (p plan.Plan) {
		for _, o := range objects {
			p.Actions = append(p.Actions, plan.Create{Object: o})
		}
		return p
	}
	parallel := func(s *appsv1.StatefulSetSpec) { s.PodManagementPolicy = appsv1.ParallelPodManagement }
	for _, tc := range []struct {
		name   string
		spec   func(*appsv1.StatefulSetSpec)
		make   func(*model.World, *appsv1.StatefulSet) plan.Plan
		breaks string // empty: nothing
	}{
		{"first pod with its claim", func(*appsv1.StatefulSetSpec) {}, func(_ *model.World, s *appsv1.StatefulSet) plan.Plan {
			return create(pvc(0, "1Gi"), newborn(s, 0, "new"))
		}, ""},
		{"pod without its claim", parallel, func(_ *model.World, s *appsv1.StatefulSet) plan.Plan { return create(newborn(s, 0, "new")) }, "without its claim"},
		{"name that exists", parallel, func(w *model.World, s *appsv1.StatefulSet) plan.Plan {
			member(w, s, "web-0", "new", "n", true)
			return create(pvc(0, "1Gi"), newborn(s, 0, "new"))
		}, "created while it exists"},
		{"ordinal that is not wanted", parallel, func(_ *model.World, s *appsv1.StatefulSet) plan.Plan {
			return create(pvc(3, "1Gi"), newborn(s, 3, "new"))
		}, "not wanted"},
		{"wrong hostname", parallel, func(_ *model.World, s *appsv1.StatefulSet) plan.Plan {
			pod := newborn(s, 0, "new")
			pod.Spec.Hostname = "other"
			return create(pvc(0, "1Gi"), pod)
		}, "not whole"},
		{"out of order", func(*appsv1.StatefulSetSpec) {}, func(_ *model.World, s *appsv1.StatefulSet) plan.Plan {
			return create(pvc(1, "1Gi"), newborn(s, 1, "new"))
		}, "before ordinal 0 serves"},
		{"surplus, lower first", func(*appsv1.StatefulSetSpec) {}, func(w *model.World, s *appsv1.StatefulSet) plan.Plan {
			member(w, s, "web-4", "new", "n", true)
			return deletion(member(w, s, "web-3", "new", "n", true))
		}, "surplus web-3 is deleted before web-4"},
		{"wrong revision", parallel, func(_ *model.World, s *appsv1.StatefulSet) plan.Plan {
			return create(pvc(0, "1Gi"), newborn(s, 0, "old"))
		}, "created at old"},
		{"below the partition", func(s *appsv1.StatefulSetSpec) {
			parallel(s)
			one := int32(1)
			s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &one}
		}, func(w *model.World, s *appsv1.StatefulSet) plan.Plan {
			member(w, s, "web-1", "new", "n", true)
			member(w, s, "web-2", "new", "n", true)
			return deletion(member(w, s, "web-0", "old", "n", true))
		}, "partition: web-0 serves and is deleted"},
		{"two at a time", parallel, func(w *model.World, s *appsv1.StatefulSet) plan.Plan {
			return deletion(member(w, s, "web-0", "old", "n", true), member(w, s, "web-1", "old", "n", true), member(w, s, "web-2", "old", "n", true))
		}, "at most 1 may be"},
		{"lowest first", parallel, func(w *model.World, s *appsv1.StatefulSet) plan.Plan {
			member(w, s, "web-1", "new", "n", true)
			member(w, s, "web-2", "old", "n", true)
			return deletion(member(w, s, "web-0", "old", "n", true))
		}, "updated before web-2"},
		{"up to date", parallel, func(w *model.World, s *appsv1.StatefulSet) plan.Plan {
			return deletion(member(w, s, "web-2", "new", "n", false))
		}, "up to date and deleted"},
		{"claim deleted", parallel, func(w *model.World, s *appsv1.StatefulSet) plan.Plan {
			return plan.Plan{Actions: []plan.Action{plan.Delete{Object: object.RefOf(w.Put(pvc(0, "1Gi")))}}}
		}, "data-web-0 is deleted"},
		{"claim given away", parallel, func(w *model.World, s *appsv1.StatefulSet) plan.Plan {
			w.Put(pvc(0, "1Gi"))
			return plan.Plan{Actions: []plan.Action{plan.Update{Object: pvc(0, "1Gi", claim.Reference(s))}}}
		}, "against the policy"},
		{"claim shrunk", parallel, func(w *model.World, s *appsv1.StatefulSet) plan.Plan {
			w.Put(pvc(0, "2Gi"))
			return plan.Plan{Actions: []plan.Action{plan.Update{Object: pvc(0, "1Gi")}}}
		}, "shrinks"},
	} {
		w, s := set(tc.spec)
		p := tc.make(w, s)
		expect(t, tc.name, invariant.StatefulSetPlan(w, object.KeyOf(s), p, start), tc.breaks)
	}
}

func expect(t *testing.T, name string, err error, breaks string) {
	t.Helper()
	if (err == nil) != (breaks == "") || err != nil && !strings.Contains(err.Error(), breaks) {
		t.Errorf("%s: %v", name, err)
	}
}

func TestDaemonSetPlanRefuses(t *testing.T) {
	newborn := func(node string) plan.Plan {
		return plan.Plan{Actions: []plan.Action{plan.Create{Object: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "d-", Labels: map[string]string{"controller-revision-hash": "new"}},
			Spec: corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}}}}}}}}
	}
	for _, tc := range []struct {
		name        string
		annotations map[string]string
		make        func(*model.World, *appsv1.DaemonSet) plan.Plan
		breaks      string
	}{
		{"a node without one", nil, func(*model.World, *appsv1.DaemonSet) plan.Plan { return newborn("n1") }, ""},
		{"a tainted node", nil, func(*model.World, *appsv1.DaemonSet) plan.Plan { return newborn("bad") }, "shall have none"},
		{"a node that is not there", nil, func(*model.World, *appsv1.DaemonSet) plan.Plan { return newborn("none") }, "shall have none"},
		{"a second one", nil, func(w *model.World, s *appsv1.DaemonSet) plan.Plan {
			member(w, s, "d-1", "old", "n1", true)
			return newborn("n1")
		}, "beside"},
		{"two nodes at a time", nil, func(w *model.World, s *appsv1.DaemonSet) plan.Plan {
			return deletion(member(w, s, "d-1", "old", "n1", true), member(w, s, "d-2", "old", "n2", true))
		}, "at most 1 may be"},
		{"one while another is down", nil, func(w *model.World, s *appsv1.DaemonSet) plan.Plan {
			member(w, s, "d-1", "new", "n1", false)
			return deletion(member(w, s, "d-2", "old", "n2", true))
		}, "at most 1 may be"},
		{"two that are ready and not yet available", nil, func(w *model.World, s *appsv1.DaemonSet) plan.Plan {
			model.Edit(w, "default", "d", func(d *appsv1.DaemonSet) { d.Spec.MinReadySeconds = 60 })
			return deletion(member(w, s, "d-1", "old", "n1", true), member(w, s, "d-2", "old", "n2", true))
		}, "lose their ready pod"},
		{"up to date", nil, func(w *model.World, s *appsv1.DaemonSet) plan.Plan {
			return deletion(member(w, s, "d-1", "new", "n1", true))
		}, "up to date"},
		{"paused", map[string]string{"coracle.io/paused": "true"}, func(w *model.World, s *appsv1.DaemonSet) plan.Plan {
			member(w, s, "d-2", "old", "n2", true)
			return deletion(member(w, s, "d-1", "old", "n1", true))
		}, "held nodes"},
		{"outside the canary", map[string]string{"coracle.io/canary-selector": "canary"}, func(w *model.World, s *appsv1.DaemonSet) plan.Plan {
			member(w, s, "d-2", "old", "n2", true)
			return deletion(member(w, s, "d-1", "old", "n1", true))
		}, "held nodes"},
	} {
		w := model.New(start)
		for _, name := range []string{"n1", "n2", "bad"} {
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
			if name == "bad" {
				n.Spec.Taints = []corev1.Taint{{Key: "x", Effect: corev1.TaintEffectNoSchedule}}
			}
			w.Put(n)
		}
		s := w.Put(&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "d", Annotations: tc.annotations}}).(*appsv1.DaemonSet)
		w.Put(&appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "d-new", Labels: map[string]string{"controller-revision-hash": "new"},
			OwnerReferences: []metav1.OwnerReference{claim.Reference(s)}}, Revision: 2})
		p := tc.make(w, s)
		expect(t, tc.name, invariant.DaemonSetPlan(w, object.KeyOf(s), p, start), tc.breaks)
	}
}
