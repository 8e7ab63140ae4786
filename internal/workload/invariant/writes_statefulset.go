package invariant

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// setPast is what has been true of a StatefulSet since its controller last knew all.
type setPast struct {
	versions []*sts
	stood    map[int]standing
	due      dues[int]
	// since holds the pods that were there at that moment.
	since map[int]types.UID
}

// version is a StatefulSet with the ordinals it wants, without its pods.
func version(o object.Object) *sts {
	s := &sts{StatefulSet: o.(*appsv1.StatefulSet)}
	reserved := strings.Split(s.Annotations["coracle.io/reserve-ordinals"], ",")
	for n := s.start(); len(s.wanted) < int(size1(s.Spec.Replicas)); n++ {
		if !slices.Contains(reserved, strconv.Itoa(n)) {
			s.wanted = append(s.wanted, n)
		}
	}
	return s
}

func newSetPast(r object.Reader, o object.Object, now time.Time) *setPast {
	p := &setPast{versions: []*sts{version(o)}, stood: map[int]standing{}, due: dues[int]{}, since: map[int]types.UID{}}
	s, _ := readSet(r, object.KeyOf(o), now)
	for n, pod := range s.mine {
		p.stood[n], p.since[n] = standingOf(s.serves(pod)), pod.UID
		p.due.note(n, pod, s.Spec.MinReadySeconds)
	}
	for _, n := range s.wanted {
		if s.mine[n] == nil {
			p.stood[n] = down
		}
	}
	return p
}

func (w *Writes) setWritten(e Write) {
	p := w.sets[e.After.GetUID()]
	switch {
	case e.Gone:
		delete(w.sets, e.After.GetUID())
	case p != nil:
		p.versions = append(p.versions, version(e.After))
	}
}

func (p *setPast) minReady() int32 { return p.versions[len(p.versions)-1].Spec.MinReadySeconds }

func (p *setPast) always(n int) bool {
	return every(p.versions, func(s *sts) bool { return slices.Contains(s.wanted, n) })
}

func (p *setPast) never(n int) bool {
	return !some(p.versions, func(s *sts) bool { return slices.Contains(s.wanted, n) })
}

// memberWritten judges what a StatefulSet's controller does to its pods: MembersInOrder, MembersServing, MembersHeld.
func (w *Writes) memberWritten(r object.Reader, e Write, now time.Time) error {
	p := w.sets[ownerOf(e)]
	if p == nil {
		return nil
	}
	name := p.versions[0].Name
	n, err := strconv.Atoi(strings.TrimPrefix(e.After.GetName(), name+"-"))
	if err != nil {
		return nil
	}
	byController := e.By == "statefulset-controller"
	p.age(now)
	broken := error(nil)
	switch {
	case byController && e.Before == nil:
		broken = p.created(e.After.(*corev1.Pod), n)
	case byController && e.begins():
		broken = p.deleted(r, e.Before.(*corev1.Pod), n)
	}
	if !e.Gone {
		p.due.note(n, e.After, p.minReady())
	}
	after := !e.Gone && servesNow(e.After, p.minReady(), now)
	p.stood[n] = p.stood[n].next(e.Before != nil && servesNow(e.Before, p.minReady(), now), after, byController)
	return broken
}

// age notes who has begun to serve since, by the passing of time alone.
func (p *setPast) age(now time.Time) {
	for n, s := range p.stood {
		if s == down && p.due.passed(n, now) {
			p.stood[n] = mixed
		}
	}
}

// created holds the creation of a pod against the promises: of a wanted ordinal, in order after all lower ones serve, and
// below the partition of the current revision.
func (p *setPast) created(pod *corev1.Pod, n int) error {
	if p.never(n) {
		return fmt.Errorf("ordinal order: %s is created, which nobody wants", pod.Name)
	}
	if every(p.versions, (*sts).ordered) {
		for m, s := range p.stood {
			if m < n && p.always(m) && (s == down || s == taken) {
				return fmt.Errorf("ordinal order: %s is created, and ordinal %d did not serve", pod.Name, m)
			}
		}
	}
	revision := pod.Labels[appsv1.StatefulSetRevisionLabel]
	below := every(p.versions, func(s *sts) bool { return !s.onDelete() && n < s.partition() })
	if below && !some(p.versions, func(s *sts) bool { return s.Status.CurrentRevision == "" || s.Status.CurrentRevision == revision }) {
		return fmt.Errorf("partition: %s, below the partition, is created at %s", pod.Name, revision)
	}
	return nil
}

// deleted holds the deletion of a pod against the promises.
func (p *setPast) deleted(r object.Reader, pod *corev1.Pod, n int) error {
	switch {
	case podstate.Ended(pod):
		return nil
	case p.never(n):
		return p.surplusDeleted(r, pod, n)
	case !p.always(n) || p.stood[n] != up || p.since[n] != pod.UID:
		return nil
	}
	if every(p.versions, func(s *sts) bool { return s.onDelete() || n < s.partition() }) {
		return fmt.Errorf("partition: %s serves, is below the partition or under OnDelete, and is deleted", pod.Name)
	}
	out := 0
	for m, s := range p.stood {
		if p.always(m) && (s == down || s == taken) {
			out++
		}
	}
	if most := highest(p.versions, (*sts).maxUnavailable); out+1 > most {
		return fmt.Errorf("serving kept: %s serves and is deleted while %d others are out, at most %d may be", pod.Name, out, most)
	}
	return p.updatedInOrder(r, pod, n)
}

// surplusDeleted: in order, the highest goes first, alone, and while all wanted ones serve.
func (p *setPast) surplusDeleted(r object.Reader, pod *corev1.Pod, n int) error {
	if !every(p.versions, (*sts).ordered) {
		return nil
	}
	for m, uid := range p.since {
		if m > n && p.never(m) && p.there(r, m, uid) != nil {
			return fmt.Errorf("ordinal order: surplus %s is deleted while ordinal %d is there", pod.Name, m)
		}
	}
	for m, s := range p.stood {
		if p.always(m) && (s == down || s == taken) {
			return fmt.Errorf("ordinal order: surplus %s is deleted while ordinal %d does not serve", pod.Name, m)
		}
	}
	return nil
}

// updatedInOrder: no outdated pod of a higher ordinal is passed over.
func (p *setPast) updatedInOrder(r object.Reader, pod *corev1.Pod, n int) error {
	update := p.versions[0].Status.UpdateRevision
	same := every(p.versions, func(s *sts) bool {
		return s.Status.UpdateRevision == update && s.Generation == p.versions[0].Generation
	})
	if !same || p.versions[0].Status.ObservedGeneration != p.versions[0].Generation {
		return nil
	}
	if pod.Labels[appsv1.StatefulSetRevisionLabel] == update {
		return fmt.Errorf("serving kept: %s is up to date, serves, and is deleted", pod.Name)
	}
	for m, uid := range p.since {
		if other := p.there(r, m, uid); m > n && p.always(m) && other != nil && other.DeletionTimestamp == nil && p.stood[m] == up &&
			other.Labels[appsv1.StatefulSetRevisionLabel] != update {
			return fmt.Errorf("serving kept: %s is updated before %s", pod.Name, other.Name)
		}
	}
	return nil
}

// there returns a pod of the set if it is still the one of that identity.
func (p *setPast) there(r object.Reader, n int, uid types.UID) *corev1.Pod {
	s := p.versions[0]
	o, ok := r.Get(resource.Pods, s.Namespace, s.Name+"-"+strconv.Itoa(n))
	if !ok || o.GetUID() != uid {
		return nil
	}
	return o.(*corev1.Pod)
}
