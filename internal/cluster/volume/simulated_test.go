package volume

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/nodestate"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// TestSimulatedNodesRemoveNothing: the data of a shared volume are removed by a real node, and
// waited for while none is ready; a simulated one will do where there is no other.
func TestSimulatedNodesRemoveNothing(t *testing.T) {
	node := func(name string, simulated, ready bool) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if simulated {
			n.Annotations = map[string]string{nodestate.SimulatedAnnotation: "true"}
		}
		if ready {
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		}
		return n
	}
	for want, nodes := range map[string][]*corev1.Node{
		"real":  {node("a-simulated", true, true), node("real", false, true)},
		"":      {node("a-simulated", true, true), node("real", false, false)},
		"b-sim": {node("a-sim", true, false), node("b-sim", true, true)},
	} {
		v := view.New()
		for i, n := range nodes {
			v.Apply(view.Event{Type: watch.Added, Resource: resource.Nodes, Object: n, Revision: uint64(i + 1)})
		}
		if got, gone := reclaimer(v, &corev1.PersistentVolume{}); got != want || gone != nil {
			t.Errorf("reclaimed by %q (gone: %v), want %q", got, gone, want)
		}
	}
}
