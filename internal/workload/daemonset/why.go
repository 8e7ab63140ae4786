package daemonset

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/workload/diagnose"
	"coracle/internal/workload/placement"
)

// absence is one cause for which nodes run no pod of the set.
type absence struct {
	reason string
	// text follows the count, as in "3 by taint a=b:NoSchedule".
	text  string
	hint  string
	nodes []*corev1.Node // the first of them by name, if there are more
	more  int            // those that are not among nodes
}

func (a *absence) count() int { return len(a.nodes) + a.more }

// few is how many names an explanation lists.
const few = 5

// absences counts the nodes that run no pod by cause, notes them for the explanation, and sums them
// up for the condition: the most frequent cause, and the sentence. It returns "" when every node
// runs one.
func (d *decision) absences() (reason, message string) {
	var list []*absence
	add := func(reason, text, hint string, node *corev1.Node) *absence {
		for _, a := range list {
			if a.reason == reason && a.text == text {
				a.nodes = append(a.nodes, node)
				return a
			}
		}
		list = append(list, &absence{reason: reason, text: text, hint: hint, nodes: []*corev1.Node{node}})
		return list[len(list)-1]
	}
	for i := range d.spots {
		d.absence(&d.spots[i], add)
	}
	d.rest.absent(d, add)
	if len(list) == 0 {
		return "", ""
	}
	for _, a := range list {
		slices.SortFunc(a.nodes, func(x, y *corev1.Node) int { return cmp.Compare(x.Name, y.Name) })
	}
	slices.SortFunc(list, func(a, b *absence) int {
		return cmp.Or(b.count()-a.count(), cmp.Compare(a.nodes[0].Name, b.nodes[0].Name))
	})
	var parts []string
	total := 0
	for _, a := range list {
		total += a.count()
		parts = append(parts, fmt.Sprintf("%d %s", a.count(), a.text))
		d.notes = append(d.notes, plan.Wait{
			Reason:  a.reason,
			Message: fmt.Sprintf("%s no pod %s: %s", nodesRun(a.count()), a.text, nodeNames(a)),
			On:      object.RefOf(a.nodes[0]),
			Hint:    a.hint,
		})
	}
	return list[0].reason, fmt.Sprintf("%d of %d nodes run no pod: %s", total, d.nodes, strings.Join(parts, ", "))
}

func (d *decision) absence(s *spot, add func(reason, text, hint string, node *corev1.Node) *absence) {
	switch {
	case s.verdict.Cause == placement.NodeName, s.verdict.Cause == placement.Selector:
		add("NodeSelector", "by node selector or affinity", "label the node, or change the template's nodeSelector", s.node)
		return
	case s.verdict.Cause == placement.Taint:
		hint := "add a toleration to the template, or remove the taint"
		if strings.HasPrefix(s.verdict.Taint.Key, "node.kubernetes.io/") {
			hint = "mend the node: the taint tells of its condition, and goes with it"
		}
		add("Taint", "by taint "+placement.TaintText(s.verdict.Taint), hint, s.node)
		return
	case len(s.pods) == 0:
		return // it is being made
	}
	best := s.pods[0]
	ready := nodestate.Ready(s.node)
	switch {
	case best.Status.Phase == corev1.PodRunning && ready || podstate.Ended(best):
	case best.Spec.NodeName == "":
		if c := podstate.Condition(best, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			add("Unschedulable", "for want of resources or ports", "free resources on the node, or lower the template's requests", s.node)
		}
	case !ready && !podstate.Ready(best):
		add("NodeNotReady", "because the node is not ready", "bring the node back", s.node)
	}
}

func nodesRun(n int) string {
	if n == 1 {
		return "1 node runs"
	}
	return strconv.Itoa(n) + " nodes run"
}

func nodeNames(a *absence) string {
	names := make([]string, 0, few)
	for _, n := range a.nodes[:min(few, len(a.nodes))] {
		names = append(names, n.Name)
	}
	text := strings.Join(names, ", ")
	if more := a.count() - few; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// unavailable explains the first few pods that are not available, and counts the rest.
func (d *decision) unavailable() []plan.Wait {
	var waits []plan.Wait
	more := 0
	for i := range d.spots {
		for _, pod := range d.spots[i].pods {
			if pod.DeletionTimestamp == nil && (d.available(pod) || podstate.Ended(pod)) {
				continue
			}
			if len(waits) == few {
				more++
				continue
			}
			v := diagnose.Pod(d.in.Reader, pod, d.set.Spec.MinReadySeconds, d.in.Now)
			d.stuck = d.stuck || v.Stuck
			v.Message = fmt.Sprintf("node %s: %s", d.spots[i].node.Name, v.Message)
			waits = append(waits, v.Wait)
		}
	}
	if more > 0 {
		waits = append(waits, plan.Wait{Reason: "MorePods", Message: fmt.Sprintf("%d more pods are not available", more), On: object.RefOf(d.set)})
	}
	return waits
}
