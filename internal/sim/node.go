package sim

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/cluster/nodelife"
	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/reclaim"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
)

const heartbeat = 10 * time.Second

// node pretends to be a machine with its agent.
type node struct {
	name string
	// off has no power, cut no network: its containers run on.
	off, cut bool
	at       int // in the log of pods
	volumes  int // in the log of volumes
	pods     []*local
	beat     time.Time
}

// local is a pod as its node knows it.
type local struct {
	pod *corev1.Pod
	// told is the last object seen.
	state localState
	due   time.Time
}

type localState uint8

const (
	bound    localState = iota // to be started
	starting                   // its containers run; to become ready
	up                         // nothing to do
	failed                     // ended, of its own or because the node ended it
	hopeless                   // its image cannot be pulled
	ending                     // to be stopped
	ended                      // stopped; its object goes with the next word from the API
)

// delay is how long a pod takes for something, the same whatever else happens.
func (w *World) delay(pod *corev1.Pod, what string, most int) time.Duration {
	h := fnv.New64a()
	h.Write([]byte(pod.UID + types.UID(what)))
	return time.Duration((h.Sum64()^w.seed*0x9E3779B97F4A7C15)%uint64(most*1000)) * time.Millisecond
}

func (n *node) alive() bool { return !n.off && !n.cut }

// lagging says whether there is news for the node, skipping what is not.
func (w *World) lagging(n *node) bool {
	if !n.alive() {
		return false
	}
	for log := w.logs[resource.Pods]; n.at < len(log); n.at++ {
		if log[n.at].Object.(*corev1.Pod).Spec.NodeName == n.name {
			return true
		}
	}
	return false
}

// hear takes in the next change to one of the node's pods.
func (w *World) hear(n *node) {
	e := w.logs[resource.Pods][n.at]
	n.at++
	pod := e.Object.(*corev1.Pod)
	at := slices.IndexFunc(n.pods, func(l *local) bool { return l.pod.UID == pod.UID })
	switch {
	case e.Type == "DELETED":
		if at >= 0 {
			w.stop(n, n.pods[at])
			n.pods = slices.Delete(n.pods, at, at+1)
		}
		return
	case at < 0:
		n.pods = append(n.pods, &local{})
		at = len(n.pods) - 1
		n.pods[at].due = w.now.Add(w.delay(pod, "start", 3))
		if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
			n.pods[at].state = failed
		}
	}
	l := n.pods[at]
	l.pod = pod
	if pod.DeletionTimestamp != nil && l.state != ending && l.state != ended {
		l.state, l.due = ending, w.now.Add(w.delay(pod, "end", 4))
	}
	if l.state == up && !podstate.Ready(pod) {
		// Somebody else said so, while the node was silent: it tells again.
		l.state, l.due = starting, w.now.Add(time.Second)
	}
}

// stop ends a pod's containers.
func (w *World) stop(n *node, l *local) {
	w.checks.stopped(n, l.pod)
}

// act does what is due for a pod: start it, find it ready, end it.
func (w *World) act(n *node, l *local) {
	switch l.state {
	case bound:
		if strings.HasPrefix(l.pod.Spec.Containers[0].Image, "bad") {
			l.state = hopeless
			w.report(l.pod, func(s *corev1.PodStatus) {
				s.Phase = corev1.PodPending
				s.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}}}}
			})
			return
		}
		l.state, l.due = starting, w.now.Add(w.delay(l.pod, "ready", 5))
		w.checks.started(n, l.pod)
		w.report(l.pod, func(s *corev1.PodStatus) {
			s.Phase = corev1.PodRunning
			s.StartTime = &metav1.Time{Time: w.now}
			setReady(s, corev1.ConditionFalse, w.now)
		})
	case starting:
		l.state = up
		w.report(l.pod, func(s *corev1.PodStatus) { setReady(s, corev1.ConditionTrue, w.now) })
	case ending:
		l.state = ended
		w.stop(n, l)
		zero := int64(0)
		_, _ = w.cluster.Delete(w.ctx, object.RefOf(l.pod), metav1.DeleteOptions{GracePeriodSeconds: &zero})
	}
}

func (l *local) waiting(now time.Time) bool {
	return (l.state == bound || l.state == starting || l.state == ending) && !l.due.After(now)
}

// report writes a pod's status as its agent would: its own fields and no others.
func (w *World) report(pod *corev1.Pod, change func(*corev1.PodStatus)) {
	o, err := w.cluster.Get(w.ctx, resource.Pods, pod.Namespace, pod.Name)
	if err != nil || o.GetUID() != pod.UID {
		return
	}
	next := o.(*corev1.Pod).DeepCopy()
	change(&next.Status)
	_, _ = w.cluster.Update(w.ctx, next, "status")
}

