package nodelife

import (
	"fmt"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// lifecycle keeps each node's conditions and taints true. A lease's renewal needs no decision:
// the one made at the last deadline looks at the lease as it then is.
func lifecycle() plan.Controller {
	return plan.Controller{
		Name: "node-lifecycle-controller", For: resource.Nodes,
		Watches: []plan.Watch{{Resource: resource.Nodes, Keys: lastReady}, {Resource: resource.Leases, Keys: firstLease}},
		Signs:   []plan.Sign{{Resource: resource.Leases, Given: renewed}, {Resource: resource.Nodes, Given: reported}},
		Indexes: []object.Index{{Resource: resource.Nodes, Name: indexReady, Values: func(o object.Object) []string {
			if isReady(o.(*corev1.Node)) {
				return []string{"true"}
			}
			return nil
		}}},
		Plan: judge,
	}
}

// lastReady asks for all nodes when the last ready one is lost or the first one comes back:
// evictions hang on there being one.
func lastReady(r object.Reader, before, after object.Object) []object.Key {
	was, is := isReady(nodeOrNil(before)), isReady(nodeOrNil(after))
	if ready := len(r.Indexed(resource.Nodes, indexReady, "true")); was == is || is && ready != 1 || was && ready != 0 {
		return nil
	}
	var keys []object.Key
	for _, n := range r.List(resource.Nodes, "") {
		keys = append(keys, object.KeyOf(n))
	}
	return keys
}

func firstLease(_ object.Reader, before, after object.Object) []object.Key {
	if before != nil || after.GetNamespace() != LeaseNamespace {
		return nil
	}
	return []object.Key{{Name: after.GetName()}}
}

func judge(in plan.Input) plan.Plan {
	o, ok := in.Reader.Get(resource.Nodes, "", in.Key.Name)
	if !ok {
		return plan.Plan{}
	}
	node := o.(*corev1.Node)
	var p plan.Plan
	silent, grace := silence(in.Witness, node)
	next := node
	if silent < grace {
		p.Again = in.Now.Add(grace - silent)
	} else {
		next = node.DeepCopy()
		declareSilent(next, in.Now)
	}
	ready := nodeCondition(next, corev1.NodeReady)
	if next != node && !apiequality.Semantic.DeepEqual(node.Status, next.Status) {
		p.Status = next
		if isReady(node) && !isReady(next) {
			p.Events = append(p.Events, plan.Event{
				Regarding: object.RefOf(node), Type: corev1.EventTypeNormal, Reason: "NodeNotReady",
				Message: fmt.Sprintf("Node %s status is now: NodeNotReady", node.Name),
			})
		}
	}
	if taints, because := taintsFor(next, anyAlive(in), in.Now); because != "" {
		tainted := node.DeepCopy()
		tainted.Spec.Taints = taints
		p.Actions = []plan.Action{plan.Update{Object: tainted, Because: because}}
	}
	p.Why = whyNode(node, ready, in.Now.Add(-silent))
	return p
}

// renewed says whether a change to a lease is a node's heartbeat. The time in it is by the node's own clock and means
// only that it is another one.
func renewed(before, after object.Object) bool {
	if after.GetNamespace() != LeaseNamespace {
		return false
	}
	return before == nil || !apiequality.Semantic.DeepEqual(before.(*coordinationv1.Lease).Spec.RenewTime, after.(*coordinationv1.Lease).Spec.RenewTime)
}

// reported says whether a change to a node is its agent's report.
func reported(before, after object.Object) bool {
	if before == nil || before.GetUID() != after.GetUID() {
		return true
	}
	was, is := nodeCondition(before.(*corev1.Node), corev1.NodeReady), nodeCondition(after.(*corev1.Node), corev1.NodeReady)
	if is == nil || is.Status == corev1.ConditionUnknown {
		return false // nobody says so of himself
	}
	return was == nil || !was.LastHeartbeatTime.Equal(&is.LastHeartbeatTime)
}

// silence is for how long a node has not been heard of though the server listened, and how long it is given.
func silence(w plan.Witness, node *corev1.Node) (silent, grace time.Duration) {
	grace = StartupGrace
	if nodeCondition(node, corev1.NodeReady) != nil {
		grace = Grace
	}
	last := max(w.Last(resource.Nodes, object.Key{Name: node.Name}), w.Last(resource.Leases, object.Key{Namespace: LeaseNamespace, Name: LeaseOf(node)}))
	return w.Now - last, grace
}

// LeaseOf is the name of the lease by which a node shows that it lives.
func LeaseOf(node *corev1.Node) string {
	if shared := node.Annotations[HeartbeatLease]; shared != "" {
		return shared
	}
	return node.Name
}

// anyAlive says whether some node is ready and was heard of: by its heartbeat, because several
// nodes that fall silent together are not all judged at one instant.
func anyAlive(in plan.Input) bool {
	for _, o := range in.Reader.Indexed(resource.Nodes, indexReady, "true") {
		if silent, grace := silence(in.Witness, o.(*corev1.Node)); silent < grace {
			return true
		}
	}
	return false
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// declareSilent makes unknown what only the node could tell.
func declareSilent(node *corev1.Node, now time.Time) {
	for _, kind := range []corev1.NodeConditionType{
		corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
	} {
		c := nodeCondition(node, kind)
		switch {
		case c == nil:
			node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{
				Type: kind, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
			})
		case c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.NewTime(now)
		}
	}
}

// The taints that say in the scheduler's language what a condition says.
var conditionTaints = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	key       string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
}

