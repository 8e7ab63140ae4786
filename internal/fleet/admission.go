package fleet

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/fit"
	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/simnode"
	"coracle/internal/view"
)

// count keeps what a node's pods hold of it true.
func (n *node) count(before, after *corev1.Pod) {
	if before != nil && (after == nil || after.UID != before.UID) {
		n.taken.Remove(before.UID)
	}
	switch {
	case after == nil:
	case simnode.Holds(after):
		n.taken.Add(after)
	case podstate.Ended(after):
		n.taken.Remove(after.UID)
	}
}

// admit judges a pod that its node has not begun; nil when the node takes it, which counts it.
func (f *Fleet) admit(ctx context.Context, pod *corev1.Pod, node *corev1.Node) *fit.Refusal {
	refusal := f.judge(pod, node)
	if refusal == nil {
		return nil
	}
	// The snapshot of the node may be older than the pod, which somebody has just placed by a new label or resource.
	if now, err := f.client.Get(ctx, resource.Nodes, "", node.Name); err == nil {
		return f.judge(pod, now.(*corev1.Node))
	}
	return refusal
}

func (f *Fleet) judge(pod *corev1.Pod, node *corev1.Node) *fit.Refusal {
	if simnode.Admitted(pod) {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[node.Name]
	if n == nil || n.taken.Has(pod.UID) || !f.there(pod) {
		return nil
	}
	refusal := simnode.Judge(&n.taken, node, pod)
	if refusal == nil {
		n.taken.Add(pod)
	}
	return refusal
}

// there says whether a pod is in the snapshot still. While f.mu is held its removal is not heard of, so that what is noted
// of it now is forgotten then.
func (f *Fleet) there(pod *corev1.Pod) bool {
	o, ok := f.view.Get(resource.Pods, pod.Namespace, pod.Name)
	return ok && o.GetUID() == pod.UID
}

// unmounted says why a pod that has not begun cannot for want of a claim, and has it looked at again when the claim
// changes.
func (f *Fleet) unmounted(pod *corev1.Pod) string {
	claims := simnode.Claims(pod)
	if len(claims) == 0 || pod.Status.Phase == corev1.PodRunning || podstate.Ended(pod) || pod.DeletionTimestamp != nil {
		return ""
	}
	key := object.KeyOf(pod)
	f.mu.Lock()
	if !f.there(pod) {
		f.mu.Unlock()
		return ""
	}
	for _, claim := range claims { // first: a change from now on is heard of
		if f.awaited[claim] == nil {
			f.awaited[claim] = map[object.Key]struct{}{}
		}
		f.awaited[claim][key] = struct{}{}
	}
	f.mu.Unlock()
	why := simnode.Unmounted(f.view, pod)
	if why == "" {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.forgetClaims(pod)
	}
	return why
}

// forgetClaims says that a pod waits for none of its claims any more. f.mu is held.
func (f *Fleet) forgetClaims(pod *corev1.Pod) {
	for _, claim := range simnode.Claims(pod) {
		delete(f.awaited[claim], object.KeyOf(pod))
		if len(f.awaited[claim]) == 0 {
			delete(f.awaited, claim)
		}
	}
}

// claimChanged looks at the pods that wait for a claim. f.mu is held.
func (f *Fleet) claimChanged(ch view.Change) {
	claim := ch.After
	if claim == nil {
		claim = ch.Before
	}
	for pod := range f.awaited[object.KeyOf(claim)] {
		f.enqueue(item{key: pod})
	}
}
