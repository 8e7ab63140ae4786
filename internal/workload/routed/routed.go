// Package routed says since when connections are led to a pod that has just become ready: a rollout that takes an old pod away
// for it must not do so before.
//
// A pod that a service selects waits, while its service's pods are being replaced, until each node has acknowledged the EndpointSlice
// that says that it is ready (package drain), and drain.Bound at most. It owns that rule, which workloads share, and which
// changes concern it. It refuses to say when a pod is ready, and what to do about one that is.
package routed

import (
	"cmp"
	"math"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/behind"
	"coracle/internal/drain"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

// Book answers for one decision. What it looks up it looks up once.
type Book struct {
	r        object.Reader
	now      time.Time
	services map[object.Key]*service
	// acked is the revision that all nodes have acknowledged; nil while nobody has asked.
	acked *uint64
}

// service is what is known of one: whether its pods are being replaced, and by pod the revision to be acknowledged, 0 for none.
type service struct {
	rolls bool
	shown map[string]uint64
}

// New returns a book over a snapshot.
func New(r object.Reader, now time.Time) *Book {
	return &Book{r: r, now: now, services: map[object.Key]*service{}}
}

// Until is how long a ready pod is still to be waited for at most; zero when it is known to all who lead connections, or nobody
// need know it.
func (b *Book) Until(pod *corev1.Pod) time.Time {
	end := drain.KnownBy(pod)
	if !b.now.Before(end) || pod.DeletionTimestamp != nil {
		return time.Time{} // the usual case, by far
	}
	for _, s := range behind.Selecting(b.r, pod) {
		if !drain.Serves(s, pod) {
			continue
		}
		of := b.service(s)
		if revision, shown := of.shown[pod.Name]; of.rolls && (!shown || revision > b.acknowledged()) {
			return end
		}
	}
	return time.Time{}
}

// Concerns says whether any service selects the pods of a namespace that have these labels: if none does, there is nothing to wait
// for.
func (b *Book) Concerns(namespace string, labels map[string]string) bool {
	return len(behind.Selecting(b.r, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Labels: labels}})) > 0
}

// Available says when a ready pod counts as available, as podstate.AvailableAt does, and no sooner than it is known.
func (b *Book) Available(pod *corev1.Pod, minReady int32) (at time.Time, ready bool) {
	at, ready = podstate.AvailableAt(pod, minReady)
	if until := b.Until(pod); ready && until.After(at) {
		at = until
	}
	return at, ready
}

func (b *Book) service(s *corev1.Service) *service {
	key := object.KeyOf(s)
	if of := b.services[key]; of != nil {
		return of
	}
	active := slices.DeleteFunc(behind.Pods(b.r, s), podstate.Ended)
	of := &service{rolls: behind.Rolls(active), shown: map[string]uint64{}}
	b.services[key] = of
	if !of.rolls {
		return of
	}
	for _, slice := range behind.Slices(b.r, key) {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if e.TargetRef != nil && e.TargetRef.Kind == "Pod" && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				if _, known := of.shown[e.TargetRef.Name]; !known {
					of.shown[e.TargetRef.Name] = 0
				}
			}
		}
		for _, name := range drain.Awaits(slice) {
			of.shown[name] = max(of.shown[name], drain.Revision(slice))
		}
	}
	return of
}

func (b *Book) acknowledged() uint64 {
	if b.acked == nil {
		n := acknowledged(b.r)
		b.acked = &n
	}
	return *b.acked
}

// acknowledged is how far all have come who lead connections and can say so; as far as can be where there are none.
func acknowledged(r object.Reader) uint64 {
	all := uint64(math.MaxUint64)
	for _, o := range r.List(resource.Nodes, "") {
		lease, there := r.Get(resource.Leases, corev1.NamespaceNodeLease, o.GetName())
		if !there || !drain.Counts(o.(*corev1.Node)) {
			continue
		}
		if revision, leads := drain.Acknowledged(lease.(*coordinationv1.Lease)); leads {
			all = min(all, revision)
		}
	}
	return all
}

const byAwaited = "routed.awaited"

// Indexes are what a Book needs of its Reader.
func Indexes() []object.Index {
	return append(behind.PodIndexes(), behind.Index, object.Index{Resource: resource.EndpointSlices, Name: byAwaited, Values: func(o object.Object) []string {
		if len(drain.Awaits(o.(*discoveryv1.EndpointSlice))) == 0 {
			return nil
		}
		return []string{"true"}
	}})
}

// Watches ask for the workloads of a kind whose pods come to be known: with a slice that names them, if no node need say so, and with the
// last node's word.
func Watches(kind string) []plan.Watch {
	return []plan.Watch{
		{Resource: resource.EndpointSlices, Keys: func(r object.Reader, before, after object.Object) []object.Key {
			slice, _ := cmp.Or(after, before).(*discoveryv1.EndpointSlice)
			return owners(r, slice, kind, nil)
		}},
		{Resource: resource.Leases, Keys: func(r object.Reader, before, after object.Object) []object.Key {
			return acknowledging(r, before, after, kind)
		}},
		// A node that need not be waited for any more is seen when the time is up.
		{Resource: resource.Nodes, Keys: func(object.Reader, object.Object, object.Object) []object.Key { return nil }},
	}
}

func acknowledging(r object.Reader, before, after object.Object, kind string) (keys []object.Key) {
	was, _ := before.(*coordinationv1.Lease)
	is, _ := after.(*coordinationv1.Lease)
	if was == nil || is == nil || is.Namespace != corev1.NamespaceNodeLease || was.Annotations[drain.Routed] == is.Annotations[drain.Routed] {
		return nil
	}
	from, _ := drain.Acknowledged(was)
	to, _ := drain.Acknowledged(is)
	all := uint64(0)
	for _, o := range r.Indexed(resource.EndpointSlices, byAwaited, "true") {
		slice := o.(*discoveryv1.EndpointSlice)
		revision := drain.Revision(slice)
		if revision <= from || revision > to {
			continue
		}
		if all == 0 {
			all = acknowledged(r)
		}
		if revision <= all {
			keys = owners(r, slice, kind, keys)
		}
	}
	return keys
}

// owners appends the workloads of a kind that a slice's awaited pods belong to.
func owners(r object.Reader, slice *discoveryv1.EndpointSlice, kind string, keys []object.Key) []object.Key {
	if slice == nil {
		return keys
	}
	for _, name := range drain.Awaits(slice) {
		pod, there := r.Get(resource.Pods, slice.Namespace, name)
		if !there {
			continue
		}
		owner := metav1.GetControllerOfNoCopy(pod)
		if owner == nil || owner.Kind != kind {
			continue
		}
		if key := (object.Key{Namespace: slice.Namespace, Name: owner.Name}); !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}
