package rehearse

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/client"
	"coracle/internal/nodestate"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/simnode"
	"coracle/internal/virtual"
)

// world is a virtual cluster in which what is first comes first: at each instant machines do what is due, then every
// decision that is due is made and carried out, then the scheduler places pods, until nothing is left to do; then the
// clock goes on to the next moment at which something is due. The same start and the same wishes give the same history,
// write by write. There are no accidents and no races, which package sim looks for.
type world struct {
	*virtual.Cluster
	objects int
	alarms  []alarm
}

// alarm is something that somebody outside wants done at some instant.
type alarm struct {
	at time.Time
	do func()
}

// copied is the world that a cluster's objects make, of which some nodes lose their power at the start.
func copied(start time.Time, objects []object.Object, failed map[string]bool, behavior func(*corev1.Pod, *corev1.Node) simnode.Behavior,
	hooks virtual.Hooks) *world {
	w := &world{objects: len(objects)}
	wrote := hooks.Wrote
	hooks.Wrote = func(wr virtual.Write) {
		if wr.Resource == resource.Nodes && wr.Before == nil {
			w.Join(wr.Object.GetName())
		}
		if wrote != nil {
			wrote(wr)
		}
	}
	w.Cluster = virtual.New(virtual.Config{Start: start, Objects: objects, Controllers: virtual.Controllers(objects),
		Behavior: behavior, Prompt: true, Hooks: hooks})
	var living, dying []string
	for _, o := range objects {
		node, ok := o.(*corev1.Node)
		switch {
		case !ok || !alive(node):
		case failed[node.Name]:
			dying = append(dying, node.Name)
		default:
			living = append(living, node.Name)
			w.Join(node.Name).Unwell = !nodestate.Ready(node)
		}
	}
	w.Vouch(living, dying)
	return w
}

// alive says whether a node is one that its cluster hears of: that is for the cluster's server to judge, whose clock
// need not be ours.
func alive(node *corev1.Node) bool {
	c := nodestate.Condition(node, corev1.NodeReady)
	return c != nil && c.Status != corev1.ConditionUnknown
}

// do lets the user do something through the API, which it is given.
func (w *world) do(wish func(context.Context, client.Interface) error) error {
	var err error
	w.As(virtual.User, func(ctx context.Context) { err = wish(ctx, w.API()) })
	return err
}

// at has something done at an instant, before anything else that is due then.
func (w *world) at(at time.Time, do func()) { w.alarms = append(w.alarms, alarm{at, do}) }

// ring does what was asked for this instant.
func (w *world) ring() {
	rest := w.alarms
	w.alarms = nil
	for _, a := range rest {
		if a.at.After(w.Now()) {
			w.alarms = append(w.alarms, a)
		} else {
			a.do()
		}
	}
}

// busyError says that there is no end to what is to be done at one instant.
type busyError struct{ decisions int }

func (e *busyError) Error() string {
	return fmt.Sprintf("the controllers do not come to rest: %d decisions were made at one instant (this is a defect: please report it)", e.decisions)
}

// patience is how many decisions an instant may take, besides so many for each object there is.
const patience, patienceEach = 10_000, 50

// settle does everything that is due at this instant.
func (w *world) settle() error {
	w.ring()
	w.Advance(w.Now())
	began, writes := w.Effort()
	limit := patience + patienceEach*(w.objects+writes)
	for {
		busy := w.runNodes()
		for w.Decide() {
			busy = true
			if made, _ := w.Effort(); made-began > limit {
				return &busyError{made - began}
			}
		}
		for w.Placing() {
			busy = true
			w.Place()
			for len(w.Effects()) > 0 {
				w.Carry(w.Effects()[0])
			}
		}
		if !busy {
			return nil
		}
	}
}

// runNodes has machines do what is due, and says whether that was anything.
func (w *world) runNodes() bool {
	busy := false
	for ; len(w.Ripe()) > 0; busy = true {
		w.Live(w.Ripe()[0])
	}
	for _, m := range w.Machines() {
		for ; m.Reclaims(); busy = true {
			m.Reclaim()
		}
	}
	return busy
}

// next is the next instant at which something is due; false when there is none.
func (w *world) next() (time.Time, bool) {
	next, ok := w.Next()
	for _, a := range w.alarms {
		if !ok || a.at.Before(next) {
			next, ok = a.at, true
		}
	}
	return next, ok
}

// failingReason is why a pod's containers wait, when that is a failure.
func failingReason(pod *corev1.Pod) (string, bool) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			if w := list[i].State.Waiting; w != nil && w.Reason != "" && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				return w.Reason, true
			}
		}
	}
	return "", false
}
