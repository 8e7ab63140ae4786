package cluster_test

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// nodes stand for all agents: a bound pod is ready at once, a deleted one ends at once, a
// released volume's data are removed at once.
type nodes struct {
	w    *whole
	mu   sync.Mutex
	todo []object.Object
	more chan struct{}
	ips  int
}

func newNodes(w *whole) *nodes {
	n := &nodes{w: w, more: make(chan struct{}, 1)}
	w.view.Subscribe(func(ch view.Change) {
		switch ch.After.(type) {
		case *corev1.Pod, *corev1.PersistentVolume:
			n.mu.Lock()
			n.todo = append(n.todo, ch.After)
			n.mu.Unlock()
			select {
			case n.more <- struct{}{}:
			default:
			}
		}
	})
	return n
}

const agents = 32

func (n *nodes) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	limit := make(chan struct{}, agents)
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.more:
		}
		n.mu.Lock()
		todo := n.todo
		n.todo = nil
		n.mu.Unlock()
		for _, o := range todo {
			n.ips++
			ip := fmt.Sprintf("10.244.%d.%d", n.ips/250%250, n.ips%250+1)
			limit <- struct{}{}
			all.Go(func() {
				defer func() { <-limit }()
				n.act(ctx, o, ip)
			})
		}
	}
}

// act writes what an agent would; conflicts are answered by the next change it sees.
func (n *nodes) act(ctx context.Context, o object.Object, ip string) {
	switch o := o.(type) {
	case *corev1.PersistentVolume:
		if reclaim.Assigned(o) != "" && reclaim.Keeps(o) == "" {
			_, _ = n.w.Update(ctx, reclaim.Done(o), "")
		}
	case *corev1.Pod:
		switch {
		case o.Spec.NodeName == "":
		case o.DeletionTimestamp != nil:
			zero := int64(0)
			_, _ = n.w.Delete(ctx, object.Ref{Resource: resource.Pods, Key: object.KeyOf(o), UID: o.UID}, metav1.DeleteOptions{GracePeriodSeconds: &zero})
		case o.Status.Phase != corev1.PodRunning:
			next := o.DeepCopy()
			now := metav1.Now()
			next.Status.Phase, next.Status.PodIP, next.Status.PodIPs = corev1.PodRunning, ip, []corev1.PodIP{{IP: ip}}
			next.Status.StartTime = &now
			next.Status.Conditions = append(next.Status.Conditions,
				corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
				corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionTrue, LastTransitionTime: now})
			_, _ = n.w.Update(ctx, next, "status")
		}
	}
}
