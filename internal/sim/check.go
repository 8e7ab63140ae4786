package sim

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client/fake"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/virtual"
	"coracle/internal/workload/claim"
	"coracle/internal/workload/invariant"
)

// checks holds a world against the promises.
type checks struct {
	w     *world
	each  invariant.Check
	plans map[string]invariant.PlanCheck
	// writes judges each write by all that its author may have known.
	writes *invariant.Writes
	// excused counts available pods that a Deployment lost by no controller's hand, or by a decision that
	// could not know them available.
	excused int32
	// taken counts, by ReplicaSet, the available pods that a Deployment has taken from it knowingly and that are still
	// to go; known is how many it knew of.
	taken, known map[types.UID]int32
	// adopted counts pods that a user took from their set and gave back since all was at rest: there may be more than
	// anybody asked for.
	adopted int
	// running says on which nodes the containers of an identity run.
	running map[string][]string
	// deleted holds workloads as they were when they went, to be made again.
	deleted map[object.Ref]object.Object
	// silent, when set, is the promise that forbids any write.
	silent string
	// wrote is when something other than a heartbeat was last written.
	wrote time.Time
	// daemons is the most daemons a node may have, surge included.
	daemons int
	ends    ends
	server  server
	meant   meant
	// past says that the controllers began with the past and have not caught up yet.
	past bool
}

func newChecks(w *world) checks {
	c := checks{w: w, writes: invariant.NewWrites(), running: map[string][]string{}, taken: map[types.UID]int32{}, known: map[types.UID]int32{}, deleted: map[object.Ref]object.Object{}, daemons: 1, ends: newEnds(), meant: newMeant(), server: newServer()}
	surge := invariant.Surge()
	c.each = invariant.All(invariant.OneController, invariant.OneTemplate(), invariant.CanaryHeld(),
		func(r object.Reader, now time.Time) error {
			if err := surge(r, now); w.checks.adopted == 0 {
				return err
			}
			return nil
		},
		invariant.Available(func(*appsv1.Deployment) int32 { return w.checks.excused }))
	c.plans = map[string]invariant.PlanCheck{
		"deployment-controller": deploymentPlan, "replicaset-controller": replicaSetPlan,
		"statefulset-controller": invariant.StatefulSetPlan, "daemonset-controller": invariant.DaemonSetPlan,
	}
	return c
}

// plan holds a decision against what it was decided on.
func (c *checks) plan(r object.Reader, ctl *plan.Controller, key object.Key, p plan.Plan, now time.Time) error {
	c.meant.decided(ctl.Name, p)
	if err := wholesome(r, p); err != nil {
		return fmt.Errorf("%w (%s %s)", err, ctl.Name, key)
	}
	if err := serverPlan(r, ctl.Name, p, now); err != nil {
		return err
	}
	if authors[ctl.Name] && !c.w.late() {
		c.writes.Known(c.w.Truth(), ctl.For, key, now)
	}
	if check := c.plans[ctl.Name]; check != nil {
		if err := check(r, key, p, now); err != nil {
			return fmt.Errorf("plan %w", err)
		}
	}
	return nil
}

// authors are the controllers whose writes are judged by what they may have known.
var authors = map[string]bool{"deployment-controller": true, "statefulset-controller": true, "daemonset-controller": true, "disruption-controller": true}

// late says whether the controllers have yet to hear of something that workloads go by.
func (w *world) late() bool {
	for _, res := range []resource.Resource{resource.Pods, resource.StatefulSets, resource.DaemonSets, resource.Deployments, resource.ReplicaSets,
		resource.ControllerRevisions, resource.Nodes, resource.PodDisruptionBudgets} {
		if w.checks.behind(res) {
			return true
		}
	}
	return false
}

// wholesome holds what any plan must: deletions name the very object, adoption asks whether the owner lives,
// and nobody takes what another controls.
func wholesome(r object.Reader, p plan.Plan) error {
	seen := map[object.Ref]bool{}
	for _, a := range p.Actions {
		switch a := a.(type) {
		case plan.Delete:
			if a.Object.UID == "" {
				return fmt.Errorf("plan safe: %s is deleted whatever its identity", a.Object)
			}
			if seen[a.Object] {
				return fmt.Errorf("plan safe: %s is deleted twice", a.Object)
			}
			seen[a.Object] = true
		case plan.Update:
			before, ok := r.Get(object.RefOf(a.Object).Resource, a.Object.GetNamespace(), a.Object.GetName())
			if !ok {
				continue
			}
			if _, isClaim := a.Object.(*corev1.PersistentVolumeClaim); isClaim {
				continue // its owners are the retention policy's: see invariant.ClaimsKept
			}
			was, is := claim.Controller(before), claim.Controller(a.Object)
			switch {
			case was != nil && is != nil && was.UID != is.UID:
				return fmt.Errorf("plan safe: %s is taken from %s", a.Object.GetName(), was.Name)
			case was == nil && is != nil && !plan.HasGuard[plan.Alive](a.When) && a.Object.GetNamespace() != "":
				return fmt.Errorf("plan safe: %s is adopted without asking whether its owner lives", a.Object.GetName())
			}
			if a.Object.GetResourceVersion() == "" {
				return fmt.Errorf("plan safe: %s is updated whatever its state", a.Object.GetName())
			}
		}
	}
	return nil
}

