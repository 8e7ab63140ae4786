package deployment

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
)

// resize decides a member's new size, and records the Deployment's with it.
func (p *decision) resize(m *member, size int32, because string) {
	if size != m.size {
		p.setSize(m, size, because)
		p.noteSize(m)
	}
}

// setSize decides a member's new size and leaves the record of the Deployment's size alone.
func (p *decision) setSize(m *member, size int32, because string) {
	if size != m.size {
		m.edit(because).Spec.Replicas = &size
		m.size, m.because = size, because
	}
}

// updates are the writes of all members that changed, those that grow before those that shrink.
func (p *decision) updates() []plan.Action {
	var grow, shrink, rest []plan.Action
	for _, m := range p.all {
		switch a := p.update(m); {
		case a == nil:
		case m.size > m.was:
			grow = append(grow, a)
		case m.size < m.was:
			shrink = append(shrink, a)
		default:
			rest = append(rest, a)
		}
	}
	return append(append(rest, grow...), shrink...)
}

func (p *decision) update(m *member) plan.Action {
	if m.draft == nil {
		return nil
	}
	a := plan.Update{Object: m.draft, Because: m.because}
	if m.size != m.was {
		a.Done = p.scaled(m.set.Name, m.was, m.size)
		p.next = append(p.next, fmt.Sprintf("scale %s replica set %s from %d to %d", direction(m.was, m.size), m.set.Name, m.was, m.size))
	} else {
		p.next = append(p.next, fmt.Sprintf("update replica set %s: %s", m.set.Name, m.because))
	}
	return a
}

func direction(from, to int32) string {
	if to > from {
		return "up"
	}
	return "down"
}

// scaled is the event that tells of a change of size.
func (p *decision) scaled(name string, from, to int32) *plan.Event {
	return &plan.Event{Regarding: object.RefOf(p.d), Type: corev1.EventTypeNormal, Reason: "ScalingReplicaSet",
		Message: fmt.Sprintf("Scaled %s replica set %s from %d to %d", direction(from, to), name, from, to)}
}
