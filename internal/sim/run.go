package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/virtual"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/invariant"
)

// Limits of a run: after the last accident a world must be at rest within so much virtual time and
// so many steps.
const (
	patience  = 45 * time.Minute
	calmSteps = 30000
	// respite is how long nothing may have been written before the world is believed to be at rest: longer
	// than any minReadySeconds.
	respite = 15 * time.Second
)

// busySteps is how many events a world sees before it is left in peace.
const busySteps = 350

// result is what came of one world.
type result struct {
	Seed uint64
	// Broken is the first promise that was broken; nil when all were kept.
	Broken error
	// Trace holds the events up to the moment the world was left in peace, or to the breach.
	Trace []event
	Steps int
	// Calm says that the breach came after the trace, while the world was left in peace.
	Calm bool
	// Revision is that of the last write, for comparing runs.
	Revision uint64
}

// play lets the world of a seed happen for so many steps and then come to rest.
func play(seed uint64, steps int, m *mutation) result {
	return run(seed, steps, m, drawn(seed))
}

func run(seed uint64, steps int, m *mutation, has map[feature]bool) result {
	w := newWorld(seed, m, has)
	var buffer []choice
	for range steps {
		if w.broken != nil {
			break
		}
		buffer = w.step(buffer)
	}
	return w.end()
}

// replayed lets the world of a seed go through a trace; events that cannot happen are passed over.
func replayed(seed uint64, trace []event, m *mutation) result {
	w := newWorld(seed, m, drawn(seed))
	var buffer []choice
	for _, e := range trace {
		if w.broken != nil {
			break
		}
		buffer = w.replay(e, buffer)
	}
	return w.end()
}

func (w *world) end() result {
	out := result{Seed: w.seed, Trace: w.trace}
	if w.broken == nil {
		out.Calm = true
		w.settle()
	}
	out.Broken, out.Steps, out.Revision = w.broken, w.steps, w.Revision()
	return out
}

// promise is the promise that an error says was broken, without particulars.
func promise(err error) string {
	sort, _, _ := strings.Cut(err.Error(), ":")
	return sort
}

// settle ends all accidents, has the user put right what only a user can, and waits for rest.
func (w *world) settle() {
	w.fail = nil
	w.as(virtual.User, w.heal)
	deadline := w.Now().Add(patience)
	var last error
	looked := uint64(0)
	for w.broken == nil {
		if w.work() {
			if w.steps > calmSteps {
				w.violate(fmt.Errorf("endless: still busy after %d steps: %w", w.steps, last))
			}
			continue
		}
		if last == nil || w.Revision() != looked {
			looked = w.Revision()
			w.as(virtual.User, w.sweep)
			if last = w.restful(); last == nil && w.Now().Sub(w.checks.wrote) >= respite {
				break
			}
		}
		if !w.await(last, deadline) {
			return
		}
	}
	w.stays()
}

// await lets time pass until something may happen, or finds that what is not as it shall be has been so for too long.
func (w *world) await(last error, deadline time.Time) bool {
	if last != nil && w.Now().After(deadline) {
		w.violate(fmt.Errorf("%w (after %s of peace)", last, patience))
		return false
	}
	next, ok := w.Next()
	if !ok {
		next = w.Now().Add(respite)
	}
	w.pass(next.Sub(w.Now()))
	return true
}

// stays demands that a world at rest stays there, also over a restart.
func (w *world) stays() {
	w.quiet("quiet")
	if w.broken == nil {
		w.restart()
		w.quiet("quiet after a restart")
	}
}

// restful says what is not yet as it shall be.
func (w *world) restful() error {
	for _, m := range w.Machines() {
		if err := w.settled(m); err != nil {
			return err
		}
	}
	for _, o := range w.Truth().List(resource.Pods, "") {
		for _, c := range o.(*corev1.Pod).Status.Conditions {
			if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && podstate.Active(o.(*corev1.Pod)) {
				return fmt.Errorf("disrupted: pod %s was to go and stays", o.GetName()) // its mark is taken back in time
			}
		}
	}
	for _, o := range w.Truth().List(resource.Deployments, ns) {
		if d := o.(*appsv1.Deployment); strings.HasPrefix(imageOf(d.Spec.Template), "bad") {
			return fmt.Errorf("rollback: %s has not gone back from what never works", d.Name)
		}
	}
	if err := exact(w.Truth(), w.Now()); err != nil {
		return err
	}
	if err := serverExact(w.Truth()); err != nil {
		return err
	}
	return w.atRest()
}

// settled says that a machine has nothing left to do and is known to be well.
func (w *world) settled(m *virtual.Machine) error {
	for _, p := range m.Pods() {
		if p.OnItsWay() {
			return fmt.Errorf("node %s: %s is on its way", m.Name, p.Object.Name)
		}
	}
	if o, ok := w.Truth().Get(resource.Nodes, "", m.Name); ok {
		for _, c := range o.(*corev1.Node).Status.Conditions {
			if (c.Type == corev1.NodeReady) != (c.Status == corev1.ConditionTrue) {
				return fmt.Errorf("node %s: condition %s is %s", m.Name, c.Type, c.Status)
			}
		}
	}
	return nil
}

