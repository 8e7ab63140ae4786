package fit

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	v1helper "k8s.io/component-helpers/scheduling/corev1"
)

// Holdings is what the pods that a node took hold of it. The zero value is that of an empty node. It is not safe for
// concurrent use.
type Holdings struct {
	used  Amounts
	ports Ports
	pods  map[types.UID]holding
}

// holding is what one pod holds.
type holding struct {
	request  Amounts
	ports    []Port
	priority int32
	class    int8 // of service: what is given up first is lowest
}

// Has says whether a pod is counted.
func (h *Holdings) Has(uid types.UID) bool {
	_, has := h.pods[uid]
	return has
}

// Add counts a pod, once.
func (h *Holdings) Add(pod *corev1.Pod) {
	if h.Has(pod.UID) {
		return
	}
	if h.pods == nil {
		h.pods = map[types.UID]holding{}
	}
	one := holding{RequestOf(pod), PortsOf(pod), v1helper.PodPriority(pod), class(pod)}
	h.pods[pod.UID] = one
	h.count(&one, 1)
}

// Remove stops counting a pod.
func (h *Holdings) Remove(uid types.UID) {
	if one, has := h.pods[uid]; has {
		h.count(&one, -1)
		delete(h.pods, uid)
	}
}

func (h *Holdings) count(one *holding, sign int64) {
	h.used.Add(one.request, sign)
	h.used.Pods += sign
	h.ports.Use(one.ports, int(sign))
}

// class ranks a pod by its class of service, as its status has it: best effort, burstable, guaranteed.
func class(pod *corev1.Pod) int8 {
	switch pod.Status.QOSClass {
	case corev1.PodQOSGuaranteed:
		return 2
	case corev1.PodQOSBurstable:
		return 1
	}
	return 0
}

// critical is the priority from which on a node makes room for a pod (API: system-cluster-critical, the lower of the two
// classes that the system has).
const critical = 2_000_000_000

// Preempt names the pods that must end so that the node has room for a critical pod that it refuses for want of resources;
// none when the pod is not critical, when it would be refused all the same, or when ending all that may end is not enough.
// Pods of less than critical priority and below the pod's own are given up, the least important first and no more than need be.
func (h *Holdings) Preempt(node *corev1.Node, os string, pod *corev1.Pod) []types.UID {
	mine := v1helper.PodPriority(pod)
	if mine < critical || foreign(os, pod) != nil || h.barred(node, pod) != nil {
		return nil
	}
	var order []types.UID
	for uid := range h.pods {
		if p := h.pods[uid].priority; p < mine && p < critical {
			order = append(order, uid)
		}
	}
	slices.SortFunc(order, func(a, b types.UID) int {
		x, y := h.pods[a], h.pods[b]
		return cmp.Or(cmp.Compare(x.priority, y.priority), cmp.Compare(x.class, y.class), cmp.Compare(a, b))
	})
	want, allocatable := RequestOf(pod), AmountsOf(node.Status.Allocatable)
	left := Amounts{}
	left.Add(h.used, 1)
	left.Pods = h.used.Pods
	fits := func() bool { _, short := Short(&want, &left, &allocatable); return !short }
	take := func(uid types.UID, sign int64) {
		left.Add(h.pods[uid].request, sign)
		left.Pods += sign
	}
	taken := 0
	for taken < len(order) && !fits() {
		take(order[taken], -1)
		taken++
	}
	if !fits() {
		return nil
	}
	// The most important of them stay whose end is not needed after all.
	victims := order[:taken]
	for i := len(victims) - 1; i >= 0; i-- {
		if take(victims[i], 1); fits() {
			victims = slices.Delete(victims, i, i+1)
			continue
		}
		take(victims[i], -1)
	}
	return victims
}
