// Package tally counts the pods that a controller has, change by change, so that one pod's change costs the same in a
// set of ten and of ten thousand.
//
// It owns what a count needs: which pods are alike (Group), how many of them are active, ready, on their way out or
// refused, since when they are ready, and the names of the few that an explanation tells. A pod that is well costs one
// small entry, of its name and the instant; nothing here refers to a pod itself. It refuses decisions, and to know the
// time: whether a pod has been ready for long enough is asked with the instant.
package tally

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"coracle/internal/drain"
	"coracle/internal/object"
	"coracle/internal/podstate"
	"coracle/internal/resource"
	"coracle/internal/workload/ordered"
)

// Summary keeps a tally of the pods of each ReplicaSet and ReplicationController, under the controller's UID. StatefulSets
// look at each of their pods, and DaemonSets have an account of their own.
var Summary = object.Summary{Resource: resource.Pods, Index: object.ByController, Name: "tally",
	Of: func(o object.Object) bool {
		ref := metav1.GetControllerOfNoCopy(o)
		return ref != nil && (ref.Kind == resource.ReplicaSets.Kind || ref.Kind == resource.ReplicationControllers.Kind)
	},
	Empty: func() object.Tally { return New() },
}

// Of returns the tally of the pods that an object controls. It is the Reader's and must not be changed.
func Of(r object.Reader, controller object.Object) *Pods {
	return object.Tallied(r, &Summary, string(controller.GetUID())).(*Pods)
}

// Pods is a tally. Its groups are in order of their identities, whichever came first.
type Pods struct {
	groups []*Group
	// found says where groups of a fingerprint are, once there are many.
	found map[uint64][]*Group
}

// New returns the tally of no pods.
func New() *Pods { return &Pods{} }

// Group is a number of pods of one namespace that have the same labels, and wait as long for nodes to know them.
type Group struct {
	Namespace string
	Labels    map[string]string
	// Bound is drain.Bound of each: how long after it became ready a pod is known to all nodes at the latest.
	Bound time.Duration
	// identity is all of these as text.
	identity string

	// Members are all, those that have ended among them. Active and Terminating are as in podstate.
	Members, Active, Terminating int
	// ready are the active pods that are ready, by since when.
	ready *ordered.Set[entry]
	// unready are the other active pods, first those that look bad, by name.
	unready *ordered.Set[entry]
	// leaving are those that are terminating, by name.
	leaving *ordered.Set[entry]
	// refused are those that their nodes did not take and that nobody deletes, the last created first.
	refused *ordered.Set[entry]
}

// entry is a pod in its place: at is an instant in nanoseconds, or a rank.
type entry struct {
	at   int64
	name string
}

func compare(a, b entry) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.name, b.name)) }

// unsaid is the instant of what has none: before all others.
const unsaid = math.MinInt64

func instant(t time.Time) int64 {
	if t.IsZero() {
		return unsaid
	}
	return t.UnixNano()
}

// class is the set of a group in which a pod is.
type class uint8

const (
	none class = iota
	ready
	unready
	leaving
	refused
)

// place is all that the tally knows of a pod, but for its group's identity.
func place(pod *corev1.Pod) (class, entry) {
	e := entry{name: pod.Name}
	switch {
	case podstate.Active(pod):
		since, is := podstate.ReadySince(pod)
		if is {
			e.at = instant(since)
			return ready, e
		}
		if !podstate.LooksBad(pod) {
			e.at = 1
		}
		return unready, e
	case podstate.Terminating(pod):
		return leaving, e
	case podstate.Refused(pod) && pod.DeletionTimestamp == nil:
		e.at = math.MaxInt64
		if created := pod.CreationTimestamp.Time; !created.IsZero() {
			e.at = -created.UnixNano()
		}
		return refused, e
	}
	return none, e
}

