// Package admission says which pods that the scheduler has placed on a node may begin there, and which must make room for one.
// It owns what the node's pods hold of it; what fits is package fit's. It refuses to begin pods and to end them.
package admission

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client"
	"coracle/internal/fit"
	"coracle/internal/node/locked"
	"coracle/internal/node/objects"
	"coracle/internal/node/podsync"
	"coracle/internal/node/status"
	"coracle/internal/resource"
)

// Verdict is what admission makes of a pod.
type Verdict struct {
	Refusal *fit.Refusal
	// Victims must have stopped before the pod begins: it is critical, and they make room for it.
	Victims []types.UID
}

// Config says which node pods are admitted to.
type Config struct {
	Node string
	// API is asked for the node when what Hub knows of it refuses a pod.
	API client.Interface
	Hub *objects.Hub
	// New is the node as it would be made, judged by while the API has none.
	New func() *corev1.Node
}

// Gate admits pods to one node.
type Gate struct {
	cfg Config
	// taken is what the pods that were admitted hold of the node.
	taken locked.Value[fit.Holdings]
}

// New is the gate of a node that has no pods yet.
func New(cfg Config) *Gate { return &Gate{cfg: cfg} }

// Admit judges a pod that this agent has not seen before, by package fit. What was admitted once stays so whatever its
// node has become since: a pod that the API says has started, or that this machine runs (here), is not judged. A pod that
// is on its way out is not either. Pods are judged one after the other: what one holds is counted by Take before the next.
func (g *Gate) Admit(ctx context.Context, pod *corev1.Pod, here bool) (Verdict, error) {
	if pod.DeletionTimestamp != nil || podsync.Terminal(pod.Status.Phase) || pod.Status.StartTime != nil || here {
		return Verdict{}, nil
	}
	obj, err := g.cfg.Hub.Get(ctx, objects.Ref{Resource: resource.Nodes, Name: g.cfg.Node})
	node, _ := obj.(*corev1.Node)
	if err == nil && g.judge(node, pod) == nil {
		return Verdict{}, nil
	}
	// What is known of the node may be older than the pod, which somebody has just placed by a new label or resource.
	got, err := g.cfg.API.Get(ctx, resource.Nodes, "", g.cfg.Node)
	switch {
	case err == nil:
		node = got.(*corev1.Node)
	case apierrors.IsNotFound(err):
		node = g.cfg.New()
	default:
		return Verdict{}, fmt.Errorf("get the node to admit pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	v := Verdict{Refusal: g.judge(node, pod)}
	if v.Refusal == nil {
		return v, nil
	}
	g.taken.Do(func(h *fit.Holdings) {
		if v.Victims = h.Preempt(node, runtime.GOOS, classed(pod)); len(v.Victims) > 0 {
			v.Refusal = nil
		}
	})
	return v, nil
}

func (g *Gate) judge(node *corev1.Node, pod *corev1.Pod) *fit.Refusal {
	return locked.Get(&g.taken, func(h *fit.Holdings) *fit.Refusal { return h.Judge(node, runtime.GOOS, pod) })
}

// Take counts what a pod holds of the node until it is vacated.
func (g *Gate) Take(pod *corev1.Pod) {
	if podsync.Terminal(pod.Status.Phase) {
		return // nothing of it runs
	}
	g.taken.Do(func(h *fit.Holdings) { h.Add(classed(pod)) })
}

// Vacate says that a pod holds nothing of the node any more: it has ended, or nobody asks for it.
func (g *Gate) Vacate(uid types.UID) {
	g.taken.Do(func(h *fit.Holdings) { h.Remove(uid) })
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

// Order orders pods as they are to be admitted: what was admitted before counts first, then the oldest.
func Order(items []client.Object, here map[types.UID]bool) []*corev1.Pod {
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
