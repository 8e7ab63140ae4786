package statefulset

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/object"
	"coracle/internal/plan"
)

// roll replaces the members of an outdated revision, from the highest ordinal down to the
// partition. In order it comes to this only when all members are available; in parallel always.
//
// At most maxUnavailable members are unavailable by its hand (KEP-961: any unavailable member of
// the set counts). A member in the rollout's way that is not ready costs nothing, so it needs only its place among those
// being replaced. One that is ready but not yet available serves: it goes only while fewer than maxUnavailable members
// are out, those in its own state not counted.
func (d *decision) roll() {
	if !d.rolling() {
		d.noteOnDelete()
		return
	}
	if d.ordered && d.blocked {
		d.noteTurn()
		return
	}
	unavailable, out, replacing := 0, 0, 0
	for _, m := range d.replicas {
		if d.isAvailable(m) {
			continue
		}
		unavailable++
		outdated := m.pod != nil && !d.leavingPod(m) && revisionOf(m.pod) != d.revisionFor(m.ordinal).Name
		if !outdated {
			replacing++
		}
		if !outdated || !ready(m.pod) {
			out++
		}
	}
	most := d.maxUnavailable()
	partition := partitionOf(d.set)
	for i := len(d.replicas) - 1; i >= 0 && d.replicas[i].ordinal >= partition; i-- {
		m := d.replicas[i]
		if m.pod == nil || d.leavingPod(m) || revisionOf(m.pod) == d.update.Name {
			continue
		}
		available, serving := d.isAvailable(m), ready(m.pod)
		if replacing >= most || available && unavailable >= most || serving && out >= most {
			d.noteBudget(m, unavailable, most)
			return
		}
		replacing++
		if available {
			unavailable++
		}
		if serving {
			out++
		}
		d.deletePod(m, fmt.Sprintf("rolling update from %s to %s", revisionOf(m.pod), d.update.Name))
	}
	d.notePartition()
}

// maxUnavailable returns how many members may be unavailable during a rolling update: 1 unless the
// strategy says otherwise, never 0; percentages round up.
func (d *decision) maxUnavailable() int {
	ru := d.set.Spec.UpdateStrategy.RollingUpdate
	if ru == nil || ru.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(ru.MaxUnavailable, replicasOf(d.set), true)
	if err != nil {
		d.wait(plan.Wait{
			Reason:  "InvalidMaxUnavailable",
			Message: fmt.Sprintf("spec.updateStrategy.rollingUpdate.maxUnavailable: %v; one pod at a time is updated", err),
			On:      object.RefOf(d.set),
		})
		return 1
	}
	return max(n, 1)
}

// noteBudget says that a member's turn comes when others are available again.
func (d *decision) noteBudget(m member, unavailable, most int) {
	d.blocked = true
	d.wait(plan.Wait{
		Reason:  "MaxUnavailable",
		Message: fmt.Sprintf("pod %s is updated when fewer than %d pods are unavailable; now %d are", m.pod.Name, most, unavailable),
		On:      object.RefOf(m.pod),
	})
}

// noteTurn says that the next member to be updated has to wait for others to be available, whoever they are.
func (d *decision) noteTurn() {
	for i := len(d.replicas) - 1; i >= 0 && d.replicas[i].ordinal >= partitionOf(d.set); i-- {
		m := d.replicas[i]
		if m.pod == nil || d.leavingPod(m) || revisionOf(m.pod) == d.update.Name {
			continue
		}
		d.wait(plan.Wait{
			Reason:  "OrderedReady",
			Message: fmt.Sprintf("pod %s is the next to be updated, when all pods are available", m.pod.Name),
			On:      object.RefOf(d.set),
		})
		return
	}
}

// notePartition says which members stay at the old revision by the user's wish.
func (d *decision) notePartition() {
	d.noteOutdated("Partition", fmt.Sprintf("below the partition, ordinal %d", partitionOf(d.set)),
		"lower spec.updateStrategy.rollingUpdate.partition to update them")
}

func (d *decision) noteOnDelete() {
	d.noteOutdated("OnDelete", "the update strategy is OnDelete", "delete these pods to update them")
}

func (d *decision) noteOutdated(reason, why, hint string) {
	var names []string
	for _, m := range d.replicas {
		if m.pod != nil && !d.leavingPod(m) && revisionOf(m.pod) != d.update.Name {
			names = append(names, m.pod.Name)
		}
	}
	if len(names) == 0 {
		return
	}
	text := strings.Join(names[:min(few, len(names))], ", ")
	if len(names) > few {
		text += " and " + strconv.Itoa(len(names)-few) + " more"
	}
	d.wait(plan.Wait{
		Reason:  reason,
		Message: fmt.Sprintf("not at revision %s: %s (%s)", d.update.Name, text, why),
		On:      object.RefOf(d.set),
		Hint:    hint,
	})
}

// forget truncates the history. Live are the current and the update revision and those of pods.
func (d *decision) forget() {
	limit := 10
	if d.set.Spec.RevisionHistoryLimit != nil {
		limit = int(*d.set.Spec.RevisionHistoryLimit)
	}
	if limit < 0 {
		limit = math.MaxInt
	}
	if len(d.history.Owned) <= limit {
		return
	}
	inUse := map[string]bool{d.current.Name: true, d.update.Name: true}
	for _, m := range d.pods {
		inUse[revisionOf(m.pod)] = true
	}
	d.out.Actions = append(d.out.Actions, d.history.Forget(limit, false, func(r *appsv1.ControllerRevision) bool { return inUse[r.Name] })...)
}