func podsOf(r object.Reader, owner object.Object) (active []*corev1.Pod) {
	for _, o := range r.Indexed(resource.Pods, object.ByController, string(owner.GetUID())) {
		if pod := o.(*corev1.Pod); podstate.Active(pod) {
			active = append(active, pod)
		}
	}
	return active
}

// replicaSetPlan holds when a ReplicaSet makes up just the difference, and deletes no pod that is ready while
// it keeps one that is not.
func replicaSetPlan(r object.Reader, key object.Key, p plan.Plan, _ time.Time) error {
	o, ok := r.Get(resource.ReplicaSets, key.Namespace, key.Name)
	if !ok {
		return nil
	}
	set := o.(*appsv1.ReplicaSet)
	active := podsOf(r, set)
	created, adopted, deleted, released := 0, 0, map[types.UID]bool{}, map[types.UID]bool{}
	for _, a := range p.Actions {
		switch a := a.(type) {
		case plan.Create:
			created++
		case plan.Update:
			if pod, ok := a.Object.(*corev1.Pod); ok && podstate.Active(pod) {
				if claim.ControlledBy(pod, set.UID) {
					adopted++
				} else {
					adopted--
					released[pod.UID] = true
				}
			}
		case plan.Delete:
			deleted[a.Object.UID] = true
		}
	}
	want, after := int(*set.Spec.Replicas), len(active)+adopted+created-len(deleted)
	switch {
	case created > 0 && len(deleted) > 0:
		return fmt.Errorf("replicas: %s creates %d and deletes %d", key, created, len(deleted))
	case created > 0 && after > want || len(deleted) > 0 && after < want:
		return fmt.Errorf("replicas: %s asks for %d and would have %d", key, want, after)
	}
	for _, victim := range active {
		for _, kept := range active {
			if deleted[victim.UID] && !deleted[kept.UID] && !released[kept.UID] && podstate.Ready(victim) && !podstate.Ready(kept) {
				return fmt.Errorf("replicas: %s deletes %s, which is ready, and keeps %s, which is not", key, victim.Name, kept.Name)
			}
		}
	}
	return nil
}

// deploymentPlan holds when a rolling update's plan keeps replicas - maxUnavailable of the available
// pods it knows of, and asks for no more than replicas + maxSurge.
func deploymentPlan(r object.Reader, key object.Key, p plan.Plan, _ time.Time) error {
	o, ok := r.Get(resource.Deployments, key.Namespace, key.Name)
	if !ok {
		return nil
	}
	d := o.(*appsv1.Deployment)
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || d.DeletionTimestamp != nil {
		return nil
	}
	next, grown := map[string]*appsv1.ReplicaSet{}, false
	for _, o := range r.Indexed(resource.ReplicaSets, object.ByController, string(d.UID)) {
		next[o.GetName()] = o.(*appsv1.ReplicaSet)
	}
	taken := false
	for _, a := range p.Actions {
		switch a := a.(type) {
		case plan.Create:
			if set, ok := a.Object.(*appsv1.ReplicaSet); ok {
				next[set.Name] = set
				grown = grown || *set.Spec.Replicas > 0
			}
		case plan.Update:
			set, ok := a.Object.(*appsv1.ReplicaSet)
			if was := next[a.Object.GetName()]; ok && was != nil {
				grown = grown || *set.Spec.Replicas > *was.Spec.Replicas
				taken = taken || *set.Spec.Replicas < min(*was.Spec.Replicas, was.Status.AvailableReplicas)
			}
			if ok {
				next[set.Name] = set
			}
		}
	}
	most, least := bounds(d)
	asked, kept := int32(0), int32(0)
	for _, set := range next {
		asked += *set.Spec.Replicas
		kept += min(*set.Spec.Replicas, set.Status.AvailableReplicas)
	}
	switch {
	case grown && asked > most:
		return fmt.Errorf("rolling: %s asks for %d pods, at most %d may be", key, asked, most)
	case taken && kept < least:
		return fmt.Errorf("rolling: %s keeps %d available pods, %d must be", key, kept, least)
	}
	return nil
}

