package sim

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// preemptions keeps account of what the scheduler knew when it made room for somebody.
type preemptions struct {
	// decided is the last revision when an effect was set going by a scheduler that knew all there was.
	decided map[int]uint64
	// by is the pod for which the effect under way makes room, where nothing has happened since it was decided.
	sure bool
	by   *corev1.Pod
}

// place has the scheduler decide, and notes what it knew.
func (w *world) place() {
	before := map[int]bool{}
	for _, e := range w.Effects() {
		before[e.Serial()] = true
	}
	knew := len(before) == 0 // else it holds room for pods that are not bound yet
	for _, watch := range w.Followers()[1].Watches {
		knew = knew && !watch.Behind()
	}
	w.Place()
	for _, e := range w.Effects() {
		if knew && !before[e.Serial()] {
			w.checks.server.decided[e.Serial()] = w.Revision()
		}
	}
}

// carry lets one of the scheduler's effects happen.
func (w *world) carry(nth int) {
	e := w.Effects()[nth]
	s := &w.checks.server.preemptions
	at, knew := s.decided[e.Serial()]
	s.sure, s.by = knew && at == w.Revision(), nil
	delete(s.decided, e.Serial())
	w.Carry(e)
	s.sure = false
}

// nominated notes for whom room is being made.
func (s *preemptions) nominated(before, after *corev1.Pod) {
	if n := after.Status.NominatedNodeName; n != "" && after.Spec.NodeName == "" && before.Status.NominatedNodeName != n {
		s.by = after
	}
}

// preempted holds when somebody more important has waited, who may preempt; and where the scheduler knew all there is, when
// the pod was in the way of just that one: less important, on its node, and without the end of which there is no room.
func (s *server) preempted(w *world, pod *corev1.Pod) error {
	somebody := false
	for _, waiting := range s.waited {
		somebody = somebody || waiting > priority(pod)
	}
	if !somebody {
		return fmt.Errorf("preemption: %s has to go, and nobody more important has waited", pod.Name)
	}
	by := s.by
	if !s.sure || by == nil {
		return nil
	}
	switch node := by.Status.NominatedNodeName; {
	case priority(by) <= priority(pod):
		return fmt.Errorf("preemption: %s has to go for %s, which is no more important", pod.Name, by.Name)
	case pod.Spec.NodeName != node:
		return fmt.Errorf("preemption: %s has to go from %s for %s, which is to be on %s", pod.Name, pod.Spec.NodeName, by.Name, node)
	case by.Spec.Affinity == nil && pod.Spec.Affinity == nil && roomFor(w.Truth(), by, pod):
		return fmt.Errorf("preemption: %s has to go for %s, for which there is room on %s without that", pod.Name, by.Name, node)
	}
	return nil
}

// roomFor says whether a pod fits its node when those have gone that are going, but for one.
func roomFor(r object.Reader, by, stays *corev1.Pod) bool {
	node := by.Status.NominatedNodeName
	o, ok := r.Get(resource.Nodes, "", node)
	if !ok {
		return false
	}
	asked := cpu(by) + cpu(stays)
	for _, o := range r.List(resource.Pods, "") {
		p := o.(*corev1.Pod)
		there := p.Spec.NodeName == node || p.Spec.NodeName == "" && p.Status.NominatedNodeName == node
		if there && p.UID != by.UID && p.UID != stays.UID && p.DeletionTimestamp == nil && !podstate.Ended(p) {
			asked += cpu(p)
		}
	}
	return asked <= o.(*corev1.Node).Status.Allocatable.Cpu().MilliValue()
}

func cpu(p *corev1.Pod) int64 { return p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue() }

func newServer() server {
	return server{waited: map[types.UID]int32{}, orphaned: map[types.UID]bool{}, preemptions: preemptions{decided: map[int]uint64{}},
		returns: returns{good: map[types.UID]string{}, left: map[types.UID]bool{}}}
}
