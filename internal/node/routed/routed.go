// Package routed follows how far the nodes of a cluster have come with leading new connections as its EndpointSlices say. It
// owns what this node says of itself in its lease, and the wait of a pod that is to be stopped for every node to lead no new
// connection to it. It refuses to stop pods, and to decide which are waited for (package drain).
package routed

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/behind"
	"coracle/internal/drain"
	"coracle/internal/node/locked"
	"coracle/internal/object"
	"coracle/internal/pause"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// Indexes are those that the snapshot needs.
func Indexes() []object.Index { return []object.Index{behind.Index, slicesLeaving, slicesAwaited} }

// slicesLeaving finds the slices of the snapshot that have an endpoint whose pod is going.
var slicesLeaving = object.Index{Resource: resource.EndpointSlices, Name: "node/leaving", Values: func(o object.Object) []string {
	if drain.Leaving(o.(*discoveryv1.EndpointSlice)) {
		return []string{"true"}
	}
	return nil
}}

// slicesAwaited finds the slices of the snapshot with pods that rollouts wait for every node to know.
var slicesAwaited = object.Index{Resource: resource.EndpointSlices, Name: "node/awaited", Values: func(o object.Object) []string {
	if len(drain.Awaits(o.(*discoveryv1.EndpointSlice))) > 0 {
		return []string{"true"}
	}
	return nil
}}

// TimedOut is the reason of the event that tells of a pod that was stopped before every node had let go of it.
const TimedOut = "DrainTimedOut"

// Config says by what is known what is led where.
type Config struct {
	// Snapshot may be nil: nothing is known then. Ready is closed once it holds all there is.
	Snapshot *view.View
	Ready    <-chan struct{}
	// Routed tells how far this node has come and has a channel that is closed when that changes; nil when it leads none.
	Routed func() (revision uint64, later <-chan struct{})
	// Await waits until all nodes have come to a revision: to all. At the end of ctx it returns who is behind. Nil: none waits.
	Await func(ctx context.Context, revision uint64) (all uint64, behind []string, err error)
}

// Follower knows how far this node and all nodes have come.
type Follower struct {
	cfg Config
	all locked.Value[asked]
	// acknowledged is what this node's lease says of it.
	acknowledged atomic.Uint64
}

// New follows by a snapshot that has the Indexes.
func New(cfg Config) *Follower { return &Follower{cfg: cfg} }

// Awaits says whether there is any node to wait for before a pod is stopped.
func (f *Follower) Awaits(pod *corev1.Pod) bool {
	return f.cfg.Snapshot != nil && f.cfg.Await != nil && (len(f.leading(pod)) > 0 || !f.complete())
}

func (f *Follower) complete() bool {
	select {
	case <-f.cfg.Ready:
		return true
	default:
		return false
	}
}

// leading are the services that lead connections to a pod.
func (f *Follower) leading(pod *corev1.Pod) []*corev1.Service {
	var out []*corev1.Service
	for _, o := range f.cfg.Snapshot.List(resource.Services, pod.Namespace) {
		if s := o.(*corev1.Service); drain.Serves(s, pod) {
			out = append(out, s)
		}
	}
	return out
}

// LetGo waits until no node leads new connections to a pod, at most for as long as limit says, and returns why that was not
// enough; nothing when it was, or ctx ended.
func (f *Follower) LetGo(ctx context.Context, pod *corev1.Pod, limit time.Duration) (why string) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var behind []string
	var err error
	revision, left := f.awaitLeft(limited, pod)
	if left {
		// The node asks once at a time, for all its pods.
		behind, err = f.await(limited, revision)
	}
	switch {
	case ctx.Err() != nil:
		return ""
	case !left:
		return "its EndpointSlices still said that it is ready"
	case errors.Is(err, context.DeadlineExceeded):
		return "not acknowledged by every node"
	case err != nil:
		return "the API server did not say whether every node had let go of it: " + err.Error()
	case len(behind) > 0:
		return "not acknowledged by " + nodesNamed(behind)
	}
	pause.For(limited, drain.Settle)
	return ""
}

// nodesShown bounds how many names a message has.
const nodesShown = 5

func nodesNamed(names []string) string {
	text := strings.Join(names[:min(nodesShown, len(names))], ", ")
	if more := len(names) - nodesShown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	if len(names) == 1 {
		return "node " + text
	}
	return "nodes " + text
}

