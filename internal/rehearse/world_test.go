package rehearse

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/cluster/nodelife"
	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/simnode"
	"coracle/internal/virtual"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// node is one that was heard of some time ago; those that share a lease live by it.
func node(name, shares string, status corev1.ConditionStatus, heard time.Duration) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: "uid", ResourceVersion: "1", CreationTimestamp: metav1.NewTime(start.Add(-time.Hour))},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: status, LastHeartbeatTime: metav1.NewTime(start.Add(-heard))}}},
	}
	if shares != "" {
		n.Annotations = map[string]string{nodelife.HeartbeatLease: shares}
	}
	return n
}

// TestHearts: nodes that live do so for as long as the rehearsal, without heartbeats; those that are dead, or die, do not,
// though they share a lease with the living. Who lives is for the cluster to say: its clocks need not agree with ours.
func TestHeartbeats(t *testing.T) {
	at := metav1.NewMicroTime(start)
	c := copied(start, []object.Object{
		node("lives", "all", corev1.ConditionTrue, time.Hour), node("dies", "all", corev1.ConditionTrue, time.Hour),
		node("dead", "all", corev1.ConditionUnknown, time.Hour), node("alone", "", corev1.ConditionTrue, 5*time.Second),
		node("dies-alone", "", corev1.ConditionTrue, 5*time.Second), node("clock-is-off", "", corev1.ConditionTrue, 48*time.Hour),
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: nodelife.LeaseNamespace, Name: "all", ResourceVersion: "2"},
			Spec: coordinationv1.LeaseSpec{RenewTime: &at}},
	}, map[string]bool{"dies": true, "dies-alone": true}, func(*corev1.Pod, *corev1.Node) simnode.Behavior { return simnode.Behavior{} }, virtual.Hooks{})
	known := func() map[string]bool {
		out := map[string]bool{}
		for _, o := range c.Truth().List(resource.Nodes, "") {
			out[o.GetName()] = nodestate.Ready(o.(*corev1.Node))
		}
		return out
	}
	instants := 0
	for next, ok := start, true; ok && next.Before(start.Add(24*time.Hour)); next, ok = c.next() {
		c.Advance(next)
		if err := c.settle(); err != nil {
			t.Fatal(err)
		}
		instants++
		if got := known(); got["dies"] != next.Before(start.Add(nodelife.Grace)) || got["dies-alone"] != got["dies"] {
			t.Errorf("after %s: %v", next.Sub(start), got)
		}
	}
	want := map[string]bool{"lives": true, "alone": true, "dies": false, "dies-alone": false, "dead": false, "clock-is-off": true}
	for name, lives := range known() {
		if lives != want[name] {
			t.Errorf("%s: ready is %v after a day", name, lives)
		}
	}
	if instants > 10 {
		t.Errorf("a day in which nothing happens takes %d instants", instants)
	}
}
