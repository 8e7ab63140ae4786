package daemonset_test

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/plan"
	kinds "coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/daemonset"
)

// fleet returns a settled world: one DaemonSet on so many nodes, every pod ready.
func fleet(tb testing.TB, nodes int) *model.World {
	tb.Helper()
	w := model.New(epoch, daemonset.Controller())
	for i := range nodes {
		w.Put(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%05d", i), Labels: map[string]string{"kubernetes.io/hostname": fmt.Sprint(i), "disk": "ssd"}},
			Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "special", Effect: corev1.TaintEffectNoSchedule}}},
			Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
		})
	}
	w.Put(&appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "d"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "d"}},
				Spec: corev1.PodSpec{
					Containers:   []corev1.Container{{Name: "c", Image: "good:0"}},
					NodeSelector: map[string]string{"disk": "ssd"},
					Tolerations:  []corev1.Toleration{{Key: "special", Operator: corev1.TolerationOpExists}},
				},
			},
		},
	})
	for range 5 {
		w.Apply(daemonset.Plan(plan.Input{Reader: w, Key: key, Now: w.Now}))
		for _, o := range w.List(kinds.Pods, ns) {
			model.Edit(w, ns, o.GetName(), func(p *corev1.Pod) {
				p.Spec.NodeName = p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
				p.Status.Phase = corev1.PodRunning
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: epoch}}}
			})
		}
	}
	return w
}

// BenchmarkPlan is one pass over a settled DaemonSet: what one relevant node event costs.
func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{500, 5000} {
		w := fleet(b, n)
		w.Indexed(kinds.Pods, "", "") // file the index before the clock runs
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if p := daemonset.Plan(plan.Input{Reader: w, Key: key, Now: w.Now.Add(time.Minute)}); len(p.Actions) > 0 || p.Status != nil {
					b.Fatalf("not settled: %+v", p)
				}
			}
		})
	}
}

// BenchmarkHeartbeat is what a node's status update costs that bears on nothing.
func BenchmarkHeartbeat(b *testing.B) {
	w := fleet(b, 1)
	o, _ := w.Get(kinds.Nodes, "", "node-00000")
	before := o.(*corev1.Node)
	after := before.DeepCopy()
	after.Status.Conditions[0].LastHeartbeatTime = metav1.Time{Time: epoch.Add(time.Hour)}
	watch := daemonset.Controller().Watches[2]
	b.ReportAllocs()
	for b.Loop() {
		if keys := watch.Keys(w, before, after); len(keys) > 0 {
			b.Fatalf("a heartbeat asks for %v", keys)
		}
	}
}

// BenchmarkRelabel is what a change of a node's labels costs before it is known to bear on nothing.
func BenchmarkRelabel(b *testing.B) {
	w := fleet(b, 1)
	o, _ := w.Get(kinds.Nodes, "", "node-00000")
	before := o.(*corev1.Node)
	after := before.DeepCopy()
	after.Labels["other"] = "label"
	watch := daemonset.Controller().Watches[2]
	b.ReportAllocs()
	for b.Loop() {
		if keys := watch.Keys(w, before, after); len(keys) > 0 {
			b.Fatalf("an unrelated label asks for %v", keys)
		}
	}
}
