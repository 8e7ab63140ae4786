package daemonset

import (
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
)

// hold marks the nodes that the rolling update shall not reach: all when paused, those outside the
// canary selector, and the last ones, as many as the partition says. A faulty annotation holds
// everything: the user wanted to be careful.
func (d *decision) hold() {
	d.heldAt = d.history.Present
	if !d.holds() {
		return
	}
	held := make(map[string]int) // pods of held nodes by revision hash
	for i := range d.spots {
		if s := &d.spots[i]; s.held {
			for _, pod := range s.pods {
				held[hashOf(pod)]++
			}
		}
	}
	// Held nodes keep the revision that most of them run. The newest wins a tie.
	most := 0
	for i := len(d.history.Owned) - 1; i >= 0; i-- {
		if n := held[hashOf(d.history.Owned[i])]; n > most {
			most, d.heldAt = n, d.history.Owned[i]
		}
	}
	d.noteHeld()
}

func (d *decision) holds() bool {
	if paused, err := d.paused(); paused || err != nil {
		d.holdAll(err)
		return true
	}
	text, canary := d.set.Annotations[CanarySelector]
	if canary {
		selector, err := labels.Parse(text)
		if err != nil {
			d.holdAll(fmt.Errorf("annotation %s: %w", CanarySelector, err))
			return true
		}
		for i := range d.spots {
			d.spots[i].held = !selector.Matches(labels.Set(d.spots[i].node.Labels))
		}
	}
	stay, err := d.partition()
	if err != nil {
		d.holdAll(err)
		return true
	}
	d.holdLast(stay)
	return canary || stay > 0
}

// paused reads the Paused annotation.
func (d *decision) paused() (bool, error) {
	text, asked := d.set.Annotations[Paused]
	if !asked {
		return false, nil
	}
	paused, err := strconv.ParseBool(strings.TrimSpace(text))
	if err != nil {
		return true, fmt.Errorf("annotation %s: %q is neither \"true\" nor \"false\"", Paused, text)
	}
	return paused, nil
}

// partition reads the Partition annotation as a number of nodes.
func (d *decision) partition() (int, error) {
	text, asked := d.set.Annotations[Partition]
	if !asked {
		return 0, nil
	}
	value := intstr.Parse(strings.TrimSpace(text))
	n, err := intstr.GetScaledValueFromIntOrPercent(&value, d.desired, true)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("annotation %s: %q is neither a number of nodes nor a percentage", Partition, text)
	}
	return n, nil
}

// holdLast holds so many wanted nodes in all, beginning with the last by name. Nodes that the canary
// selector holds count among them, and nodes that run the present revision already are taken last.
func (d *decision) holdLast(stay int) {
	for i := range d.spots {
		if s := &d.spots[i]; s.wanted() && s.held {
			stay--
		}
	}
	for _, updated := range []bool{false, true} {
		for i := len(d.spots) - 1; i >= 0 && stay > 0; i-- {
			s := &d.spots[i]
			if !s.wanted() || s.held || d.runsPresent(s) != updated {
				continue
			}
			s.held = true
			stay--
		}
	}
}

// runsPresent says whether a pod of the present revision is on the node.
func (d *decision) runsPresent(s *spot) bool {
	for _, pod := range s.pods {
		if d.fresh(s, pod) && podstate.Active(pod) {
			return true
		}
	}
	return false
}

// holdAll holds every node; a reason why that is not the user's wish is told.
func (d *decision) holdAll(err error) {
	for i := range d.spots {
		d.spots[i].held = true
	}
	if err != nil {
		d.fault(err, "; until it is corrected the rolling update stands still")
	}
}

// noteHeld says how many pods stay at an old revision by the user's wish.
func (d *decision) noteHeld() {
	old := 0
	for i := range d.spots {
		s := &d.spots[i]
		if s.held && len(s.pods) > 0 && !d.runsPresent(s) {
			old++
		}
	}
	if old == 0 {
		return
	}
	var by []string
	for _, a := range []string{Paused, CanarySelector, Partition} {
		if v, ok := d.set.Annotations[a]; ok {
			by = append(by, fmt.Sprintf("%s: %q", a, v))
		}
	}
	d.wait(plan.Wait{
		Reason:  "Held",
		Message: fmt.Sprintf("%d nodes stay at %s (%s)", old, d.revisionText(hashOf(d.heldAt)), strings.Join(by, ", ")),
		On:      object.RefOf(d.set),
		Hint:    "change or remove the annotation to go on",
	})
}
