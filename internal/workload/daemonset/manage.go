package daemonset

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/placement"
)

// manage gives every wanted node its pod, takes pods from the others, and leaves one pod per node:
// two only while a surge lasts.
func (d *decision) manage() {
	surge := d.surges()
	for i := range d.spots {
		s := &d.spots[i]
		switch {
		case s.wanted() && len(s.pods) == 0:
			d.createPod(s, 0, "node "+s.node.Name+" has no pod")
		case s.verdict.Stays:
			d.syncNode(s, surge)
		default:
			for _, pod := range s.pods {
				if pod.DeletionTimestamp == nil {
					d.deletePod(pod, fmt.Sprintf("node %s shall have none (%s)", s.node.Name, causeText(s.verdict)))
				}
			}
		}
	}
	d.clear()
}

// surges says whether the update strategy lets new pods start before the old ones stop.
func (d *decision) surges() bool {
	ru := d.set.Spec.UpdateStrategy.RollingUpdate
	if d.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType || ru == nil || ru.MaxSurge == nil {
		return false
	}
	return d.scaled(ru.MaxSurge, 0) > 0
}

// syncNode looks after a node whose pods may stay: ended ones are replaced, surplus ones deleted.
func (d *decision) syncNode(s *spot, surge bool) {
	if len(s.pods) == 1 && podstate.Active(s.pods[0]) {
		return
	}
	running := make([]*corev1.Pod, 0, 2)
	replaced := false
	for _, pod := range s.pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case podstate.Ended(pod):
			replaced = d.replaceEnded(s, pod, len(s.pods) == 1) || replaced
		default:
			running = append(running, pod)
		}
	}
	switch {
	case len(running) == 0:
		// With a surge a pod that is terminating does not keep its successor from starting.
		if surge && s.wanted() && !replaced && terminatingOnly(s.pods) {
			d.createPod(s, 0, "the pod of node "+s.node.Name+" is terminating")
		}
	case !surge:
		d.serving(running)
		for _, pod := range running[1:] {
			d.deletePod(pod, "node "+s.node.Name+" has more than one")
		}
	default:
		d.prune(s, running)
	}
}

func terminatingOnly(pods []*corev1.Pod) bool {
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil {
			return false
		}
	}
	return true
}

// serving puts the pods that serve first, available before ready ones, and leaves the order else: a surplus pod that serves
// is not deleted for an older one that does not.
func (d *decision) serving(pods []*corev1.Pod) {
	rank := func(pod *corev1.Pod) int {
		switch {
		case d.available(pod):
			return 0
		case podstate.Ready(pod):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int { return rank(a) - rank(b) })
}

// prune leaves one pod of the present revision and one of an old one, and the old one only while
// it is ready and the new one is not yet available.
func (d *decision) prune(s *spot, running []*corev1.Pod) {
	d.serving(running)
	var newer, older *corev1.Pod
	for _, pod := range running {
		switch {
		case d.fresh(s, pod) && newer == nil:
			newer = pod
		case !d.fresh(s, pod) && older == nil:
			older = pod
		default:
			d.deletePod(pod, "node "+s.node.Name+" has more than one of its kind")
		}
	}
	if newer == nil || older == nil {
		return
	}
	switch {
	case !podstate.Ready(older):
		d.deletePod(older, "it is not ready and its successor "+newer.Name+" is there")
	case d.available(newer):
		d.deletePod(older, "its successor "+newer.Name+" is available")
	}
}

// Backoff of ended pods, as upstream: at once, then 1 s doubling to 15 minutes; forgotten when a
// pod lived for half an hour.
const (
	firstDelay = time.Second
	mostDelay  = 15 * time.Minute
	forgiven   = 2 * mostDelay
)

// replaceEnded replaces a pod that ended, or waits out the backoff. The successor is made in the
// same pass, because it carries the count of failures.
func (d *decision) replaceEnded(s *spot, pod *corev1.Pod, alone bool) bool {
	failures, _ := strconv.Atoi(pod.Annotations[Failures])
	if failures < 0 || d.in.Now.Sub(pod.CreationTimestamp.Time) >= forgiven {
		failures = 0
	}
	if due := pod.CreationTimestamp.Add(delay(failures)); d.in.Now.Before(due) {
		d.again(due)
		d.wait(plan.Wait{
			Reason:  "BackOff",
			Message: fmt.Sprintf("pod %s on node %s has ended (%s); it is made anew after a pause, %d failed before it", pod.Name, s.node.Name, pod.Status.Phase, failures),
			On:      object.RefOf(pod),
			Since:   pod.CreationTimestamp.Time,
			Hint:    "see why it ends with kubectl describe pod and kubectl logs",
		})
		return false
	}
	if pod.Status.Phase == corev1.PodFailed {
		d.tell(corev1.EventTypeWarning, "FailedDaemonPod", fmt.Sprintf("Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, s.node.Name))
	} else {
		d.tell(corev1.EventTypeNormal, "SucceededDaemonPod", fmt.Sprintf("Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, s.node.Name))
	}
	d.deletePod(pod, fmt.Sprintf("it has ended (%s)", pod.Status.Phase))
	if alone && s.wanted() && len(pod.Finalizers) == 0 {
		d.createPod(s, failures+1, fmt.Sprintf("pod %s on node %s has ended", pod.Name, s.node.Name))
	}
	return true
}

func delay(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	if failures > 10 {
		return mostDelay
	}
	return min(firstDelay<<(failures-1), mostDelay)
}

// clear deletes pods of nodes that are gone. Nobody is left there to confirm a termination, so it
// is immediate; the API is asked first, because the snapshot may be older than the node.
func (d *decision) clear() {
	now := int64(0)
	for _, pod := range d.strays {
		name := nodeOf(pod)
		d.deletes = append(d.deletes, plan.Delete{
			Object:       object.RefOf(pod),
			GraceSeconds: &now,
			When:         plan.AllAbsent(object.Ref{Resource: resource.Nodes, Key: object.Key{Name: name}}),
			Because:      "node " + name + " no longer exists",
			Done:         d.event(corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: "+pod.Name),
			Failed:       d.event(corev1.EventTypeWarning, "FailedDelete", "Error deleting: "+plan.TellError),
		})
	}
}

func causeText(v placement.Verdict) string {
	if v.Cause == placement.Taint {
		return "taint " + placement.TaintText(v.Taint)
	}
	return v.Cause.String()
}