// written holds a write against the promises.
func (c *checks) written(e fake.Entry) {
	if c.silent != "" && !(c.w.actor == virtual.Node && e.Resource == resource.Leases) {
		c.w.violate(fmt.Errorf("%s: %s writes %s %s", c.silent, c.w.actor, e.Resource, object.KeyOf(e.Object)))
	}
	if e.Resource != resource.Leases {
		c.wrote = c.w.Now()
	}
	c.w.violate(c.meant.written(e, c.w.actor))
	c.w.violate(c.pardon(c.server.written(c.w, e)))
	c.w.violate(c.server.rolledBack(c.w.Truth(), e, c.w.actor))
	c.w.violate(c.pardon(c.ends.written(e, c.w.actor, c.w.Now())))
	c.w.violate(c.pardon(c.writes.Written(c.w.Truth(), invariant.Write{By: c.w.actor, Resource: e.Resource, Before: e.Before, After: e.Object, Gone: e.Type == "DELETED"}, c.w.Now())))
	switch o := e.Object.(type) {
	case *appsv1.Deployment, *appsv1.StatefulSet:
		c.remember(e)
	case *appsv1.DaemonSet:
		c.remember(e)
		if s := o.Spec.UpdateStrategy.RollingUpdate; s != nil && s.MaxSurge.String() != "0" {
			c.daemons = 2
		}
	case *corev1.PersistentVolumeClaim:
		if before := e.Before; before != nil && before.GetDeletionTimestamp() == nil && (o.DeletionTimestamp != nil || e.Type == "DELETED") &&
			c.w.actor != virtual.User && c.w.actor != "namespace-controller" && len(before.GetOwnerReferences()) == 0 {
			c.w.violate(fmt.Errorf("claims kept: %s deletes claim %s, which nobody owns", c.w.actor, o.Name))
		}
	case *appsv1.ReplicaSet:
		if e.Type == "DELETED" {
			c.excused += int32(len(podsOf(c.w.Truth(), o))) // its pods are collected after it
		}
		if before, ok := e.Before.(*appsv1.ReplicaSet); ok && before != nil {
			c.take(before, o)
			if o.Spec.MinReadySeconds > before.Spec.MinReadySeconds {
				c.excused += int32(len(podsOf(c.w.Truth(), o))) // as the user wants, pods are available later
			}
			if claim.Controller(before) != nil && claim.Controller(o) == nil {
				c.excused += int32(len(podsOf(c.w.Truth(), o))) // its Deployment is deleted and leaves it behind
			}
		}
	case *corev1.Pod:
		if before := e.Before; before != nil && (claim.Controller(before) == nil && claim.Controller(o) != nil ||
			c.w.actor == virtual.User && e.Type != "DELETED" && !maps.Equal(before.GetLabels(), o.Labels)) {
			c.adopted++
		}
		c.lost(e)
	}
}

func (c *checks) remember(e fake.Entry) {
	ref := object.Ref{Resource: e.Resource, Key: object.KeyOf(e.Object)}
	if e.Type == "DELETED" {
		c.deleted[ref] = e.Object
	} else {
		delete(c.deleted, ref)
	}
}

// lost excuses the loss of a ready pod that no ReplicaSet's decision is to blame for.
func (c *checks) lost(e fake.Entry) {
	before, ok := e.Before.(*corev1.Pod)
	if !ok || e.Before == nil || !podstate.Active(before) || !podstate.Ready(before) {
		return
	}
	after := e.Object.(*corev1.Pod)
	owner := claim.Controller(before)
	released := owner != nil && claim.Controller(after) == nil
	gone := e.Type == "DELETED" || !podstate.Active(after) || !podstate.Ready(after) || released
	switch {
	case !gone:
	case c.w.actor == "replicaset-controller" && !released && owner != nil && c.taken[owner.UID] > 0:
		c.taken[owner.UID]--
	default:
		c.excused++
	}
}

// take notes how many available pods a Deployment knowingly takes from a ReplicaSet. It goes by the
// ReplicaSet's status, which tells of the past: pods that have become available since are lost by accident.
func (c *checks) take(before, after *appsv1.ReplicaSet) {
	if c.w.actor == "deployment-controller" && *after.Spec.Replicas < *before.Spec.Replicas {
		c.taken[after.UID] += max(0, min(c.known[after.UID], *before.Spec.Replicas)-*after.Spec.Replicas)
	}
}

