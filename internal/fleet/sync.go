package fleet

import (
	"context"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/simnode"
)

// syncNode writes what a node says of itself, and returns when to look again.
func (f *Fleet) syncNode(ctx context.Context, name string) time.Time {
	o, ok := f.view.Get(resource.Nodes, "", name)
	if !ok {
		return time.Time{}
	}
	node := o.(*corev1.Node)
	f.checkNode(node)
	for nodestate.Simulated(node) {
		step := simnode.NextNode(node, f.opts.Version, time.Now())
		next, part := step.Object, ""
		if step.Status != nil {
			next, part = step.Status, "status"
		}
		if next == nil {
			return step.Again
		}
		written, err := f.client.Update(ctx, next, part)
		if err != nil {
			return f.failed(ctx, item{sort: aNode, key: object.Key{Name: name}}, err)
		}
		node = written.(*corev1.Node)
	}
	return time.Time{}
}

// checkNode tells the problems of a node's annotations, once for what they say.
func (f *Fleet) checkNode(node *corev1.Node) {
	shape := simnode.Shape(node.Annotations)
	f.mu.Lock()
	n := f.nodes[node.Name]
	news := n != nil && n.complained != shape
	if news {
		n.complained = shape
	}
	f.mu.Unlock()
	if news {
		for _, p := range simnode.NodeProblems(node) {
			f.complain(node, p)
		}
	}
}

func (f *Fleet) complain(about object.Object, p simnode.Problem) {
	f.tell(plan.Event{Regarding: object.RefOf(about), Type: corev1.EventTypeWarning, Reason: "InvalidSimulation", Message: p.String()})
}

// syncPod writes what becomes of a pod, and returns when to look again.
func (f *Fleet) syncPod(ctx context.Context, key object.Key, e *entry) time.Time {
	o, ok := f.view.Get(resource.Pods, key.Namespace, key.Name)
	if !ok {
		return time.Time{}
	}
	pod := o.(*corev1.Pod)
	no, ok := f.view.Get(resource.Nodes, "", pod.Spec.NodeName)
	if !ok || !nodestate.Simulated(no.(*corev1.Node)) || simnode.Silent(no.(*corev1.Node)) {
		return time.Time{}
	}
	now := time.Now()
	if pod.DeletionTimestamp != nil && !e.deleting {
		e.deleting, e.since = true, now
	}
	in := simnode.Input{Pod: pod, Node: no.(*corev1.Node), Since: e.since, Now: now}
	if in.Refused = f.admit(ctx, pod, in.Node); in.Refused == nil {
		in.Unmounted = f.unmounted(pod)
		in.Address = f.addressFor(pod, key, e)
	}
	step := simnode.Next(in)
	if step.Status != nil {
		next := *pod
		next.Status = *step.Status
		if _, err := f.client.Update(ctx, &next, "status"); err != nil {
			return f.failed(ctx, item{key: key}, err)
		}
		e.since = step.Since
		for _, t := range step.Told {
			f.tell(plan.Event{Regarding: object.RefOf(pod), Type: t.Type, Reason: t.Reason, Message: t.Message})
		}
	}
	if step.Gone {
		zero := int64(0)
		if _, err := f.client.Delete(ctx, object.RefOf(pod), metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			return f.failed(ctx, item{key: key}, err)
		}
	}
	if first := step.Status != nil && pod.Status.StartTime == nil; f.settled(e) || first {
		for _, p := range step.Problems {
			f.complain(pod, p)
		}
	}
	return step.Again
}

// addressFor is the address for a pod that has none, kept until its object tells it.
func (f *Fleet) addressFor(pod *corev1.Pod, key object.Key, e *entry) netip.Addr {
	if pod.Status.PodIP != "" || pod.Spec.HostNetwork || pod.DeletionTimestamp != nil || podstate.Ended(pod) {
		return none
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[pod.Spec.NodeName]
	if n == nil || n.addresses == nil || f.queue.entries[item{key: key}] != e {
		return none
	}
	if !e.address.IsValid() {
		addr, ok := n.addresses.pick()
		if !ok {
			n.starved[key] = struct{}{}
			return none
		}
		e.address = addr
	}
	return e.address
}

// Pauses after a write that the API refused, doubling.
const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// failed says when a refused write is tried again. After a conflict, or when the object is gone,
// the view is about to show why; that change asks for a new look.
func (f *Fleet) failed(ctx context.Context, it item, err error) time.Time {
	if ctx.Err() != nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return time.Time{}
	}
	f.mu.Lock()
	pause := firstPause
	if e := f.queue.entries[it]; e != nil {
		pause = min(firstPause<<min(e.failures, 6), lastPause)
		e.failures++
	}
	f.mu.Unlock()
	f.opts.Log.WarnContext(ctx, "simulated node cannot write", "object", it.key.String(), "error", err, "pause", pause)
	return time.Now().Add(pause)
}

// settled notes that nothing failed, and says whether the annotations changed since it last did.
func (f *Fleet) settled(e *entry) (reshaped bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	reshaped = e.reshaped
	e.failures, e.reshaped = 0, false
	return reshaped
}
