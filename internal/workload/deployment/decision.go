package deployment

import (
	"cmp"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/workload/rollout"
	"coracle/internal/workload/tally"
)

// snapshot is a Deployment and its replica sets at one instant, and the decision as it grows.
type decision struct {
	plan.Input
	d        *appsv1.Deployment
	replicas int32
	room     rollout.Room
	policy   rollout.Replacement

	// all members, oldest first; fresh holds the present template (nil: none does yet), old the others.
	all   []*member
	fresh *member
	old   []*member

	canary canary

	// What is decided so far.
	creation *creation
	// events belong to the status and are told with it, told ones to the actions.
	events, told []plan.Event
	again        time.Time
	waits        []plan.Wait
	next         []string
	// resting says that a canary pause holds the rollout: the progress deadline does not run.
	resting bool
	// noWayBack says why there is no automatic rollback though it is time for one.
	noWayBack string
	// flaws say which annotations make no sense.
	flaws []string
}

// member is a replica set with what is decided about it.
type member struct {
	set *appsv1.ReplicaSet
	// size is spec.replicas as it will be; was is as it is.
	size, was int32
	// draft is the changed copy, nil as long as nothing but the size changes.
	draft   *appsv1.ReplicaSet
	because string
	// counted is the census, once it is taken.
	counted *census
}

func newDecision(in plan.Input, d *appsv1.Deployment, sets []object.Object) *decision {
	p := &decision{Input: in, d: d, replicas: sizeOf(d.Spec.Replicas), policy: rollout.ReplacementOf(d.Annotations)}
	if r := d.Spec.Strategy.RollingUpdate; d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		surge, unavailable := defaultRoom, defaultRoom
		if r != nil {
			surge, unavailable = cmp.Or(r.MaxSurge, surge), cmp.Or(r.MaxUnavailable, unavailable)
		}
		// The API has validated both; what cannot be read counts as 0, which is safe.
		p.room, _ = rollout.RoomFor(surge, unavailable, p.replicas)
	}
	p.all = make([]*member, 0, len(sets))
	for _, o := range sets {
		set := o.(*appsv1.ReplicaSet)
		size := sizeOf(set.Spec.Replicas)
		p.all = append(p.all, &member{set: set, size: size, was: size})
	}
	slices.SortFunc(p.all, byAge)
	for _, m := range p.all {
		if p.fresh == nil && sameTemplate(&m.set.Spec.Template, &d.Spec.Template) {
			p.fresh = m
		} else {
			p.old = append(p.old, m)
		}
	}
	p.canary = p.readCanary()
	p.checkAnnotations()
	return p
}

// sizeOf reads a spec.replicas, for which the API's default is 1.
func sizeOf(replicas *int32) int32 {
	if replicas == nil {
		return 1
	}
	return *replicas
}

// byAge puts older replica sets first; within one second the revision tells.
func byAge(a, b *member) int {
	return cmp.Or(a.set.CreationTimestamp.Compare(b.set.CreationTimestamp.Time),
		cmp.Compare(revisionOf(a.set.Annotations), revisionOf(b.set.Annotations)), cmp.Compare(a.set.Name, b.set.Name))
}

// edit returns the member's copy to change. Only its annotations and the fields of its spec may be changed:
// the rest is shared with the original.
func (m *member) edit(because string) *appsv1.ReplicaSet {
	if m.draft == nil {
		draft := *m.set
		draft.Annotations = maps.Clone(m.set.Annotations)
		if draft.Annotations == nil {
			draft.Annotations = map[string]string{}
		}
		m.draft = &draft
	}
	if m.because == "" {
		m.because = because
	}
	return m.draft
}

// annotation returns an annotation as it will be.
func (m *member) annotation(key string) string {
	if m.draft != nil {
		return m.draft.Annotations[key]
	}
	return m.set.Annotations[key]
}

// annotate sets an annotation, or removes it when value is empty.
func (m *member) annotate(key, value, because string) {
	if m.annotation(key) == value {
		return
	}
	if value == "" {
		delete(m.edit(because).Annotations, key)
	} else {
		m.edit(because).Annotations[key] = value
	}
}

// settled reports whether the replica set's controller has seen its present size, so that its
// status bounds what it may still do. A set that was never changed does not create more than it asks for.
func (m *member) settled() bool {
	return m.set.Generation <= 1 || m.set.Status.ObservedGeneration >= m.set.Generation
}

func (m *member) terminating() int32 {
	if n := m.set.Status.TerminatingReplicas; n != nil {
		return *n
	}
	return 0
}

// census is how many of a member's pods may be ready at most and are available at least, by its
// status and by its pods. Either may be behind the other, and nothing is taken away on hearsay.
type census struct{ ready, available int32 }

func (p *decision) census(m *member) census {
	if m.counted != nil {
		return *m.counted
	}
	var c census
	for _, g := range tally.Of(p.Reader, m.set).Groups() {
		available, _ := g.Available(time.Duration(m.set.Spec.MinReadySeconds)*time.Second, p.Now)
		c.ready += int32(g.Ready())
		c.available += int32(available)
	}
	c.ready = max(c.ready, m.set.Status.ReadyReplicas)
	c.available = min(c.available, m.set.Status.AvailableReplicas)
	m.counted = &c
	return c
}

// sure is how many available pods the member has when the deletions are done that its present or its
// next size calls for: those take pods that are not ready first, and it is not certain that they
// take the ready ones that are not available yet before those that are.
func (p *decision) sure(m *member) int32 {
	c := p.census(m)
	lost := max(0, c.ready-min(m.was, m.size))
	return max(0, c.available-lost)
}

// taken is how many pods count against the upper bound for this member, whatever its controller
// does next.
func (p *decision) taken(m *member) int32 {
	n := max(m.size, m.set.Status.Replicas)
	if p.policy == rollout.TerminationComplete {
		n += m.terminating()
	}
	return n
}

// space is how many pods may be added now so that the upper bound holds; 0 as long as some
// member is not settled.
func (p *decision) space() int32 {
	free := p.room.Most(p.replicas)
	for _, m := range p.all {
		if !m.settled() {
			return 0
		}
		free -= p.taken(m)
	}
	return max(0, free)
}

// unsettled returns the first member whose controller has not seen its size yet.
func (p *decision) unsettled() *member {
	for _, m := range p.all {
		if !m.settled() {
			return m
		}
	}
	return nil
}

func active(members []*member) []*member {
	return slices.DeleteFunc(slices.Clone(members), func(m *member) bool { return m.size == 0 })
}

func total(members []*member) int32 {
	var n int32
	for _, m := range members {
		n += m.size
	}
	return n
}

// soon notes an instant at which to look again.
func (p *decision) soon(t time.Time) {
	if !t.IsZero() && (p.again.IsZero() || t.Before(p.again)) {
		p.again = t
	}
}