// forget pardons nothing any more once all is as it should be and everybody knows.
func (c *checks) forget(r object.Reader) {
	if c.excused == 0 && c.adopted == 0 || len(c.w.Passes()) > 0 || c.behind(resource.Pods) ||
		c.behind(resource.ReplicaSets) || c.behind(resource.Deployments) ||
		c.behind(resource.DaemonSets) || c.crowded(r) {
		return
	}
	for _, o := range r.List(resource.Deployments, "") {
		d := o.(*appsv1.Deployment)
		s := d.Status
		if s.ObservedGeneration != d.Generation || s.AvailableReplicas != *d.Spec.Replicas || s.Replicas != s.AvailableReplicas {
			return
		}
	}
	for _, o := range r.List(resource.ReplicaSets, "") {
		set := o.(*appsv1.ReplicaSet)
		s := set.Status
		if s.ObservedGeneration != set.Generation || s.AvailableReplicas != *set.Spec.Replicas || s.Replicas != s.AvailableReplicas ||
			int(s.Replicas) != len(podsOf(r, set)) {
			return
		}
	}
	c.excused, c.adopted = 0, 0
	clear(c.taken)
}

// applying holds an action against the promises just before it is carried out, and notes how many available
// pods of a ReplicaSet a decision over its Deployment knew of.
func (c *checks) applying(a plan.Action) {
	switch a := a.(type) {
	case plan.Update:
		if set, ok := a.Object.(*appsv1.ReplicaSet); ok {
			c.known[set.UID] = set.Status.AvailableReplicas
		}
	case plan.Delete:
		c.ends.hand(a.Object.UID, c.w.actor)
		if a.Object.Resource == resource.Pods && a.GraceSeconds != nil && *a.GraceSeconds == 0 && !plan.HasGuard[plan.Absent](a.When) {
			c.w.violate(c.forced(a))
		}
	}
}

// forced holds when no pod is forgotten that may still run: its node is there.
func (c *checks) forced(d plan.Delete) error {
	o, ok := c.w.Truth().Get(resource.Pods, d.Object.Namespace, d.Object.Name)
	if !ok || o.GetUID() != d.Object.UID {
		return nil
	}
	pod := o.(*corev1.Pod)
	if _, there := c.w.Truth().Get(resource.Nodes, "", pod.Spec.NodeName); there && !podstate.Ended(pod) {
		return fmt.Errorf("forced: %s deletes %s by force, which may still run on %s", c.w.actor, pod.Name, pod.Spec.NodeName)
	}
	return nil
}

// ran keeps account of containers that run.
func (c *checks) ran(machine string, pod *corev1.Pod, runs bool) {
	id, mine := identity(pod)
	on := c.running[id]
	if !runs { // it may have been taken from its set meanwhile
		if at := slices.Index(on, machine); at >= 0 {
			c.running[id] = slices.Delete(on, at, at+1)
		}
		return
	}
	if !mine {
		return
	}
	if len(on) > 0 {
		c.w.violate(fmt.Errorf("one identity: %s starts on %s while it runs on %s", id, machine, on[0]))
	}
	c.running[id] = append(on, machine)
}

// identity is the name a StatefulSet's pod answers to, if it is one.
func identity(pod *corev1.Pod) (string, bool) {
	ref := claim.Controller(pod)
	return pod.Namespace + "/" + pod.Name, ref != nil && ref.Kind == "StatefulSet"
}

// behind says whether the controllers have yet to hear of something.
func (c *checks) behind(res resource.Resource) bool {
	watch := c.w.Control().Watch(res)
	return watch != nil && watch.Behind()
}

// state holds the cluster as it is against the promises.
func (c *checks) state(r object.Reader, now time.Time) error {
	err := errors.Join(c.each(r, now), c.oneDaemon(r))
	c.forget(r)
	return err
}

// crowded says whether some node still has more daemons of a set than one: a pod that was given back is still to go.
func (c *checks) crowded(r object.Reader) bool {
	if c.adopted == 0 {
		return false
	}
	for _, o := range r.List(resource.DaemonSets, "") {
		on := map[string]bool{}
		for _, pod := range podsOf(r, o) {
			name := destination(pod)
			if on[name] && name != "" {
				return true
			}
			on[name] = true
		}
	}
	return false
}

// destination is the node that a daemon is on or for.
func destination(pod *corev1.Pod) string {
	if a := pod.Spec.Affinity; pod.Spec.NodeName == "" && a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
	}
	return pod.Spec.NodeName
}

// oneDaemon holds when no node has two daemons of one set, surge aside.
func (c *checks) oneDaemon(r object.Reader) error {
	for _, o := range r.List(resource.DaemonSets, "") {
		on := map[string]int{}
		for _, pod := range podsOf(r, o) {
			if name := pod.Spec.NodeName; name != "" {
				if on[name]++; on[name] > c.daemons && c.adopted == 0 {
					return fmt.Errorf("one daemon: node %s has %d daemons of %s", name, on[name], o.GetName())
				}
			}
		}
	}
	return nil
}

// passed tells the checks that time has passed: pods may have become available.
func (c *checks) passed(r object.Reader, now time.Time) { _ = c.each(r, now) }
