package invariant

import (
	"fmt"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/rollout"
)

// Surge holds when no step makes a Deployment's pods that are not terminating more than replicas +
// maxSurge. Where the user has lowered one of these, creations may be under way that were decided
// before: until every controller has taken note, the bound is the highest since they last all had.
func Surge() Check {
	seen, bound := map[types.UID]int32{}, memory{}
	return func(r object.Reader, now time.Time) error {
		for _, o := range r.List(resource.Deployments, "") {
			d := o.(*appsv1.Deployment)
			replicas, room := bounds(d)
			var t tally
			for _, set := range setsOf(r, d) {
				t.active += matching(r, set)
			}
			most := bound.weakest(r, d, room.Most(replicas), func(a, b int32) bool { return a > b })
			before := seen[d.UID]
			seen[d.UID] = t.active
			if t.active > before && t.active > most {
				return fmt.Errorf("surge: deployment %s has %d pods, at most %d may exist (replicas %d, maxSurge %d)",
					object.KeyOf(d), t.active, most, replicas, room.Surge)
			}
		}
		return nil
	}
}

// matching counts a set's active pods without those that a user has taken by a label, which are nobody's until they
// are released on paper.
func matching(r object.Reader, set *appsv1.ReplicaSet) (n int32) {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return 0
	}
	for _, o := range r.Indexed(resource.Pods, object.ByController, string(set.UID)) {
		if pod := o.(*corev1.Pod); podstate.Active(pod) && selector.Matches(labels.Set(pod.Labels)) {
			n++
		}
	}
	return n
}

// Available holds when no step in which the controllers take available pods of a Deployment leaves less
// than replicas - maxUnavailable of them. excused is how many pods the world, not the controllers, has
// taken since all was at rest; they count as available, since a decision may have rested on them.
// Where the user has raised the size or lowered maxUnavailable, deletions may be under way that were
// decided before: until every controller has taken note, the bound is the lowest since they last all had.
func Available(excused func(*appsv1.Deployment) int32) Check {
	seen, pardoned, bound := map[types.UID]int32{}, map[types.UID]int32{}, memory{}
	return func(r object.Reader, now time.Time) error {
		for _, o := range r.List(resource.Deployments, "") {
			d := o.(*appsv1.Deployment)
			if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
				continue
			}
			replicas, room := bounds(d)
			var t tally
			for _, set := range setsOf(r, d) {
				t.add(podsOf(r, set, set.Spec.MinReadySeconds, now))
			}
			least := bound.weakest(r, d, room.Least(replicas), func(a, b int32) bool { return a < b })
			pardon := excused(d)
			lost := seen[d.UID] - t.available - max(0, pardon-pardoned[d.UID])
			seen[d.UID], pardoned[d.UID] = t.available, pardon
			if lost > 0 && t.available+pardon < least {
				return fmt.Errorf("available: deployment %s has %d available pods, %d must be (replicas %d, maxUnavailable %d, excused %d)",
					object.KeyOf(d), t.available, least, replicas, room.Unavailable, pardon)
			}
		}
		return nil
	}
}

// memory keeps, for each Deployment, the weakest bound since all controllers had last taken note.
type memory map[types.UID]int32

// weakest returns the bound for the step that led to this state: the present one, or a weaker one that a
// controller may still have acted on.
func (m memory) weakest(r object.Reader, d *appsv1.Deployment, present int32, weaker func(a, b int32) bool) int32 {
	bound := present
	if before, known := m[d.UID]; known && weaker(before, bound) {
		bound = before
	}
	if m[d.UID] = bound; noted(r, d) {
		m[d.UID] = present
	}
	return bound
}

// noted reports whether all controllers have taken note of a Deployment's size and acted on it:
// nothing is under way that was decided for another, and no set has more pods than it asks for.
func noted(r object.Reader, d *appsv1.Deployment) bool {
	if d.Status.ObservedGeneration != d.Generation {
		return false
	}
	replicas, room := bounds(d)
	for _, set := range setsOf(r, d) {
		n, _ := recorded(set, "deployment.kubernetes.io/desired-replicas")
		most, _ := recorded(set, "deployment.kubernetes.io/max-replicas")
		if set.Status.ObservedGeneration != set.Generation || podsOf(r, set, 0, time.Time{}).active > size(set.Spec.Replicas) ||
			(size(set.Spec.Replicas) > 0 && (n != replicas || most != replicas+room.Surge)) {
			return false
		}
	}
	return true
}