func setReady(s *corev1.PodStatus, ready corev1.ConditionStatus, now time.Time) {
	at := metav1.NewTime(now.Truncate(time.Second))
	for i := range s.Conditions {
		if c := &s.Conditions[i]; c.Type == corev1.PodReady {
			if c.Status != ready {
				c.Status, c.LastTransitionTime = ready, at
			}
			return
		}
	}
	s.Conditions = append(s.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: ready, LastTransitionTime: at})
}

// heart renews the node's lease and, when others think it dead, its status.
func (w *World) heart(n *node) {
	n.beat = w.now.Add(heartbeat)
	name, now := n.name, metav1.NewMicroTime(w.now)
	o, err := w.cluster.Get(w.ctx, resource.Leases, nodelife.LeaseNamespace, name)
	if err != nil {
		_, _ = w.cluster.Create(w.ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: nodelife.LeaseNamespace, Name: name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, RenewTime: &now},
		})
	} else {
		lease := o.(*coordinationv1.Lease).DeepCopy()
		lease.Spec.RenewTime = &now
		_, _ = w.cluster.Update(w.ctx, lease, "")
	}
	o, err = w.cluster.Get(w.ctx, resource.Nodes, "", name)
	if err != nil {
		return
	}
	next := o.(*corev1.Node).DeepCopy()
	at := metav1.NewTime(w.now.Truncate(time.Second))
	for i := range next.Status.Conditions {
		c := &next.Status.Conditions[i]
		well := corev1.ConditionFalse
		if c.Type == corev1.NodeReady {
			well = corev1.ConditionTrue
		}
		if c.Status != well {
			c.Status, c.LastTransitionTime, c.LastHeartbeatTime = well, at, at
			c.Reason, c.Message = "KubeletSays", ""
		}
	}
	_, _ = w.cluster.Update(w.ctx, next, "status")
}

// settled says that the node has nothing left to do and is known to be well.
func (w *World) settled(n *node) error {
	for _, l := range n.pods {
		if l.state != up && l.state != failed && l.state != hopeless {
			return fmt.Errorf("node %s: %s is on its way", n.name, l.pod.Name)
		}
	}
	if o, ok := w.truth.Get(resource.Nodes, "", n.name); ok {
		for _, c := range o.(*corev1.Node).Status.Conditions {
			if (c.Type == corev1.NodeReady) != (c.Status == corev1.ConditionTrue) {
				return fmt.Errorf("node %s: condition %s is %s", n.name, c.Type, c.Status)
			}
		}
	}
	return nil
}

// crash takes the power from a node; revive gives power and network back.
func (w *World) crash(n *node) {
	n.off = true
	for _, l := range n.pods {
		w.stop(n, l)
	}
}

func (w *World) revive(n *node) {
	wasOff := n.off
	n.off, n.cut, n.beat = false, false, w.now
	for _, l := range n.pods {
		if !wasOff || l.state != starting && l.state != up {
			continue
		}
		l.state, l.due = bound, w.now.Add(w.delay(l.pod, "again", 3))
		w.report(l.pod, func(s *corev1.PodStatus) { setReady(s, corev1.ConditionFalse, w.now) })
	}
}

// reclaims says whether the node is asked to remove a volume's directory.
func (w *World) reclaims(n *node) bool {
	for log := w.logs[resource.PersistentVolumes]; n.volumes < len(log); n.volumes++ {
		pv := log[n.volumes].Object.(*corev1.PersistentVolume)
		if reclaim.Assigned(pv) == n.name {
			return n.alive()
		}
	}
	return false
}

func (w *World) reclaim(n *node) {
	name := w.logs[resource.PersistentVolumes][n.volumes].Object.GetName()
	n.volumes++
	o, err := w.cluster.Get(w.ctx, resource.PersistentVolumes, "", name)
	if err != nil {
		return
	}
	pv := o.(*corev1.PersistentVolume)
	if reclaim.Keeps(pv) != "" {
		return
	}
	_, _ = w.cluster.Update(w.ctx, reclaim.Done(pv), "")
}

// identity is the name a StatefulSet's pod answers to, if it is one.
func identity(pod *corev1.Pod) (string, bool) {
	ref := claim.Controller(pod)
	return pod.Namespace + "/" + pod.Name, ref != nil && ref.Kind == "StatefulSet"
}