// Change implements object.Tally.
func (t *Pods) Change(before, after object.Object) {
	was, _ := before.(*corev1.Pod)
	is, _ := after.(*corev1.Pod)
	if was != nil && is != nil && alike(was, is) {
		from, old := place(was)
		to, next := place(is)
		if from != to || old != next {
			g := t.group(was)
			g.take(from, old)
			g.put(to, next)
		}
		return
	}
	if was != nil {
		g := t.group(was)
		g.take(place(was))
		if g.Members--; g.Members == 0 {
			t.drop(g)
		}
	}
	if is != nil {
		g := t.group(is)
		g.Members++
		g.put(place(is))
	}
}

// alike says that two states of a pod are of one group.
func alike(a, b *corev1.Pod) bool {
	return a.Namespace == b.Namespace && maps.Equal(a.Labels, b.Labels) &&
		a.Annotations[drain.Timeout] == b.Annotations[drain.Timeout]
}

func (g *Group) put(c class, e entry) {
	switch set := g.of(c); {
	case set == nil:
		return
	case *set == nil:
		*set = ordered.New(compare)
		fallthrough
	default:
		(*set).Add(e)
	}
	g.count(c, 1)
}

func (g *Group) take(c class, e entry) {
	set := g.of(c)
	if set == nil {
		return
	}
	if (*set).Remove(e); (*set).Len() == 0 {
		*set = nil
	}
	g.count(c, -1)
}

func (g *Group) of(c class) **ordered.Set[entry] {
	switch c {
	case ready:
		return &g.ready
	case unready:
		return &g.unready
	case leaving:
		return &g.leaving
	case refused:
		return &g.refused
	}
	return nil
}

func (g *Group) count(c class, n int) {
	switch c {
	case ready, unready:
		g.Active += n
	case leaving:
		g.Terminating += n
	}
}

// few is how many groups are looked through one by one: a set's pods are of one, or two while their labels are edited.
const few = 8

// group returns the group of a pod, made if there is none.
func (t *Pods) group(pod *corev1.Pod) *Group {
	bound, _ := drain.Bound(pod)
	is := func(g *Group) bool {
		return g.Namespace == pod.Namespace && g.Bound == bound && maps.Equal(g.Labels, pod.Labels)
	}
	near := t.groups
	if t.found != nil {
		near = t.found[fingerprint(pod.Labels)]
	}
	if at := slices.IndexFunc(near, is); at >= 0 {
		return near[at]
	}
	g := &Group{Namespace: pod.Namespace, Labels: pod.Labels, Bound: bound,
		identity: pod.Namespace + "/" + labels.Set(pod.Labels).String() + "/" + bound.String()}
	place, _ := slices.BinarySearchFunc(t.groups, g.identity, func(o *Group, identity string) int {
		return cmp.Compare(o.identity, identity)
	})
	t.groups = slices.Insert(t.groups, place, g)
	if t.found != nil {
		t.file(g)
	} else if len(t.groups) > few {
		t.found = map[uint64][]*Group{}
		for _, g := range t.groups {
			t.file(g)
		}
	}
	return g
}

func (t *Pods) file(g *Group) {
	f := fingerprint(g.Labels)
	t.found[f] = append(t.found[f], g)
}

func (t *Pods) drop(g *Group) {
	other := func(o *Group) bool { return o == g }
	t.groups = slices.DeleteFunc(t.groups, other)
	if t.found != nil {
		f := fingerprint(g.Labels)
		if t.found[f] = slices.DeleteFunc(t.found[f], other); len(t.found[f]) == 0 {
			delete(t.found, f)
		}
	}
}

// fingerprint is the same for the same labels: the sum of FNV-1a over each.
func fingerprint(set map[string]string) (sum uint64) {
	const offset, prime = 14695981039346656037, 1099511628211
	for k, v := range set {
		h := uint64(offset)
		for i := range len(k) {
			h = (h ^ uint64(k[i])) * prime
		}
		h *= prime // a byte of zero between them
		for i := range len(v) {
			h = (h ^ uint64(v[i])) * prime
		}
		sum += h
	}
	return sum
}
