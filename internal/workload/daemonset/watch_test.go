package daemonset_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/scenario/model"
	"coracle/internal/workload/daemonset"
)

func TestNodeWatch(t *testing.T) {
	w := model.New(epoch)
	put := func(name string, annotations, selector map[string]string, tolerations ...corev1.Toleration) {
		w.Put(&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{NodeSelector: selector, Tolerations: tolerations}}}})
	}
	put("all", nil, nil, corev1.Toleration{Operator: corev1.TolerationOpExists})
	put("canary", map[string]string{daemonset.CanarySelector: "disk=ssd"}, nil, corev1.Toleration{Operator: corev1.TolerationOpExists})
	put("plain", nil, nil)
	put("ssd", nil, map[string]string{"disk": "ssd"})
	node := func(change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"disk": "hdd"}},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
		if change != nil {
			change(n)
		}
		return n
	}
	added := metav1.Time{Time: epoch}
	taint := func(when *metav1.Time) func(*corev1.Node) {
		return func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "x", Effect: corev1.TaintEffectNoSchedule, TimeAdded: when}}
		}
	}
	everyone := []string{"all", "canary", "plain", "ssd"}
	for _, tc := range []struct {
		name          string
		before, after *corev1.Node
		want          []string
	}{
		{"joins", nil, node(nil), everyone},
		{"goes", node(nil), nil, everyone},
		{"heartbeat", node(nil), node(func(n *corev1.Node) {
			n.Status.Conditions[0].LastHeartbeatTime = metav1.Time{Time: epoch.Add(time.Hour)}
			n.Annotations = map[string]string{"a": "b"}
			n.Status.Images = []corev1.ContainerImage{{SizeBytes: 1}}
		}), nil},
		{"unrelated label", node(nil), node(func(n *corev1.Node) { n.Labels["other"] = "x" }), []string{"canary"}},
		{"label that is selected by", node(nil), node(func(n *corev1.Node) { n.Labels["disk"] = "ssd" }), []string{"canary", "ssd"}},
		{"taint", node(nil), node(taint(nil)), []string{"plain"}},
		{"the taint's time", node(taint(nil)), node(taint(&added)), nil},
		{"not ready", node(nil), node(func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }), []string{"all", "canary", "plain"}},
		{"cordon", node(nil), node(func(n *corev1.Node) {
			n.Spec.Unschedulable = true
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}}
		}), nil},
	} {
		var before, after object.Object
		if tc.before != nil {
			before = tc.before
		}
		if tc.after != nil {
			after = tc.after
		}
		var got []string
		for _, k := range daemonset.Controller().Watches[2].Keys(w, before, after) {
			got = append(got, k.Name)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}
