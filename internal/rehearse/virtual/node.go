package virtual

import (
	"container/heap"
	"context"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client/fake"
	"coracle/internal/fit"
	"coracle/internal/loop"
	"coracle/internal/plan"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
	"coracle/internal/simnode"
)

// forever is past the end of any rehearsal: heartbeats of living nodes are taken to come until then, and cost nothing.
const forever = 10 * 365 * 24 * time.Hour

// Alive says whether a node is one that its cluster hears of: that is for the cluster's server to judge, whose clock
// need not be ours.
func Alive(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status != corev1.ConditionUnknown
		}
	}
	return false
}

// hearts has the controllers hear of living nodes for as long as the rehearsal lasts, of those that lose their power for
// the last time at the start, and of the others for very long no more.
func hearts(core *loop.Core, cfg Config) {
	core.Awake(-forever)
	for _, o := range cfg.Objects {
		node, ok := o.(*corev1.Node)
		if !ok || !Alive(node) {
			continue
		}
		until := forever
		if cfg.Failed[node.Name] {
			until = 0
		}
		core.Saw(resource.Nodes, plan.Key{Name: node.Name}, until)
	}
}

// nodes plays every node's agent.
type nodes struct {
	of *Cluster
	// silent are those without power or agent; unwell those whose agent says that it is not ready, which end pods but
	// start none.
	silent, unwell map[string]bool
	pods           map[types.UID]*local
	addresses      map[string]*netip.Addr
	// taken is what pods hold of their nodes.
	taken map[string]*fit.Holdings
	// first is the revision at the start: what is newer was made since.
	first uint64
	// news are pods to look at now; reclaims volumes whose directory a node is asked to remove.
	news     []*local
	reclaims []*corev1.PersistentVolume
	due      dueHeap
	serial   int
}

// local is a pod as its node knows it.
type local struct {
	pod      *corev1.Pod
	since    time.Time
	deleting bool
	listed   bool
	gone     bool
	// unmounted pods wait for a claim.
	unmounted bool
	at        time.Time
	serial    int
	heapAt    int
}

func newNodes(c *Cluster) *nodes {
	return &nodes{of: c, silent: map[string]bool{}, unwell: map[string]bool{}, pods: map[types.UID]*local{},
		addresses: map[string]*netip.Addr{}, taken: map[string]*fit.Holdings{}, first: c.pulled}
}

// adopt takes over the pods as they are.
func (n *nodes) adopt() {
	for _, o := range n.of.cfg.Objects {
		switch o := o.(type) {
		case *corev1.Node:
			n.silent[o.Name] = n.of.cfg.Failed[o.Name] || !Alive(o)
			n.unwell[o.Name] = !ready(o)
		case *corev1.PersistentVolume:
			n.volume(o)
		}
	}
	for _, o := range n.of.picture.List(resource.Pods, "") {
		n.see(o.(*corev1.Pod))
	}
}

// FailingReason is why a pod's containers wait, when that is a failure.
func FailingReason(pod *corev1.Pod) (string, bool) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			if w := list[i].State.Waiting; w != nil && w.Reason != "" && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				return w.Reason, true
			}
		}
	}
	return "", false
}

func ready(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func (n *nodes) node(pod *corev1.Pod) (*corev1.Node, bool) {
	o, ok := n.of.picture.Get(resource.Nodes, "", pod.Spec.NodeName)
	if !ok {
		return nil, false
	}
	return o.(*corev1.Node), true
}

// hear takes in a change to the cluster.
func (n *nodes) hear(e fake.Entry) {
	switch o := e.Object.(type) {
	case *corev1.Pod:
		if e.Type == watch.Deleted {
			n.forget(o)
			return
		}
		n.see(o)
	case *corev1.PersistentVolume:
		if e.Type != watch.Deleted {
			n.volume(o)
		}
	case *corev1.PersistentVolumeClaim:
		n.claim()
	}
}

// claim has pods looked at again that wait for a claim, in the order in which they came.
func (n *nodes) claim() {
	var waiting []*local
	for _, l := range n.pods {
		if l.unmounted {
			waiting = append(waiting, l)
		}
	}
	slices.SortFunc(waiting, func(a, b *local) int { return a.serial - b.serial })
	for _, l := range waiting {
		n.look(l)
	}
}

// held is what pods hold of a node.
func (n *nodes) held(node string) *fit.Holdings {
	if n.taken[node] == nil {
		n.taken[node] = &fit.Holdings{}
	}
	return n.taken[node]
}

// judge says why the node does not take a pod that it has not begun; one that it takes is counted.
func (n *nodes) judge(node *corev1.Node, pod *corev1.Pod) *fit.Refusal {
	held := n.held(node.Name)
	if simnode.Admitted(pod) || held.Has(pod.UID) {
		return nil
	}
	refusal := simnode.Judge(held, node, pod)
	if refusal == nil {
		held.Add(pod)
	}
	return refusal
}

// see takes in a pod that is on a node.
func (n *nodes) see(pod *corev1.Pod) {
	if pod.Spec.NodeName == "" || n.silent[pod.Spec.NodeName] {
		return
	}
	l := n.pods[pod.UID]
	if l == nil {
		n.serial++
		l = &local{serial: n.serial, heapAt: -1, since: n.of.now}
		if pod.Status.StartTime != nil {
			l.since = time.Time{} // what was before is as the API tells it
		}
		n.pods[pod.UID] = l
	}
	l.pod = pod
	switch {
	case simnode.Holds(pod):
		n.held(pod.Spec.NodeName).Add(pod)
	case simnode.Terminal(pod):
		n.held(pod.Spec.NodeName).Remove(pod.UID)
	}
	if pod.DeletionTimestamp != nil && !l.deleting {
		l.deleting, l.since = true, n.of.now
		if pod.DeletionTimestamp.Add(-graceOf(pod)).Before(n.of.cfg.Start) {
			l.since = time.Time{} // it was being deleted before
		}
	}
	n.look(l)
}

func graceOf(pod *corev1.Pod) time.Duration {
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		return time.Duration(*g) * time.Second
	}
	return 0
}