// CanaryHeld holds when no step makes the new replica set of a canary (annotation coracle.io/steps) larger
// than the canary's step allows, at the Deployment's size or at the one it was sized for. It looks when the controller
// has taken note of the Deployment's last change.
func CanaryHeld() Check {
	type state struct {
		steps, set string
		size       int32
	}
	seen := map[types.UID]state{}
	return func(r object.Reader, _ time.Time) error {
		for _, o := range r.List(resource.Deployments, "") {
			d := o.(*appsv1.Deployment)
			before := seen[d.UID]
			delete(seen, d.UID)
			steps, err := rollout.ParseSteps(d.Annotations[rollout.StepsAnnotation])
			fresh, old := split(r, d)
			if err != nil || fresh == nil || old == 0 || fresh.Name == d.Annotations["coracle.io/rolled-back-to"] ||
				d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
				continue
			}
			at, err := strconv.Atoi(fresh.Annotations["coracle.io/step"])
			if err != nil || at < 1 || at > len(steps) {
				continue
			}
			now := state{d.Annotations[rollout.StepsAnnotation], fresh.Name, size(fresh.Spec.Replicas)}
			seen[d.UID] = now
			sized, _ := recorded(fresh, "deployment.kubernetes.io/desired-replicas")
			most := max(steps[at-1].Target(size1(d.Spec.Replicas)), steps[at-1].Target(sized))
			if d.Status.ObservedGeneration == d.Generation && now.steps == before.steps && now.set == before.set && now.size > before.size && now.size > most {
				return fmt.Errorf("canary held: deployment %s has grown replica set %s to %d in step %d, which allows %d",
					object.KeyOf(d), fresh.Name, now.size, at, most)
			}
		}
		return nil
	}
}

// split returns the replica set with the Deployment's template, and how many replicas the others ask for.
func split(r object.Reader, d *appsv1.Deployment) (fresh *appsv1.ReplicaSet, old int32) {
	for _, set := range setsOf(r, d) {
		if fresh == nil && present(d, set) {
			fresh = set
		} else {
			old += size(set.Spec.Replicas)
		}
	}
	return fresh, old
}

// OneTemplate holds when no step gives a Deployment with strategy Recreate pods of a second template, those that
// terminate included. Pods that terminate do not count where coracle.io/pod-replacement-policy says TerminationStarted,
// or has said so since the Deployment last had pods of one template only.
func OneTemplate() Check {
	seen, lenient := map[types.UID]int{}, map[types.UID]bool{}
	return func(r object.Reader, _ time.Time) error {
		for _, o := range r.List(resource.Deployments, "") {
			d := o.(*appsv1.Deployment)
			started := rollout.ReplacementOf(d.Annotations) == rollout.TerminationStarted
			lenient[d.UID] = lenient[d.UID] || started
			var with []string
			sized := 0
			for _, set := range setsOf(r, d) {
				if running(r, set, lenient[d.UID]) {
					with = append(with, set.Name)
				}
				if size(set.Spec.Replicas) > 0 || set.Status.ObservedGeneration < set.Generation {
					sized++
				}
			}
			before := seen[d.UID]
			if seen[d.UID] = len(with); !started && len(with) <= 1 && sized <= 1 {
				lenient[d.UID] = false
			}
			if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType && len(with) > 1 && len(with) > before {
				return fmt.Errorf("one template: deployment %s recreates, and has pods of replica sets %v", object.KeyOf(d), with)
			}
		}
		return nil
	}
}

// running says whether a set has pods that have not ended, those that terminate included unless only active ones count.
func running(r object.Reader, set *appsv1.ReplicaSet, active bool) bool {
	for _, o := range r.Indexed(resource.Pods, object.ByController, string(set.UID)) {
		if pod := o.(*corev1.Pod); !podstate.Ended(pod) && (!active || podstate.Active(pod)) {
			return true
		}
	}
	return false
}