// taintsFor returns the taints a node should have, and why they differ from those it has; an
// empty reason when they do not. While no node at all is ready nothing is gained by eviction and
// the fault is likely elsewhere, so none is marked for it.
func taintsFor(node *corev1.Node, evict bool, now time.Time) (taints []corev1.Taint, because string) {
	wanted := map[corev1.Taint]bool{}
	managed := map[corev1.Taint]bool{}
	note := func(key string, effect corev1.TaintEffect, on bool) {
		t := corev1.Taint{Key: key, Effect: effect}
		managed[t] = true
		wanted[t] = wanted[t] || on
	}
	for _, m := range conditionTaints {
		c := nodeCondition(node, m.condition)
		on := c != nil && c.Status == m.status
		note(m.key, corev1.TaintEffectNoSchedule, on)
		if m.condition == corev1.NodeReady {
			note(m.key, corev1.TaintEffectNoExecute, on && evict)
		}
	}
	note(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule, node.Spec.Unschedulable)

	var lapsed, undated, added []string
	for _, t := range node.Spec.Taints {
		id := corev1.Taint{Key: t.Key, Effect: t.Effect}
		if managed[id] && !wanted[id] {
			lapsed = append(lapsed, t.ToString())
			continue
		}
		if t.Effect == corev1.TaintEffectNoExecute && t.TimeAdded == nil {
			// Pods that tolerate it for a time need to know since when.
			t.TimeAdded = new(metav1.NewTime(now.Truncate(time.Second)))
			undated = append(undated, t.ToString())
		}
		taints = append(taints, t)
		delete(wanted, id)
	}
	var missing []corev1.Taint
	for t, on := range wanted {
		if on {
			missing = append(missing, t)
		}
	}
	slices.SortFunc(missing, func(a, b corev1.Taint) int {
		if a.Key+string(a.Effect) < b.Key+string(b.Effect) {
			return -1
		}
		return 1
	})
	for _, t := range missing {
		t.TimeAdded = new(metav1.NewTime(now.Truncate(time.Second)))
		taints = append(taints, t)
		added = append(added, t.ToString())
	}
	return taints, changes(lapsed, undated, added)
}

// changes says in words what becomes of a node's taints; empty when nothing does.
func changes(lapsed, undated, added []string) string {
	var out []string
	for _, c := range []struct {
		taints []string
		words  string
	}{
		{added, "its conditions or its cordon ask for "},
		{lapsed, "no longer due: "},
		{undated, "counted from now on: "},
	} {
		if len(c.taints) > 0 {
			out = append(out, c.words+strings.Join(c.taints, ", "))
		}
	}
	return strings.Join(out, "; ")
}

func whyNode(node *corev1.Node, ready *corev1.NodeCondition, heard time.Time) plan.Why {
	switch {
	case ready != nil && ready.Status == corev1.ConditionTrue:
		return plan.Why{State: plan.Steady}
	case ready != nil && ready.Status == corev1.ConditionFalse:
		return plan.Why{State: plan.Waiting, Waits: []plan.Wait{{
			Reason: ready.Reason, Message: ready.Message, On: object.RefOf(node), Since: ready.LastTransitionTime.Time,
		}}}
	}
	if ready != nil && !ready.LastTransitionTime.IsZero() && ready.LastTransitionTime.Time.Before(heard) {
		heard = ready.LastTransitionTime.Time // it was silent before the server began to listen
	}
	return plan.Why{State: plan.Waiting, Waits: []plan.Wait{{
		Reason: "NodeStatusUnknown", On: object.RefOf(node), Since: heard,
		Message: fmt.Sprintf("node %s is not heard of any more", node.Name),
		Hint:    "start the node's agent again, or delete the node if it is gone for good",
	}}}
}
