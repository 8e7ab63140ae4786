package why

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/workload/placement"
)

// look explains, from the object itself, kinds that no planner speaks for.
func (w *walk) look(obj object.Object) (plan.State, []plan.Wait) {
	switch o := obj.(type) {
	case *corev1.Pod:
		return w.lookAtPod(o)
	case *corev1.Service:
		return w.lookAtService(o)
	case *networkingv1.ServiceCIDR:
		return w.lookAtRange(o)
	case *corev1.ResourceQuota:
		return lookAtQuota(o)
	case *corev1.Node:
		return lookAtNode(o)
	}
	return "", nil
}

// few is how many objects of a sort an explanation names.
const few = 3

// lookAtQuota explains a quota that is used up.
func lookAtQuota(q *corev1.ResourceQuota) (plan.State, []plan.Wait) {
	var full []string
	for name, hard := range q.Status.Hard {
		if used, ok := q.Status.Used[name]; ok && used.Cmp(hard) >= 0 {
			full = append(full, string(name))
		}
	}
	if len(full) == 0 {
		return plan.Waiting, nil
	}
	return plan.Stuck, nil
}

// pressures are the conditions that are bad when True.
var pressures = []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeNetworkUnavailable}

// lookAtNode adds to the node controller's word what keeps pods off a node that is ready.
func lookAtNode(n *corev1.Node) (plan.State, []plan.Wait) {
	var waits []plan.Wait
	for _, c := range n.Status.Conditions {
		for _, bad := range pressures {
			if c.Type == bad && c.Status == corev1.ConditionTrue {
				waits = append(waits, plan.Wait{Reason: string(c.Type), Message: c.Message, Since: c.LastTransitionTime.Time})
			}
		}
	}
	if n.Spec.Unschedulable {
		waits = append(waits, plan.Wait{Reason: "Cordoned", Message: "the node is cordoned: no new pod is placed on it", Hint: "kubectl uncordon " + n.Name})
	}
	if len(waits) > 0 {
		return plan.Waiting, waits
	}
	return plan.Steady, nil
}

// nodeSummary says a node's state and what it asks pods to tolerate.
func nodeSummary(n *corev1.Node) string {
	parts := []string{"not ready"}
	if ready := nodestate.Ready(n); ready {
		parts[0] = "ready"
	}
	for i := range n.Spec.Taints {
		parts = append(parts, "taint "+placement.TaintText(&n.Spec.Taints[i]))
	}
	return strings.Join(parts, ", ")
}

func quotaSummary(q *corev1.ResourceQuota) string {
	var parts []string
	for _, name := range sortedNames(q.Status.Hard) {
		hard, used := q.Status.Hard[name], q.Status.Used[name]
		parts = append(parts, fmt.Sprintf("%s: %s of %s used", name, used.String(), hard.String()))
	}
	return strings.Join(parts, ", ")
}