// SetsExact holds when every ReplicaSet and ReplicationController has exactly the pods it asks for,
// and a status that tells the truth.
func SetsExact(r object.Reader, now time.Time) error {
	for _, o := range r.List(resource.ReplicaSets, "") {
		set := o.(*appsv1.ReplicaSet)
		t := podsOf(r, set, set.Spec.MinReadySeconds, now)
		s := set.Status
		told := tally{s.Replicas, s.ReadyReplicas, s.AvailableReplicas, size(s.TerminatingReplicas)}
		if err := exact(set, size(set.Spec.Replicas), t, told, s.ObservedGeneration); err != nil {
			return err
		}
	}
	for _, o := range r.List(resource.ReplicationControllers, "") {
		set := o.(*corev1.ReplicationController)
		t := podsOf(r, set, set.Spec.MinReadySeconds, now)
		s := set.Status
		told := tally{s.Replicas, s.ReadyReplicas, s.AvailableReplicas, t.terminating}
		if err := exact(set, size(set.Spec.Replicas), t, told, s.ObservedGeneration); err != nil {
			return err
		}
	}
	return nil
}

func exact(o object.Object, want int32, is, told tally, observed int64) error {
	res := resource.Of(o)
	switch {
	case is.active != want:
		return fmt.Errorf("exact: %s %s asks for %d pods and has %d", res, object.KeyOf(o), want, is.active)
	case is != told:
		return fmt.Errorf("status: %s %s has %+v, its status says %+v", res, object.KeyOf(o), is, told)
	case observed != o.GetGeneration():
		return fmt.Errorf("status: %s %s is of generation %d, its status of %d", res, object.KeyOf(o), o.GetGeneration(), observed)
	}
	return nil
}

// RolledOut holds when every Deployment that is not paused runs its present template alone, in
// the number it asks for, and its status tells the truth.
func RolledOut(r object.Reader, now time.Time) error {
	for _, o := range r.List(resource.Deployments, "") {
		d := o.(*appsv1.Deployment)
		if d.Spec.Paused {
			continue
		}
		replicas, _ := bounds(d)
		var all tally
		for _, set := range setsOf(r, d) {
			t := podsOf(r, set, set.Spec.MinReadySeconds, now)
			all.add(t)
			if t.active > 0 && !present(d, set) {
				return fmt.Errorf("rolled out: deployment %s still has %d pods of replica set %s", object.KeyOf(d), t.active, set.Name)
			}
		}
		s := d.Status
		told := tally{s.Replicas, s.ReadyReplicas, s.AvailableReplicas, size(s.TerminatingReplicas)}
		switch {
		case all.active != replicas:
			return fmt.Errorf("rolled out: deployment %s asks for %d pods and has %d", object.KeyOf(d), replicas, all.active)
		case all != told || s.UpdatedReplicas != all.active:
			return fmt.Errorf("status: deployment %s has %+v, its status says %+v (updated %d)", object.KeyOf(d), all, told, s.UpdatedReplicas)
		case s.ObservedGeneration != d.Generation:
			return fmt.Errorf("status: deployment %s is of generation %d, its status of %d", object.KeyOf(d), d.Generation, s.ObservedGeneration)
		}
	}
	return nil
}

func present(d *appsv1.Deployment, set *appsv1.ReplicaSet) bool {
	return equality.Semantic.DeepEqual(d.Spec.Template.Spec, set.Spec.Template.Spec) &&
		equality.Semantic.DeepEqual(d.Spec.Template.Annotations, set.Spec.Template.Annotations)
}

func setsOf(r object.Reader, d *appsv1.Deployment) []*appsv1.ReplicaSet {
	var sets []*appsv1.ReplicaSet
	for _, o := range r.Indexed(resource.ReplicaSets, object.ByController, string(d.UID)) {
		sets = append(sets, o.(*appsv1.ReplicaSet))
	}
	return sets
}

func bounds(d *appsv1.Deployment) (int32, rollout.Room) {
	return boundsAt(d, size1(d.Spec.Replicas))
}

func boundsAt(d *appsv1.Deployment, replicas int32) (int32, rollout.Room) {
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return replicas, rollout.Room{}
	}
	quarter := intstr.FromString("25%")
	surge, unavailable := &quarter, &quarter
	if u := d.Spec.Strategy.RollingUpdate; u != nil {
		if u.MaxSurge != nil {
			surge = u.MaxSurge
		}
		if u.MaxUnavailable != nil {
			unavailable = u.MaxUnavailable
		}
	}
	room, _ := rollout.RoomFor(surge, unavailable, replicas)
	return replicas, room
}

func recorded(set *appsv1.ReplicaSet, key string) (int32, bool) {
	n, err := strconv.ParseInt(set.Annotations[key], 10, 32)
	return int32(n), err == nil
}

func size(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

func size1(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}
