package deployment

import (
	"cmp"
	"fmt"
	"slices"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/workload/rollout"
)

// scaling reports whether the Deployment's size has changed since its active members were sized.
func (p *decision) scaling() bool {
	return slices.ContainsFunc(p.all, func(m *member) bool {
		n, ok := m.desired()
		return m.size > 0 && ok && n != p.replicas
	})
}

// scale changes the size without rolling: of the one active member, or in proportion of all.
func (p *decision) scale() {
	because := fmt.Sprintf("the deployment asks for %d replicas", p.replicas)
	if m := p.sole(); m != nil {
		if isRecreate(p.d) && m.size < p.replicas && p.oldPodsGo(m) {
			return
		}
		p.setSize(m, min(p.replicas, m.size+p.space()), because)
		p.noteScaled(m, m.size == p.replicas)
		return
	}
	if !p.scaling() {
		return
	}
	if p.saturated() {
		for _, m := range p.old {
			p.resize(m, 0, "the new replica set has all the pods it needs")
		}
		return
	}
	if !isRecreate(p.d) {
		p.scaleInProportion(because)
	}
}

// sole returns the only active member; with none active, the present one or the newest. It is
// nil when there are several, or none at all.
func (p *decision) sole() *member {
	switch list := active(p.all); {
	case len(list) == 1:
		return list[0]
	case len(list) > 1 || len(p.all) == 0:
		return nil
	}
	if p.fresh != nil {
		return p.fresh
	}
	return p.all[len(p.all)-1]
}

func (p *decision) saturated() bool {
	m := p.fresh
	if m == nil {
		return false
	}
	n, ok := m.desired()
	return ok && n == p.replicas && m.size == p.replicas && m.set.Status.AvailableReplicas == p.replicas
}

// scaleInProportion spreads the change over all active members, so that a rollout's risk stays
// as it is. The biggest takes what rounding leaves: the newest of equals when growing, the oldest when
// shrinking.
func (p *decision) scaleInProportion(because string) {
	all := active(p.all)
	list, whole := p.sharers()
	growing := whole > total(list)
	slices.SortStableFunc(list, func(a, b *member) int {
		if growing {
			return cmp.Or(cmp.Compare(b.size, a.size), byAge(b, a))
		}
		return cmp.Or(cmp.Compare(b.size, a.size), byAge(a, b))
	})
	parts := make([]rollout.Part, len(list))
	for i, m := range list {
		most, _ := m.number(maximumKey)
		parts[i] = rollout.Part{Size: m.size, Whole: most}
	}
	space, missing := p.space(), int32(0)
	for i, size := range rollout.Share(parts, whole, p.d.Status.Replicas) {
		m := list[i]
		granted := min(size, m.size+space)
		space -= max(0, granted-m.size)
		missing += size - granted
		p.setSize(m, granted, because)
	}
	if !growing {
		p.keepAvailable(list, because)
	}
	for _, m := range all {
		p.noteScaled(m, missing == 0)
	}
}

// keepAvailable moves shares of a smaller size that would take pods which must be available to members that have pods
// which are not: proportion is a habit, the lower bound a promise. The present member gives first.
func (p *decision) keepAvailable(list []*member, because string) {
	missing, owed := p.room.Least(p.replicas), int32(0)
	for _, m := range p.all {
		missing -= p.sure(m)
	}
	for _, m := range list {
		for ; missing > 0 && m.size < m.was && p.costs(m, 1); missing-- {
			p.setSize(m, m.size+1, because)
			owed++
		}
	}
	givers := list
	if p.fresh != nil {
		givers = append([]*member{p.fresh}, list...)
	}
	for _, m := range givers {
		for ; owed > 0 && m.size > 0 && !p.costs(m, -1); owed-- {
			p.setSize(m, m.size-1, because)
		}
	}
}

// costs reports whether a change of a member's size would change how many available pods it is sure to have.
func (p *decision) costs(m *member, by int32) bool {
	changed := *m
	changed.size += by
	return p.sure(&changed) != p.sure(m)
}

// sharers returns the members that share a change of size, and what they are to come to. In a canary
// the step says how many pods the new template may have, so that only the old ones grow here; and a step uses no
// surge of its own accord: more pods would only be taken away again.
func (p *decision) sharers() ([]*member, int32) {
	list, whole := active(p.all), p.room.Most(p.replicas)
	switch now := total(list); {
	case !p.holding():
		return list, whole
	case p.replicas > now:
		old := active(p.old)
		return old, max(total(old), p.replicas-p.canary.target(p))
	default:
		return list, min(whole, now)
	}
}

// noteScaled records a scaling that is done, or says what the rest of it waits for.
func (p *decision) noteScaled(m *member, done bool) {
	if done {
		p.noteSize(m)
		return
	}
	p.waits = append(p.waits, plan.Wait{Reason: "PodsLeaving", On: object.RefOf(m.set),
		Message: fmt.Sprintf("replica set %q grows to its share when pods that are on their way out have left: at most %d may exist",
			m.set.Name, p.room.Most(p.replicas))})
}
