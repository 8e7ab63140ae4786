package why

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/fit"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// rejected explains a pod that its node refused. The refusal is of some time ago, and a pod that has ended is not tried
// again: the node is asked once more, as it is now, and what is offered helps the next pod.
func (w *walk) rejected(pod *corev1.Pod) (plan.Wait, bool) {
	if !podstate.Refused(pod) || pod.DeletionTimestamp != nil {
		return plan.Wait{}, false
	}
	wait := plan.Wait{Reason: pod.Status.Reason, On: object.RefOf(pod)}
	if at := podstate.Condition(pod, corev1.PodReady); at != nil {
		wait.Since = at.LastTransitionTime.Time
	}
	wait.Message = fmt.Sprintf("node %s refused pod %s: %s", pod.Spec.NodeName, pod.Name, strings.TrimPrefix(pod.Status.Message, "Pod was rejected: "))
	again := fmt.Sprintf("then delete pod %s and create it again: a pod that has ended is not tried again", pod.Name)
	if metav1.GetControllerOfNoCopy(pod) != nil {
		again = "its controller makes another pod by itself"
	}
	o, ok := w.r.Get(resource.Nodes, "", pod.Spec.NodeName)
	node, _ := o.(*corev1.Node)
	if !ok || node == nil {
		wait.Hint = fmt.Sprintf("node %s does not exist any more: leave spec.nodeName out, or name another node; %s", pod.Spec.NodeName, again)
		return wait, true
	}
	var held fit.Holdings
	others := w.others(pod)
	for _, other := range others {
		held.Add(other)
	}
	now := held.Judge(node, systemOf(node), pod)
	if now == nil {
		wait.Message += "; the node would take it now"
		wait.Hint = strings.TrimPrefix(again, "then ")
		return wait, true
	}
	if now.Reason != pod.Status.Reason {
		wait.Message += "; now it would be refused for another reason: " + now.Message
	}
	cure := cureOf(now, node, pod, others)
	if cure == "" {
		return wait, true
	}
	wait.Hint = cure + "; " + again
	return wait, true
}

// others are the pods that hold a part of a pod's node.
func (w *walk) others(pod *corev1.Pod) (out []*corev1.Pod) {
	for _, o := range w.r.List(resource.Pods, "") {
		other, ok := o.(*corev1.Pod)
		if ok && other.UID != pod.UID && other.Spec.NodeName == pod.Spec.NodeName && !podstate.Ended(other) {
			out = append(out, other)
		}
	}
	return out
}

func systemOf(node *corev1.Node) string {
	if os := node.Labels[corev1.LabelOSStable]; os != "" {
		return os
	}
	return string(corev1.Linux)
}

// cureOf is what would have the node take a pod like this one.
func cureOf(r *fit.Refusal, node *corev1.Node, pod *corev1.Pod, others []*corev1.Pod) string {
	switch r.Reason {
	case fit.NodePorts:
		if holder := portHolder(pod, others); holder != nil {
			return fmt.Sprintf("end pod %s/%s, which has the port, ask for another hostPort, or let the pod go to another node",
				holder.Namespace, holder.Name)
		}
	case fit.NodeAffinity:
		return fmt.Sprintf("label node %s as the pod's nodeSelector or affinity asks, or let the pod go to a node that is so labelled", node.Name)
	case fit.Untolerated:
		return fmt.Sprintf("add a toleration for the taint to the pod, or take the taint off node %s (kubectl taint)", node.Name)
	case fit.OSNotSupported:
		return fmt.Sprintf("correct spec.os, or let the pod go to a node of its system: %s runs %s", node.Name, systemOf(node))
	case fit.OSLabel:
		return fmt.Sprintf("correct the pod's label %s: node %s runs %s", corev1.LabelOSStable, node.Name, systemOf(node))
	}
	name, short := strings.CutPrefix(r.Reason, fit.OutOf)
	if !short {
		return ""
	}
	var none fit.Holdings
	if alone := none.Judge(node, systemOf(node), pod); alone != nil && alone.Reason == r.Reason {
		most := node.Status.Allocatable[corev1.ResourceName(name)]
		return fmt.Sprintf("lower the pod's requests, or let it go to a larger node: %s has %s %s in all", node.Name, most.String(), name)
	}
	if name == string(corev1.ResourcePods) {
		return fmt.Sprintf("end pods on node %s, or let the pod go to another node", node.Name)
	}
	return fmt.Sprintf("end pods on node %s, lower the requests, or let the pod go to another node (leave spec.nodeName to the scheduler)", node.Name)
}

// portHolder is a pod that has a port which another asks for.
func portHolder(pod *corev1.Pod, others []*corev1.Pod) *corev1.Pod {
	for _, other := range others {
		var taken fit.Ports
		taken.Use(fit.PortsOf(other), 1)
		for _, p := range fit.PortsOf(pod) {
			if taken.Taken(p) {
				return other
			}
		}
	}
	return nil
}
