package deployment

import (
	"cmp"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/workload/rollout"
)

// roll moves towards the present template within the room: up by what the upper bound leaves, down by what the
// lower bound allows. Both are decided from one snapshot, and each holds whatever becomes of the
// other.
func (p *decision) roll() {
	p.stepCanary()
	target := p.canary.target(p)
	if p.fresh == nil {
		p.createFresh(min(target, p.space()))
		return
	}
	p.growFresh(target)
	p.shrinkOld(target)
	p.waitForOthers(target)
}

// growFresh raises the present replica set to target as far as there is space, or lowers it
// to the Deployment's size.
func (p *decision) growFresh(target int32) {
	m := p.fresh
	switch {
	case m.size > p.replicas:
		p.resize(m, p.replicas, fmt.Sprintf("the deployment asks for %d replicas", p.replicas))
	case m.size < target:
		p.resize(m, m.size+min(target-m.size, p.space()), fmt.Sprintf("at most %d pods may exist, and %d of them may be of the new template",
			p.room.Most(p.replicas), target))
	}
}

// shrinkOld lowers the old replica sets, oldest first: pods that are not ready go first, since nobody
// misses them, then as many others as the available pods allow. As long as a member is not
// settled nothing is taken away.
func (p *decision) shrinkOld(target int32) {
	old := total(p.old)
	if old == 0 || p.unsettled() != nil {
		return
	}
	least := p.room.Least(p.replicas)
	// What must stay counts pods that exist, so that old pods that recover are there in numbers.
	left := min(old+p.sure(p.fresh)-least, old-(p.replicas-target))
	for _, m := range p.old {
		if unready := max(0, m.size-p.census(m).ready); left > 0 && unready > 0 {
			n := min(left, unready)
			left -= n
			p.resize(m, m.size-n, "its pods that are not ready are not worth keeping")
		}
	}
	var sure int32
	for _, m := range p.all {
		sure += p.sure(m)
	}
	left = min(left, sure-least)
	for _, m := range p.old {
		if n := min(left, m.size); n > 0 {
			left -= n
			p.resize(m, m.size-n, fmt.Sprintf("%d pods are available, %d must be", sure, least))
		}
	}
}

// recreate waits until every pod of an old template is gone before it lets a new one come.
func (p *decision) recreate() {
	for _, m := range p.old {
		p.resize(m, 0, "strategy Recreate removes the old pods first")
	}
	if p.oldPodsGo(p.fresh) {
		return
	}
	if p.fresh == nil {
		p.createFresh(p.replicas)
		return
	}
	p.resize(p.fresh, p.replicas, "the old pods are gone")
}

// oldPodsGo reports whether Recreate has to wait for pods of members other than the one that is
// to grow, and says so.
func (p *decision) oldPodsGo(but *member) bool {
	m := p.lingering(but)
	if m == nil {
		return false
	}
	p.waits = append(p.waits, plan.Wait{Reason: "OldPodsRunning", On: object.RefOf(m.set),
		Message: fmt.Sprintf("strategy Recreate starts no new pod before the old ones are gone: replica set %q has %d, and %d terminating",
			m.set.Name, m.set.Status.Replicas, m.terminating())})
	return true
}

// lingering returns a member other than but that still has pods, or may.
func (p *decision) lingering(but *member) *member {
	for _, m := range p.all {
		if m != but && (m.size != m.was || !m.settled() || m.set.Status.Replicas > 0 ||
			(m.terminating() > 0 && p.policy != rollout.TerminationStarted)) {
			return m
		}
	}
	return nil
}

// forget deletes the oldest replica sets beyond revisionHistoryLimit, those without any pods.
func (p *decision) forget() []plan.Action {
	limit := p.d.Spec.RevisionHistoryLimit
	if limit == nil {
		return nil
	}
	var cleanable []*member
	for _, m := range p.old {
		if m.set.DeletionTimestamp == nil {
			cleanable = append(cleanable, m)
		}
	}
	excess := len(cleanable) - int(*limit)
	if excess <= 0 {
		return nil
	}
	slices.SortFunc(cleanable, func(a, b *member) int {
		return cmp.Or(cmp.Compare(revisionOf(a.set.Annotations), revisionOf(b.set.Annotations)), byAge(a, b))
	})
	var actions []plan.Action
	for _, m := range cleanable[:excess] {
		if m.size == 0 && m.was == 0 && m.set.Status.Replicas == 0 && m.terminating() == 0 && m.observed() {
			actions = append(actions, plan.Delete{Object: object.RefOf(m.set),
				Because: fmt.Sprintf("%d old replica sets are kept (revisionHistoryLimit)", *limit)})
		}
	}
	return actions
}

func (m *member) observed() bool { return m.set.Status.ObservedGeneration >= m.set.Generation }

func isRecreate(d *appsv1.Deployment) bool {
	return d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType
}