// awaitLeft waits until no service offers a pod any more in its slices, and returns the revision of the last that did.
func (f *Follower) awaitLeft(ctx context.Context, pod *corev1.Pod) (revision uint64, left bool) {
	changed := make(chan struct{}, 1)
	defer f.cfg.Snapshot.Subscribe(func(ch view.Change) {
		if ch.Resource == resource.Services || ch.Resource == resource.EndpointSlices {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})()
	select {
	case <-ctx.Done():
		return 0, false
	case <-f.cfg.Ready:
	}
	for {
		if revision, left = f.left(pod); left {
			return revision, true
		}
		select {
		case <-ctx.Done():
			return 0, false
		case <-changed:
		}
	}
}

func (f *Follower) left(pod *corev1.Pod) (revision uint64, left bool) {
	for _, s := range f.leading(pod) {
		n, left := drain.Left(object.KeyOf(pod), behind.Slices(f.cfg.Snapshot, object.KeyOf(s)))
		if !left {
			return 0, false
		}
		revision = max(revision, n)
	}
	return revision, true
}

// asked is what is known of how far all nodes have come.
type asked struct {
	// all have come to this revision.
	all uint64
	// asking is closed when the question under way, about a revision, has been answered.
	asking chan struct{}
	about  uint64
}

// turn says what one does who waits for a revision: nothing, as all have come to it; or ask, and close done when answered;
// or wait for the answer to another's question. mine says that others wait for this one's.
func (q *asked) turn(revision uint64) (come bool, done, other chan struct{}, mine bool) {
	if revision <= q.all {
		return true, nil, nil, false
	}
	if q.asking != nil && revision >= q.about {
		return false, nil, q.asking, false
	}
	done = make(chan struct{})
	if mine = q.asking == nil; mine {
		q.asking, q.about = done, revision
	}
	return false, done, nil, mine
}

// answered notes an answer.
func (q *asked) answered(all uint64, mine bool) {
	if q.all = max(q.all, all); mine {
		q.asking, q.about = nil, math.MaxUint64
	}
}

// await has one of those who wait ask, for the earliest revision that it knows of; the others wait for that answer first.
func (f *Follower) await(ctx context.Context, revision uint64) (behind []string, err error) {
	for {
		var come, mine bool
		var done, other chan struct{}
		f.all.Do(func(q *asked) { come, done, other, mine = q.turn(revision) })
		switch {
		case come:
			return nil, nil
		case done != nil:
			all, behind, err := f.cfg.Await(ctx, revision)
			f.all.Do(func(q *asked) { q.answered(all, mine) })
			close(done)
			return behind, err
		}
		select {
		case <-other:
		case <-ctx.Done():
			// Who is behind is not known without asking.
			return nil, fmt.Errorf("still asking about revision %d: %w", revision, ctx.Err())
		}
	}
}

// Follow has the lease renewed at once when this node leads connections by newer slices, while some pod is going, or comes
// in a rollout: its node, or the rollout, may wait. What nobody waits for is acknowledged with the next heartbeat.
func (f *Follower) Follow(ctx context.Context, renew func()) {
	if f.cfg.Routed == nil {
		return
	}
	for {
		_, later := f.cfg.Routed()
		if f.Unacknowledged() {
			renew()
		}
		select {
		case <-ctx.Done():
			return
		case <-later:
		}
	}
}

// Led is the revision of the EndpointSlices up to which this node leads new connections as they say.
func (f *Follower) Led() uint64 {
	if f.cfg.Routed == nil {
		return 0
	}
	revision, _ := f.cfg.Routed()
	return revision
}

// Unacknowledged says whether somebody may wait for this node to say how far it has come.
func (f *Follower) Unacknowledged() bool {
	led, told := f.Led(), f.acknowledged.Load()
	if f.cfg.Snapshot == nil || led <= told {
		return false
	}
	return len(f.cfg.Snapshot.Indexed(resource.EndpointSlices, slicesLeaving.Name, "true")) > 0 ||
		slices.ContainsFunc(f.cfg.Snapshot.Indexed(resource.EndpointSlices, slicesAwaited.Name, "true"), func(o object.Object) bool {
			revision := drain.Revision(o.(*discoveryv1.EndpointSlice))
			return told < revision && revision <= led
		})
}

// Mark writes the acknowledgement into a lease that is to be sent.
func (f *Follower) Mark(l *coordinationv1.Lease) {
	if f.cfg.Routed != nil {
		metav1.SetMetaDataAnnotation(&l.ObjectMeta, drain.Routed, strconv.FormatUint(f.Led(), 10))
	}
}

// Told notes that a server has this lease of the node's.
func (f *Follower) Told(l *coordinationv1.Lease) {
	if revision, ok := drain.Acknowledged(l); ok {
		f.acknowledged.Store(revision)
	}
}