// atRest holds when no planner wants to write anything, and none of the workloads' to say anything. The others may have
// something to say on each look, such as what a claim waits for, but look only when something happens.
func (w *world) atRest() error {
	for _, c := range w.controllers {
		if c.For.Group == "apps" {
			if err := invariant.AtRest(c)(w.Truth(), w.Now()); err != nil {
				return err
			}
			continue
		}
		silent := c
		silent.Plan = func(in plan.Input) plan.Plan {
			p := c.Plan(in)
			p.Events = nil
			return p
		}
		if err := invariant.AtRest(silent)(w.Truth(), w.Now()); err != nil {
			return err
		}
	}
	return nil
}

// quiet lets time pass and demands that nothing but heartbeats be written.
func (w *world) quiet(promise string) {
	until := w.Now().Add(2 * time.Minute)
	w.checks.silent = promise
	for w.Now().Before(until) && w.broken == nil {
		if w.work() {
			continue
		}
		next, ok := w.Next()
		if !ok {
			break
		}
		w.pass(next.Sub(w.Now()))
	}
	w.checks.silent = ""
}

// work does something that is due, by the order of the sorts and within one in turn; false when nothing is.
func (w *world) work() bool {
	for _, s := range sorts[:6] {
		if list := s.list(w, nil); len(list) > 0 {
			w.steps++
			list[w.steps%len(list)].do()
			return true
		}
	}
	return false
}

// heal has nodes come back and the user take back what keeps a world from rest.
func (w *world) heal() {
	for _, m := range w.Machines() {
		if !m.Alive() {
			m.Return()
		}
		edit(w, resource.Nodes, m.Name, func(o *corev1.Node) {
			o.Spec.Unschedulable = false
			var taints []corev1.Taint
			for _, t := range o.Spec.Taints {
				if t.Key != "user" {
					taints = append(taints, t)
				}
			}
			o.Spec.Taints = taints
		})
	}
	w.healFeatures()
	for _, name := range w.names() {
		if o, ok := w.Truth().Get(resource.Deployments, ns, name); ok && comesBack(o.(*appsv1.Deployment)) {
			continue
		}
		w.editTemplate(name, func(t *corev1.PodTemplateSpec) {
			if strings.HasPrefix(t.Spec.Containers[0].Image, "bad") {
				t.Spec.Containers[0].Image = "good:9"
			}
		})
	}
	for _, name := range w.names() {
		edit(w, resource.Deployments, name, func(d *appsv1.Deployment) { d.Spec.Paused = false })
		edit(w, resource.StatefulSets, name, func(s *appsv1.StatefulSet) {
			if ru := s.Spec.UpdateStrategy.RollingUpdate; ru != nil {
				ru.Partition = new(int32)
			}
		})
	}
}

// sweep deletes pods that nobody controls, as they may stand in the way of a name, brings machines back that
// took volumes with them, and has no more pods apart from each other than there are machines.
func (w *world) sweep() {
	w.sweepBad()
	w.sweepStuck()
	w.sweepOrphans()
	for _, o := range w.Truth().List(resource.PersistentVolumes, "") {
		if a := o.(*corev1.PersistentVolume).Spec.NodeAffinity; a != nil {
			w.addNode(a.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0])
		}
	}
	for _, o := range w.Truth().List(resource.Pods, ns) {
		if claim.Controller(o) == nil && o.GetDeletionTimestamp() == nil {
			w.delete(resource.Pods, o.GetName(), metav1.DeleteOptions{})
		}
	}
}

// sweepOrphans scales the ReplicaSets that a Deployment left behind to what its machines can bear, as heal does with
// Deployments: their pods stay apart from each other.
func (w *world) sweepOrphans() {
	room := map[string]int32{}
	for _, o := range w.Truth().List(resource.ReplicaSets, ns) {
		rs := o.(*appsv1.ReplicaSet)
		if claim.Controller(rs) != nil || rs.DeletionTimestamp != nil || rs.Spec.Template.Spec.Affinity == nil {
			continue
		}
		app := rs.Spec.Template.Labels["app"]
		if _, ok := room[app]; !ok {
			room[app] = int32(len(w.Machines()))
		}
		if n := min(*rs.Spec.Replicas, room[app]); n < *rs.Spec.Replicas {
			edit(w, resource.ReplicaSets, rs.Name, func(rs *appsv1.ReplicaSet) { rs.Spec.Replicas = new(n) })
		}
		room[app] -= min(*rs.Spec.Replicas, room[app])
	}
}

// shrink cuts a failing run's trace down to events without which it does not fail in the same way,
// within so many tries.
func shrink(r result, m *mutation, tries int) result {
	want := promise(r.Broken)
	for size := max(1, len(r.Trace)/2); tries > 0; size /= 2 {
		for at := 0; at < len(r.Trace) && tries > 0; {
			cut := append(append([]event(nil), r.Trace[:at]...), r.Trace[min(len(r.Trace), at+size):]...)
			tries--
			if next := replayed(r.Seed, cut, m); next.Broken != nil && promise(next.Broken) == want {
				r = next
			} else {
				at += size
			}
		}
		if size <= 1 {
			break
		}
	}
	return r
}

// report spells out a failure, with how to see it again.
func report(r result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %v\n", r.Seed, r.Broken)
	if has := slices.Sorted(maps.Keys(drawn(r.Seed))); len(has) > 0 {
		fmt.Fprintf(&b, "     in a world with %v\n", has)
	}
	for i, e := range r.Trace {
		fmt.Fprintf(&b, "%4d %s\n", i+1, e)
	}
	if r.Calm {
		b.WriteString("     and then in peace\n")
	}
	return b.String()
}
