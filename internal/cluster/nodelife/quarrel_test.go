package nodelife_test

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/cluster/nodelife"
	"coracle/internal/loop/looptest"
	"coracle/internal/resource"
)

// TestNoQuarrel: pods of a node that says that it is not ready are taken out of service once. If the node finds one ready
// after that, it is not contradicted again and again.
func TestNoQuarrel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, nodelife.Config{})
		readyNode(c, "n")
		looptest.Make(c, onNode("p", "n", corev1.Toleration{Operator: corev1.TolerationOpExists}))
		podReady := func() bool {
			return looptest.Find[*corev1.Pod](c, resource.Pods, "d", "p").Status.Conditions[0].Status == corev1.ConditionTrue
		}
		time.Sleep(time.Second)
		looptest.Edit(c, resource.Nodes, "", "n", func(n *corev1.Node) {
			n.Status.Conditions[0].Status, n.Status.Conditions[0].LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(time.Now())
		})
		looptest.Rest()
		if podReady() {
			t.Fatal("a pod of a node that is not ready is still ready")
		}
		time.Sleep(time.Second)
		looptest.Edit(c, resource.Pods, "d", "p", func(p *corev1.Pod) {
			p.Status.Conditions[0] = corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now())}
		})
		looptest.Rest()
		if !podReady() {
			t.Error("what the node found since is contradicted")
		}
	})
}
