package daemonset

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
)

// scaled returns a number or a percentage of the wanted nodes, rounded up.
func (d *decision) scaled(value *intstr.IntOrString, otherwise int) int {
	if value == nil {
		return otherwise
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(value, d.desired, true)
	if err != nil {
		d.wait(plan.Wait{Reason: "InvalidSpec", Message: fmt.Sprintf("spec.updateStrategy.rollingUpdate: %v", err), On: object.RefOf(d.set)})
		return otherwise
	}
	return n
}

// roll takes the next step of a rolling update. It is taken only when every node has the pods it
// shall have: what manage does comes first.
func (d *decision) roll() {
	if d.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		d.noteOnDelete()
		return
	}
	surge, unavailable := 0, 1
	if ru := d.set.Spec.UpdateStrategy.RollingUpdate; ru != nil {
		surge, unavailable = d.scaled(ru.MaxSurge, 0), d.scaled(ru.MaxUnavailable, 1)
	}
	if surge > 0 {
		d.rollSurging(surge)
		return
	}
	d.rollStopping(max(unavailable, 1)) // both zero would never end
}

// pair returns the node's pods that are not terminating, at most one present and one old; false
// when there are more, which manage prunes first.
func (d *decision) pair(s *spot) (newer, older *corev1.Pod, ok bool) {
	for _, pod := range s.pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		if d.fresh(s, pod) {
			if newer != nil {
				return nil, nil, false
			}
			newer = pod
		} else {
			if older != nil {
				return nil, nil, false
			}
			older = pod
		}
	}
	return newer, older, true
}

// rollStopping deletes old pods and lets manage make their successors. Old pods that are not ready, or on nodes that
// shall have none, cost nothing and go at once; the others serve, and go as far as maxUnavailable allows. Those that are
// ready but not yet available go first, and stand in nobody's way but that of available ones. A node that was not ready
// before the rollout began takes up none of that room.
func (d *decision) rollStopping(most int) {
	out, unsure := 0, 0 // wanted nodes that nobody serves for good by now; those whose old pod is ready, but not available
	var fledgling, grown []*spot
	for i := range d.spots {
		s := &d.spots[i]
		newer, older, ok := d.pair(s)
		if !s.wanted() {
			if ok && older != nil && !s.held {
				d.deletePod(older, d.becauseOutdated(older)+"; the node shall have no new one")
			}
			continue
		}
		old := ok && newer == nil && older != nil
		switch {
		case old && d.available(older):
			if !s.held {
				grown = append(grown, s)
			}
			continue
		case old && podstate.Ready(older):
			unsure++
			if !s.held {
				fledgling = append(fledgling, s)
			}
			continue
		case old && !s.held:
			d.deletePod(older, d.becauseOutdated(older)+"; it is not ready, so replacing it costs nothing")
		case ok && older == nil && newer != nil && d.available(newer):
			continue
		}
		if !s.lost {
			out++
		}
	}
	first := min(len(fledgling), max(most-out, 0))
	for _, s := range fledgling[:first] {
		d.outdate(s)
	}
	then := min(len(grown)+d.rest.stale, max(most-out-unsure, 0))
	for _, s := range d.foremost(then, grown) {
		d.outdate(s)
	}
	if left := len(fledgling) + len(grown) + d.rest.stale - first - then; left > 0 {
		d.noteBudget(left, out+first+then, most)
	}
}

// outdate deletes the old pod of a node.
func (d *decision) outdate(s *spot) {
	_, older, _ := d.pair(s)
	d.deletePod(older, d.becauseOutdated(older))
}

func (d *decision) becauseOutdated(pod *corev1.Pod) string {
	return fmt.Sprintf("rolling update from %s to revision %d", d.revisionText(hashOf(pod)), d.history.Present.Revision)
}

// rollSurging starts new pods beside old ones, at most so many beside ready ones at a time;
// manage deletes the old ones when their successors are available (KEP-1591).
func (d *decision) rollSurging(most int) {
	surging := 0
	var candidates []*spot
	for i := range d.spots {
		s := &d.spots[i]
		newer, older, ok := d.pair(s)
		switch {
		case !ok:
			surging++
		case older == nil:
		case newer == nil && s.held, newer == nil && !s.wanted():
			if !s.wanted() && !s.held {
				d.deletePod(older, d.becauseOutdated(older)+"; the node shall have no new one")
			}
		case newer == nil && !podstate.Ready(older):
			d.createPod(s, 0, d.becauseOutdated(older)+"; it is not ready, so its successor starts beside it")
		case newer == nil:
			candidates = append(candidates, s)
		case podstate.Ready(older):
			surging++
		}
	}
	all, room := len(candidates)+d.rest.stale, max(most-surging, 0)
	for _, s := range d.foremost(min(all, room), candidates) {
		_, older, _ := d.pair(s)
		d.createPod(s, 0, d.becauseOutdated(older)+", by surge")
	}
	if all > room {
		d.noteBudget(all-room, surging+room, most)
	}
}

// noteBudget says that the rest must wait for those under way.
func (d *decision) noteBudget(left, used, most int) {
	d.wait(plan.Wait{
		Reason:  "RollingUpdate",
		Message: fmt.Sprintf("%d nodes are still to be updated; %d of at most %d are under way or unavailable", left, used, most),
		On:      object.RefOf(d.set),
	})
}

func (d *decision) noteOnDelete() {
	old := d.rest.stale
	for i := range d.spots {
		if s := &d.spots[i]; len(s.pods) > 0 && !d.runsPresent(s) {
			old++
		}
	}
	if old > 0 {
		d.wait(plan.Wait{
			Reason:  "OnDelete",
			Message: fmt.Sprintf("%d nodes run an old revision, and the update strategy is OnDelete", old),
			On:      object.RefOf(d.set),
			Hint:    "delete these pods to update them",
		})
	}
}
