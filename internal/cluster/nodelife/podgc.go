package nodelife

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

const podGC = "pod-garbage-collector"

// podCollector deletes pods that no node will ever end: on a node that is gone, on one declared
// out of service (KEP-2268), or deleted before they had a node.
func podCollector() plan.Controller {
	return plan.Controller{
		Name: podGC, For: resource.Pods, Cares: collectorCares,
		Watches: []plan.Watch{podsOf(func(before, after *corev1.Node) bool {
			return after == nil || outOfService(before) != outOfService(after)
		})},
		Indexes: []object.Index{PodsByNode},
		Plan:    planCollection,
	}
}

func collectorCares(before, after object.Object) bool {
	if after == nil {
		return false
	}
	is := after.(*corev1.Pod)
	if before == nil {
		return is.Spec.NodeName != "" || is.DeletionTimestamp != nil
	}
	was := before.(*corev1.Pod)
	return was.Spec.NodeName != is.Spec.NodeName || (was.DeletionTimestamp == nil) != (is.DeletionTimestamp == nil)
}

func outOfService(n *corev1.Node) bool {
	return n != nil && !isReady(n) &&
		(hasTaint(n, corev1.TaintNodeOutOfService, corev1.TaintEffectNoExecute) || hasTaint(n, corev1.TaintNodeOutOfService, corev1.TaintEffectNoSchedule))
}

func planCollection(in plan.Input) plan.Plan {
	pod, node := podAndNode(in)
	if pod == nil {
		return plan.Plan{}
	}
	switch {
	case pod.Spec.NodeName == "" && pod.DeletionTimestamp != nil:
		return collect(in, pod, nil, "PodGC: pod was deleted before it was scheduled", "it was deleted before it had a node")
	case pod.Spec.NodeName == "":
	case node == nil:
		gone := object.Ref{Resource: resource.Nodes, Key: object.Key{Name: pod.Spec.NodeName}}
		return collect(in, pod, plan.AllAbsent(gone), "PodGC: node no longer exists", fmt.Sprintf("its node %s no longer exists", pod.Spec.NodeName))
	case outOfService(node) && pod.DeletionTimestamp != nil:
		return collect(in, pod, nil, "PodGC: node is out of service", fmt.Sprintf("its node %s is out of service", node.Name))
	}
	return plan.Plan{}
}

func collect(in plan.Input, pod *corev1.Pod, when []plan.Guard, message, because string) plan.Plan {
	if g := pod.DeletionGracePeriodSeconds; pod.DeletionTimestamp != nil && g != nil && *g == 0 {
		// Nothing more can be asked of the API: finalizers hold it.
		return plan.Plan{Why: plan.Why{State: plan.Waiting, Next: "be gone", Waits: []plan.Wait{{
			Reason: "FinalizersRemaining", Message: "the pod is held by the finalizers " + strings.Join(pod.Finalizers, ", "),
			Hint: "the controllers that set the finalizers must remove them",
		}}}}
	}
	marks := disrupted(pod, "DeletionByPodGC", message, corev1.PodFailed, because, in.Now)
	for i := range marks {
		mark := marks[i].(plan.Update)
		mark.When = when
		marks[i] = mark
	}
	return plan.Plan{Actions: append(marks, plan.Delete{
		Object: object.RefOf(pod), GraceSeconds: new(int64(0)), When: when, Because: because,
	})}
}

// terminatedCollector keeps the number of ended pods within bounds: the oldest go.
func terminatedCollector(keep int) plan.Controller {
	return plan.Controller{
		Name: podGC, For: resource.Pods, Whole: true,
		Cares: func(before, after object.Object) bool {
			return after != nil && ended(after.(*corev1.Pod)) && (before == nil || !ended(before.(*corev1.Pod)))
		},
		Indexes: []object.Index{{Resource: resource.Pods, Name: indexTerminated, Values: func(o object.Object) []string {
			if ended(o.(*corev1.Pod)) {
				return []string{"true"}
			}
			return nil
		}}},
		Plan: func(in plan.Input) plan.Plan { return planTerminated(in, keep) },
	}
}

func ended(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && podstate.Ended(p)
}

func planTerminated(in plan.Input, keep int) plan.Plan {
	pods := in.Reader.Indexed(resource.Pods, indexTerminated, "true")
	if len(pods) <= keep {
		return plan.Plan{}
	}
	oldest := slices.Clone(pods)
	slices.SortStableFunc(oldest, func(a, b object.Object) int {
		return a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time)
	})
	var p plan.Plan
	for _, o := range oldest[:len(oldest)-keep] {
		p.Actions = append(p.Actions, plan.Delete{
			Object: object.RefOf(o), GraceSeconds: new(int64(0)), Because: fmt.Sprintf("more than %d pods have ended", keep),
		})
	}
	return p
}
