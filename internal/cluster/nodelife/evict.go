package nodelife

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// readiness takes pods of nodes that are not ready out of service: nobody on the node can any
// longer vouch for them.
func readiness() plan.Controller {
	return plan.Controller{
		Name: "node-lifecycle-controller", For: resource.Pods, Cares: readinessCares,
		Watches: []plan.Watch{podsOf(readyChanged)},
		Indexes: []object.Index{PodsByNode},
		Plan:    planReadiness,
	}
}

func readinessCares(before, after object.Object) bool {
	return after != nil && podstate.Ready(after.(*corev1.Pod)) && (before == nil || !podstate.Ready(before.(*corev1.Pod)))
}

func planReadiness(in plan.Input) plan.Plan {
	pod, node := podAndNode(in)
	if node == nil || isReady(node) || !podstate.Ready(pod) || vouched(pod, node) {
		return plan.Plan{}
	}
	next := pod.DeepCopy()
	c := podstate.Condition(next, corev1.PodReady) // it is there: the pod is ready
	c.Status, c.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(in.Now)
	return plan.Plan{
		Actions: []plan.Action{plan.Update{Object: next, Subresource: "status", Because: "its node " + node.Name + " is not ready"}},
		Events: []plan.Event{{
			Regarding: object.RefOf(pod), Type: corev1.EventTypeWarning, Reason: "NodeNotReady", Message: "Node is not ready",
		}},
	}
}

// vouched says that a node that lives, and says of itself that it is not ready, has found a pod ready since: it knows
// best. To say otherwise again and again would be a quarrel without end.
func vouched(pod *corev1.Pod, node *corev1.Node) bool {
	c := nodestate.Condition(node, corev1.NodeReady)
	if c == nil || c.Status != corev1.ConditionFalse {
		return false
	}
	p := podstate.Condition(pod, corev1.PodReady)
	return p != nil && !p.LastTransitionTime.Before(&c.LastTransitionTime)
}

// podAndNode reads the pod decided about and its node; either is nil when it is not there.
func podAndNode(in plan.Input) (*corev1.Pod, *corev1.Node) {
	o, ok := in.Reader.Get(resource.Pods, in.Key.Namespace, in.Key.Name)
	if !ok {
		return nil, nil
	}
	pod := o.(*corev1.Pod)
	if pod.Spec.NodeName == "" {
		return pod, nil
	}
	n, ok := in.Reader.Get(resource.Nodes, "", pod.Spec.NodeName)
	if !ok {
		return pod, nil
	}
	return pod, n.(*corev1.Node)
}

// eviction deletes pods from nodes whose NoExecute taints they do not tolerate, or no longer.
func eviction() plan.Controller {
	return plan.Controller{
		Name: "taint-eviction-controller", For: resource.Pods, Cares: evictionCares,
		Watches: []plan.Watch{podsOf(noExecuteChanged)},
		Indexes: []object.Index{PodsByNode},
		Plan:    planEviction,
	}
}

func evictionCares(before, after object.Object) bool {
	if after == nil {
		return false
	}
	is := after.(*corev1.Pod)
	if before == nil {
		return is.Spec.NodeName != ""
	}
	was := before.(*corev1.Pod)
	return was.Spec.NodeName != is.Spec.NodeName || (was.DeletionTimestamp == nil) != (is.DeletionTimestamp == nil) ||
		!apiequality.Semantic.DeepEqual(was.Spec.Tolerations, is.Spec.Tolerations)
}

func noExecute(n *corev1.Node) []corev1.Taint {
	if n == nil {
		return nil
	}
	var out []corev1.Taint
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			out = append(out, t)
		}
	}
	return out
}

func noExecuteChanged(before, after *corev1.Node) bool {
	was, is := noExecute(before), noExecute(after)
	return (len(was) > 0 || len(is) > 0) && !apiequality.Semantic.DeepEqual(was, is)
}

