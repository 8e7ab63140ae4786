package node

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client"
	"coracle/internal/fit"
	"coracle/internal/node/objects"
	"coracle/internal/node/podsync"
	"coracle/internal/node/status"
	"coracle/internal/resource"
)

// verdict is what admission makes of a pod.
type verdict struct {
	refusal *fit.Refusal
	// victims must have stopped before the pod begins: it is critical, and they make room for it.
	victims []types.UID
}

// admit judges a pod that this agent has not seen before, by package fit. What was admitted once stays so whatever its
// node has become since: a pod that the API says has started, or that this machine runs, is not judged. A pod that is
// on its way out is not either. Only the follower of pods may call it: one pod is judged after the other.
func (a *agent) admit(ctx context.Context, pod *corev1.Pod, here bool) (verdict, error) {
	if pod.DeletionTimestamp != nil || podsync.Terminal(pod.Status.Phase) || pod.Status.StartTime != nil || here {
		return verdict{}, nil
	}
	obj, err := a.hub.Get(ctx, objects.Ref{Resource: resource.Nodes, Name: a.cfg.Name})
	node, _ := obj.(*corev1.Node)
	if err == nil && a.judge(node, pod) == nil {
		return verdict{}, nil
	}
	// What is known of the node may be older than the pod, which somebody has just placed by a new label or resource.
	got, err := a.api.Get(ctx, resource.Nodes, "", a.cfg.Name)
	switch {
	case err == nil:
		node = got.(*corev1.Node)
	case apierrors.IsNotFound(err):
		node = &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: a.cfg.Name, Labels: a.labels()}, Spec: corev1.NodeSpec{Taints: a.cfg.Taints},
			Status: corev1.NodeStatus{Capacity: a.machine.Capacity, Allocatable: a.machine.Allocatable},
		}
	default:
		return verdict{}, fmt.Errorf("get the node to admit pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	v := verdict{refusal: a.judge(node, pod)}
	if v.refusal == nil {
		return v, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if v.victims = a.taken.Preempt(node, runtime.GOOS, classed(pod)); len(v.victims) > 0 {
		v.refusal = nil
	}
	return v, nil
}

func (a *agent) judge(node *corev1.Node, pod *corev1.Pod) *fit.Refusal {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.taken.Judge(node, runtime.GOOS, pod)
}

// take counts what a pod holds of the node until it is vacated.
func (a *agent) take(pod *corev1.Pod) {
	if podsync.Terminal(pod.Status.Phase) {
		return // nothing of it runs
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.taken.Add(classed(pod))
}

// vacate says that a pod holds nothing of the node any more: it has ended, or nobody asks for it.
func (a *agent) vacate(uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.taken.Remove(uid)
}

// classed is a pod that says its class of service, which the API server gives it.
func classed(pod *corev1.Pod) *corev1.Pod {
	if pod.Status.QOSClass != "" {
		return pod
	}
	out := *pod
	out.Status.QOSClass = status.QOS(pod)
	return &out
}

// refuse ends a pod before it begins. Its worker has not run yet.
func (w *worker) refuse(r *fit.Refusal) {
	w.evicted = &podsync.Stop{Reason: r.Reason, Message: r.Status()}
	w.a.events.Pod(w.pod, "", corev1.EventTypeWarning, r.Reason, r.Message)
}

// giveWay ends a pod whose room a critical one needs.
func (w *worker) giveWay() {
	w.tell(func() {
		if w.evicted != nil {
			return
		}
		w.evicted = &podsync.Stop{Reason: fit.Preempting, Message: fit.Preempted}
		w.a.events.Pod(w.pod, "", corev1.EventTypeWarning, fit.Preempting, fit.Preempted)
	})
}

// admitted orders pods as they are to be admitted: what was admitted before counts first, then the oldest.
func admitted(items []client.Object, here map[types.UID]bool) []*corev1.Pod {
	pods := make([]*corev1.Pod, 0, len(items))
	for _, obj := range items {
		if pod, ok := obj.(*corev1.Pod); ok {
			pods = append(pods, pod)
		}
	}
	rank := func(p *corev1.Pod) int {
		if p.Status.StartTime != nil || here[p.UID] {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(pods, func(x, y *corev1.Pod) int {
		return cmp.Or(cmp.Compare(rank(x), rank(y)), x.CreationTimestamp.Compare(y.CreationTimestamp.Time), cmp.Compare(x.UID, y.UID))
	})
	return pods
}
