package invariant

import (
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
)

// Write is one change to the cluster.
type Write struct {
	// By is whose hand it was: a controller's name, or anything else.
	By       string
	Resource resource.Resource
	// Before is nil when it was created; After is the object as it is, or was last when Gone.
	Before, After object.Object
	Gone          bool
}

// begins says whether the write is the beginning of a pod's end.
func (w Write) begins() bool {
	return w.Before != nil && w.Before.GetDeletionTimestamp() == nil && (w.Gone || w.After.GetDeletionTimestamp() != nil)
}

// Writes holds each write against the promises that bind a controller's hand, whichever plans led to it. A controller acts
// on what it knows, which may be older than the truth: a write is judged by everything that has been true since the
// moment at which the controller last knew all there was (Known), in the controller's favour. What was so all that time
// it cannot have missed.
type Writes struct {
	sets    map[types.UID]*setPast
	daemons map[types.UID]*daemonPast
	deploys map[types.UID]*deploymentPast
	budgets map[types.UID]*budgetPast
	nodes   map[string][]*corev1.Node
}

// NewWrites returns the memory of one cluster, empty as yet.
func NewWrites() *Writes {
	return &Writes{sets: map[types.UID]*setPast{}, daemons: map[types.UID]*daemonPast{}, deploys: map[types.UID]*deploymentPast{},
		budgets: map[types.UID]*budgetPast{}, nodes: map[string][]*corev1.Node{}}
}

// Known says that the controller of an object has just begun a decision that knows all there is.
func (w *Writes) Known(r object.Reader, res resource.Resource, key object.Key, now time.Time) {
	o, ok := r.Get(res, key.Namespace, key.Name)
	if !ok {
		return
	}
	switch res {
	case resource.StatefulSets:
		w.sets[o.GetUID()] = newSetPast(r, o, now)
	case resource.DaemonSets:
		w.daemons[o.GetUID()] = newDaemonPast(r, o, now)
	case resource.Deployments:
		if p := w.deploys[o.GetUID()]; p != nil {
			p.known(o)
		}
	case resource.PodDisruptionBudgets:
		w.budgets[o.GetUID()] = newBudgetPast(o)
	}
}

// Written takes in a write, r being the cluster after it, and says which promise it breaks.
func (w *Writes) Written(r object.Reader, e Write, now time.Time) error {
	switch e.Resource {
	case resource.StatefulSets:
		w.setWritten(e)
	case resource.DaemonSets:
		w.daemonSetWritten(e)
	case resource.Nodes:
		w.nodeWritten(e)
	case resource.Deployments:
		w.deploymentWritten(e)
	case resource.ReplicaSets:
		return w.replicaSetWritten(r, e, now)
	case resource.PodDisruptionBudgets:
		w.budgetWritten(e)
	case resource.Pods:
		return errors.Join(w.memberWritten(r, e, now), w.daemonWritten(r, e, now), w.evicted(r, e))
	}
	return nil
}

// ownerOf is the controller of a written pod, before the write or after it.
func ownerOf(e Write) types.UID {
	for _, o := range []object.Object{e.Before, e.After} {
		if o == nil {
			continue
		}
		if ref := claim.Controller(o); ref != nil {
			return ref.UID
		}
	}
	return ""
}

// standing is how an identity, or a node, has stood since its controller last knew all.
type standing uint8

const (
	// mixed: it has served and it has not; the controller may know either.
	mixed standing = iota
	up
	down
	// taken: it served until its controller took its pod.
	taken
)

// next is the standing after a write before which it served or not, and after which it does or not.
func (s standing) next(before, after, byController bool) standing {
	switch {
	case s == up && !after && byController:
		return taken
	case s == up && !after, s == down && (before || after), s == taken && after:
		return mixed
	}
	return s
}

// dues hold when who is down would serve, had it stayed ready: a controller that has not heard better counts on it.
type dues[K comparable] map[K]time.Time

// note takes in a pod as it is; nil is none.
func (d dues[K]) note(k K, o object.Object, minReady int32) {
	pod, ok := o.(*corev1.Pod)
	if !ok || pod == nil || pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning {
		return
	}
	if at, ready := podstate.AvailableAt(pod, minReady); ready && (d[k].IsZero() || at.Before(d[k])) {
		d[k] = at
	}
}

// passed says whether somebody's time has come.
func (d dues[K]) passed(k K, now time.Time) bool { return !d[k].IsZero() && !d[k].After(now) }

func standingOf(serves bool) standing {
	if serves {
		return up
	}
	return down
}

// every and some ask the versions of something.
func every[T any](of []T, ask func(T) bool) bool {
	for _, v := range of {
		if !ask(v) {
			return false
		}
	}
	return true
}

func some[T any](of []T, ask func(T) bool) bool {
	return !every(of, func(v T) bool { return !ask(v) })
}

func highest[T any](of []T, ask func(T) int) (most int) {
	for _, v := range of {
		most = max(most, ask(v))
	}
	return most
}

// servesNow says whether a pod serves; nil does not.
func servesNow(o object.Object, minReady int32, now time.Time) bool {
	pod, ok := o.(*corev1.Pod)
	return ok && pod != nil && pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning && podstate.Available(pod, minReady, now)
}
