package why

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	helper "k8s.io/component-helpers/resource"

	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/scheduler/place"
	"coracle/internal/workload/placement"
)

// cures are what a user can do about the reasons for which nodes refuse a pod, in the order in which they are told. Those
// for taints and resources, which have names, are in cure.
var cures = []struct {
	reasons []place.Reason
	cure    string
}{
	{[]place.Reason{place.TooManyPods}, "free places for pods on the nodes, or add a node"},
	{[]place.Reason{place.Cordoned}, "kubectl uncordon the node"},
	{[]place.Reason{place.NodeAffinity}, "label a node as the pod's nodeSelector or affinity asks, or change these"},
	{[]place.Reason{place.OtherOS}, "add a node of the operating system in the pod's spec.os, or change that"},
	{[]place.Reason{place.NoFreePorts}, "free the host port on a node, or add a node"},
	{[]place.Reason{place.VolumeAffinity}, "make room on the node that has the volume"},
	{[]place.Reason{place.PodAntiAffinity, place.Repelled}, "add a node, or relax the pod's anti-affinity"},
	{[]place.Reason{place.PodAffinity}, "start the pods that it asks to be near, or relax its affinity"},
	{[]place.Reason{place.Spread, place.SpreadLabel},
		"add nodes in the topology domains that lack pods, or relax the constraint"},
}

// lacking are the resources of which nodes that refuse the pod have too little.
func (t *trial) lacking(d place.Decision) (short []corev1.ResourceName) {
	for _, name := range sortedNames(t.wants()) {
		if d.Refused[place.Insufficient(name)] > 0 {
			short = append(short, name)
		}
	}
	return short
}

// inTheWay says what is to be done about all that keeps the pod off the nodes. A pod that is meant for one node, as daemons
// are, fails to match the others by intention.
func (t *trial) inTheWay(d place.Decision) string {
	var hints []string
	if len(t.lacking(d)) > 0 {
		hints = append(hints, "lower the pod's requests, free resources, or add a node")
	}
	if mend, tolerate := t.tainted(d); mend {
		hints = append(hints, "mend the node that is tainted by its condition")
	} else if tolerate {
		hints = append(hints, "add a toleration to the pod, or remove the taint")
	}
	for _, c := range cures {
		for _, reason := range c.reasons {
			if d.Refused[reason] > 0 && (reason != place.NodeAffinity || placement.Pinned(&t.pod.Spec) == "") {
				hints = append(hints, c.cure)
				break
			}
		}
	}
	return strings.Join(hints, "; or ")
}

// tainted says whether taints are in the way: some that nodes got for their condition, or others.
func (t *trial) tainted(d place.Decision) (condition, others bool) {
	for _, n := range t.nodes {
		for i := range n.Spec.Taints {
			taint := &n.Spec.Taints[i]
			if d.Refused[place.Untolerated(taint)] == 0 {
				continue
			}
			if strings.HasPrefix(taint.Key, "node.kubernetes.io/") {
				condition = true
			} else {
				others = true
			}
		}
	}
	return condition, others
}

// wants is what the pod asks for.
func (t *trial) wants() corev1.ResourceList {
	return helper.PodRequests(t.pod, helper.PodResourcesOptions{})
}

// shortage says, where the scheduler found too little of a resource, what the pod asks for and the
// most that a node has free of it. A user's question may scan the pods; no decision does.
func (t *trial) shortage(short []corev1.ResourceName) string {
	wants := t.wants()
	if len(short) == 0 {
		return ""
	}
	free := map[string]corev1.ResourceList{}
	var order []string
	for _, o := range t.r.List(resource.Nodes, "") {
		if n, ok := o.(*corev1.Node); ok {
			free[n.Name] = n.Status.Allocatable.DeepCopy()
			order = append(order, n.Name)
		}
	}
	for _, o := range t.r.List(resource.Pods, "") {
		p, ok := o.(*corev1.Pod)
		if !ok || free[p.Spec.NodeName] == nil || podstate.Ended(p) {
			continue
		}
		for name, q := range helper.PodRequests(p, helper.PodResourcesOptions{}) {
			left := free[p.Spec.NodeName][name]
			left.Sub(q)
			free[p.Spec.NodeName][name] = left
		}
	}
	text := ""
	for _, name := range short {
		want := wants[name]
		best := ""
		for _, node := range order {
			have, most := free[node][name], free[best][name]
			if best == "" || have.Cmp(most) > 0 {
				best = node
			}
		}
		most := free[best][name]
		text += fmt.Sprintf("It asks for %s %s; the most that a node has free is %s (%s). ", want.String(), name, most.String(), best)
	}
	return text[:len(text)-1]
}