func planEviction(in plan.Input) plan.Plan {
	pod, node := podAndNode(in)
	if node == nil || pod.DeletionTimestamp != nil || podstate.Ended(pod) {
		return plan.Plan{}
	}
	at, taint, never := evictionTime(pod, noExecute(node))
	if never {
		return plan.Plan{}
	}
	if until := in.Now.Add(Grace - (in.Witness.Now - in.Witness.Awake)); ofCondition(taint) && at.Before(until) {
		at = until // the node may have been silenced by the server's absence: first it is given its grace
	}
	if in.Now.Before(at) {
		return plan.Plan{Again: at, Why: plan.Why{
			State: plan.Waiting, Next: "delete the pod",
			Waits: []plan.Wait{{
				Reason: "TolerationRunsOut", On: object.RefOf(node), Since: since(pod, taint),
				Message: fmt.Sprintf("the pod tolerates taint %s of node %s until %s", taint.ToString(), node.Name, at.UTC().Format(time.RFC3339)),
			}},
		}}
	}
	because := fmt.Sprintf("it does not tolerate taint %s of node %s", taint.ToString(), node.Name)
	return plan.Plan{
		Actions: append(disrupted(pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", "", because, in.Now),
			plan.Delete{
				Object: object.RefOf(pod), Because: because,
				Done: &plan.Event{
					Regarding: object.RefOf(pod), Type: corev1.EventTypeNormal, Reason: "TaintManagerEviction",
					Message: "Marking for deletion Pod " + object.KeyOf(pod).String(),
				},
			}),
	}
}

// ofCondition says whether a taint stands for what a node has not said, or has said, of its readiness.
func ofCondition(t corev1.Taint) bool {
	return t.Key == corev1.TaintNodeUnreachable || t.Key == corev1.TaintNodeNotReady
}

// since is when a pod began to tolerate a taint: when the taint came, or the pod.
func since(pod *corev1.Pod, taint corev1.Taint) time.Time {
	at := pod.CreationTimestamp.Time
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionTrue {
			at = latest(at, c.LastTransitionTime.Time)
		}
	}
	if taint.TimeAdded != nil {
		at = latest(at, taint.TimeAdded.Time)
	}
	return at
}

// evictionTime is when the first of the taints is no longer tolerated, and which that is. A
// taint whose time is not yet written down is waited for: see taintsFor.
func evictionTime(pod *corev1.Pod, taints []corev1.Taint) (at time.Time, by corev1.Taint, never bool) {
	never = true
	for _, t := range taints {
		patience, forever, tolerated := tolerates(pod.Spec.Tolerations, t)
		if !tolerated {
			return time.Time{}, t, false
		}
		if forever || t.TimeAdded == nil {
			continue
		}
		if ends := since(pod, t).Add(patience); never || ends.Before(at) {
			at, by, never = ends, t, false
		}
	}
	return at, by, never
}

// tolerates says for how long tolerations bear a NoExecute taint: the shortest of those that
// match, as tolerationSeconds are documented.
func tolerates(tolerations []corev1.Toleration, t corev1.Taint) (patience time.Duration, forever, tolerated bool) {
	forever = true
	for i := range tolerations {
		if !matches(&tolerations[i], &t) {
			continue
		}
		tolerated = true
		if s := tolerations[i].TolerationSeconds; s != nil {
			d := time.Duration(max(*s, 0)) * time.Second
			if forever || d < patience {
				patience = d
			}
			forever = false
		}
	}
	return patience, forever && tolerated, tolerated
}

func matches(tol *corev1.Toleration, t *corev1.Taint) bool {
	if tol.Effect != "" && tol.Effect != t.Effect || tol.Key != "" && tol.Key != t.Key {
		return false
	}
	switch tol.Operator {
	case "", corev1.TolerationOpEqual:
		return tol.Value == t.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}

// disrupted notes in a pod's status who ends it, and its phase when one is given. It is part of
// the decision to delete, so it precedes the deletion and need not be repeated.
func disrupted(pod *corev1.Pod, reason, message string, phase corev1.PodPhase, because string, now time.Time) []plan.Action {
	next := pod.DeepCopy()
	if phase != "" && !podstate.Ended(pod) {
		next.Status.Phase = phase
	}
	at := slices.IndexFunc(next.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget })
	if at < 0 {
		next.Status.Conditions = append(next.Status.Conditions, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message,
			LastTransitionTime: metav1.NewTime(now),
		})
	}
	if apiequality.Semantic.DeepEqual(pod.Status, next.Status) {
		return nil
	}
	return []plan.Action{plan.Update{Object: next, Subresource: "status", Because: because}}
}