func (n *nodes) forget(pod *corev1.Pod) {
	l := n.pods[pod.UID]
	if l == nil {
		return
	}
	n.held(pod.Spec.NodeName).Remove(pod.UID)
	l.gone = true
	n.schedule(l, time.Time{})
	delete(n.pods, pod.UID)
}

func (n *nodes) look(l *local) {
	if !l.listed {
		l.listed = true
		n.news = append(n.news, l)
	}
}

func (n *nodes) volume(pv *corev1.PersistentVolume) {
	if by := reclaim.Assigned(pv); by != "" && !n.silent[by] {
		n.reclaims = append(n.reclaims, pv)
	}
}

// act does what is due on all nodes, and says whether that was anything.
func (n *nodes) act() bool {
	for len(n.due) > 0 && !n.due[0].at.After(n.of.now) {
		l := n.due[0]
		n.schedule(l, time.Time{})
		n.look(l)
	}
	busy := len(n.news)+len(n.reclaims) > 0
	for len(n.news) > 0 {
		news := n.news
		n.news = nil
		n.of.as(Node, "", func(ctx context.Context) {
			for _, l := range news {
				l.listed = false
				n.live(ctx, l)
			}
		})
	}
	for _, pv := range n.reclaims {
		n.of.as(Node, "", func(ctx context.Context) { n.reclaim(ctx, pv) })
	}
	n.reclaims = nil
	return busy
}

// live takes the next step of a pod's simnode.
func (n *nodes) live(ctx context.Context, l *local) {
	node, ok := n.node(l.pod)
	if l.gone || !ok || n.unwell[node.Name] && !l.deleting {
		return
	}
	behavior := n.of.cfg.Behavior(l.pod, node)
	in := simnode.Input{Pod: l.pod, Node: node, Behavior: &behavior, Since: l.since, Now: n.of.now, Refused: n.judge(node, l.pod)}
	if l.unmounted = false; in.Refused == nil {
		in.Unmounted = simnode.Unmounted(n.of.picture, l.pod)
		l.unmounted = in.Unmounted != ""
		in.Address = n.address(l.pod, node)
	}
	step := simnode.Next(in)
	l.since = step.Since
	n.schedule(l, step.Again)
	if step.Status != nil {
		next := *l.pod
		next.Status = *step.Status
		next.ResourceVersion = "" // what others write of a status meanwhile, life carries over
		_, _ = n.of.api.Update(ctx, &next, "status")
	}
	if step.Gone {
		zero := int64(0)
		_, _ = n.of.api.Delete(ctx, plan.RefOf(l.pod), metav1.DeleteOptions{GracePeriodSeconds: &zero})
	}
}

// address is one of the node's range for a pod that has none yet. Ranges are not used up: nobody dials.
func (n *nodes) address(pod *corev1.Pod, node *corev1.Node) netip.Addr {
	if pod.Status.PodIP != "" || pod.Spec.HostNetwork {
		return netip.Addr{}
	}
	at := n.addresses[node.Name]
	if at == nil {
		first := netip.MustParseAddr("192.0.2.1") // for documentation (RFC 5737)
		if p, err := netip.ParsePrefix(node.Spec.PodCIDR); err == nil {
			first = p.Masked().Addr().Next()
		}
		at = &first
		n.addresses[node.Name] = at
	}
	*at = at.Next()
	return *at
}

func (n *nodes) reclaim(ctx context.Context, pv *corev1.PersistentVolume) {
	o, err := n.of.api.Get(ctx, resource.PersistentVolumes, "", pv.Name)
	if err != nil || o.GetUID() != pv.UID {
		return
	}
	if now := o.(*corev1.PersistentVolume); reclaim.Keeps(now) == "" {
		_, _ = n.of.api.Update(ctx, reclaim.Done(now), "")
	}
}

// next is when a pod is due.
func (n *nodes) next() time.Time {
	if len(n.due) == 0 {
		return time.Time{}
	}
	return n.due[0].at
}

func (n *nodes) schedule(l *local, at time.Time) {
	if l.heapAt >= 0 {
		heap.Remove(&n.due, l.heapAt)
	}
	l.at = at
	if !at.IsZero() && !l.gone {
		heap.Push(&n.due, l)
	}
}

type dueHeap []*local

func (h dueHeap) Len() int { return len(h) }
func (h dueHeap) Less(i, j int) bool {
	return h[i].at.Before(h[j].at) || h[i].at.Equal(h[j].at) && h[i].serial < h[j].serial
}
func (h dueHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i]; h[i].heapAt, h[j].heapAt = i, j }
func (h *dueHeap) Push(x any) {
	l := x.(*local)
	l.heapAt = len(*h)
	*h = append(*h, l)
}
func (h *dueHeap) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h, l.heapAt = old[:len(old)-1], -1
	return l
}
