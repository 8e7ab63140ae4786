// Package invariant says what must hold in every state of a cluster, or after every step, whatever
// happens: each promise is one named function.
//
// It owns the promises, for property tests, the simulator and end-to-end tests alike. It reads a
// object.Reader and refuses to know how the state came about; what only makes sense between
// two states keeps the earlier one in a closure.
package invariant

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/claim"
)

// Check looks at the cluster at an instant and says what is broken, or nil. Some checks remember
// the state they saw last: call them after each step, and make new ones for each cluster.
type Check func(r object.Reader, now time.Time) error

// All joins checks into one.
func All(checks ...Check) Check {
	return func(r object.Reader, now time.Time) error {
		var errs []error
		for _, c := range checks {
			errs = append(errs, c(r, now))
		}
		return errors.Join(errs...)
	}
}

// OneController holds when no object of the workloads has two controlling owners.
func OneController(r object.Reader, _ time.Time) error {
	for _, res := range []resource.Resource{resource.Pods, resource.ReplicaSets, resource.ControllerRevisions} {
		for _, o := range r.List(res, "") {
			n := 0
			for _, ref := range o.GetOwnerReferences() {
				if ref.Controller != nil && *ref.Controller {
					n++
				}
			}
			if n > 1 {
				return fmt.Errorf("one controller: %s %s has %d controllers", res, object.KeyOf(o), n)
			}
		}
	}
	return nil
}

// NoOrphans holds when every controlled pod and replica set has a living controller with that
// UID. It is for a cluster in which garbage collection has come to rest.
func NoOrphans(r object.Reader, _ time.Time) error {
	alive := map[types.UID]bool{}
	for _, res := range []resource.Resource{resource.Deployments, resource.ReplicaSets, resource.ReplicationControllers,
		resource.StatefulSets, resource.DaemonSets} {
		for _, o := range r.List(res, "") {
			alive[o.GetUID()] = true
		}
	}
	for _, res := range []resource.Resource{resource.Pods, resource.ReplicaSets} {
		for _, o := range r.List(res, "") {
			if ref := claim.Controller(o); ref != nil && !alive[ref.UID] {
				return fmt.Errorf("no orphans: %s %s is controlled by %s %s (%s), which does not exist",
					res, object.KeyOf(o), ref.Kind, ref.Name, ref.UID)
			}
		}
	}
	return nil
}

// AtRest holds when no planner wants to write anything or say anything: a converged cluster makes zero
// writes.
func AtRest(controllers ...plan.Controller) Check {
	return func(r object.Reader, now time.Time) error {
		for _, c := range controllers {
			for _, o := range r.List(c.For, "") {
				p := c.Plan(plan.Input{Reader: r, Key: object.KeyOf(o), Now: now})
				if len(p.Actions) > 0 || p.Status != nil || len(p.Events) > 0 {
					return fmt.Errorf("at rest: %s %s: the %s still wants %d actions (status: %v, %d events): %s",
						c.For, object.KeyOf(o), c.Name, len(p.Actions), p.Status != nil, len(p.Events), firstReason(p))
				}
			}
		}
		return nil
	}
}

func firstReason(p plan.Plan) string {
	if len(p.Actions) == 0 {
		return ""
	}
	return p.Actions[0].Reason()
}

// tally counts the pods of one owner.
type tally struct{ active, ready, available, terminating int32 }

func (t *tally) add(o tally) {
	t.active += o.active
	t.ready += o.ready
	t.available += o.available
	t.terminating += o.terminating
}

// podsOf counts the pods that owner controls.
func podsOf(r object.Reader, owner object.Object, minReady int32, now time.Time) tally {
	var t tally
	for _, o := range r.Indexed(resource.Pods, object.ByController, string(owner.GetUID())) {
		pod := o.(*corev1.Pod)
		switch {
		case podstate.Terminating(pod):
			t.terminating++
		case podstate.Active(pod):
			t.active++
			if podstate.Ready(pod) {
				t.ready++
			}
			if podstate.Available(pod, minReady, now) {
				t.available++
			}
		}
	}
	return t
}
