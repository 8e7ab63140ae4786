package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/behind"
	"coracle/internal/drain"
	"coracle/internal/node/pause"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/view"
)

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

// drainTimedOut is the reason of the event that tells of a pod that was stopped before every node had let go of it.
const drainTimedOut = "DrainTimedOut"

// drains says whether the worker's pod, which ends, is still to be kept as it is. It begins the wait when it is asked
// first. w.mu is held.
func (w *worker) drains(ctx context.Context) bool {
	if w.drainBegun || w.gone || w.pod.DeletionTimestamp == nil {
		return w.draining
	}
	w.drainBegun = true
	a, pod := w.a, w.pod
	if a.cfg.Snapshot == nil || a.cfg.AwaitRouted == nil || len(a.leading(pod)) == 0 && a.snapshotKinds() {
		return false
	}
	limit, problem := drain.Limit(pod)
	if problem != nil {
		a.events.Pod(pod, "", corev1.EventTypeWarning, "InvalidDrainTimeout", problem.Error())
	}
	if limit <= 0 {
		return false
	}
	w.draining = true
	a.wg.Go(func() {
		a.letGo(ctx, pod, limit)
		w.tell(func() { w.draining = false })
	})
	return true
}

func (a *agent) snapshotKinds() bool {
	select {
	case <-a.cfg.SnapshotReady:
		return true
	default:
		return false
	}
}

// leading are the services that lead connections to a pod.
func (a *agent) leading(pod *corev1.Pod) []*corev1.Service {
	var out []*corev1.Service
	for _, o := range a.cfg.Snapshot.List(resource.Services, pod.Namespace) {
		if s := o.(*corev1.Service); drain.Serves(s, pod) {
			out = append(out, s)
		}
	}
	return out
}

// letGo waits until no node leads new connections to a pod, at most for as long as limit says, and tells when that was not
// enough.
func (a *agent) letGo(ctx context.Context, pod *corev1.Pod, limit time.Duration) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var why string
	var behind []string
	var err error
	revision, left := a.awaitLeft(limited, pod)
	if left {
		// The node asks once at a time, for all its pods.
		behind, err = a.routed.await(limited, revision, a.cfg.AwaitRouted)
	}
	switch {
	case ctx.Err() != nil:
		return
	case !left:
		why = "its EndpointSlices still said that it is ready"
	case errors.Is(err, context.DeadlineExceeded):
		why = "not acknowledged by every node"
	case err != nil:
		why = "the API server did not say whether every node had let go of it: " + err.Error()
	case len(behind) > 0:
		why = "not acknowledged by " + nodesNamed(behind)
	default:
		pause.For(limited, drain.Settle)
		return
	}
	a.events.Pod(pod, "", corev1.EventTypeWarning, drainTimedOut,
		fmt.Sprintf("Stopped %s after its deletion though new connections may still be led to it: %s", limit, why))
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
func (a *agent) awaitLeft(ctx context.Context, pod *corev1.Pod) (revision uint64, left bool) {
	changed := make(chan struct{}, 1)
	defer a.cfg.Snapshot.Subscribe(func(ch view.Change) {
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
	case <-a.cfg.SnapshotReady:
	}
	for {
		if revision, left = a.left(pod); left {
			return revision, true
		}
		select {
		case <-ctx.Done():
			return 0, false
		case <-changed:
		}
	}
}

func (a *agent) left(pod *corev1.Pod) (revision uint64, left bool) {
	for _, s := range a.leading(pod) {
		n, left := drain.Left(object.KeyOf(pod), behind.Slices(a.cfg.Snapshot, object.KeyOf(s)))
		if !left {
			return 0, false
		}
		revision = max(revision, n)
	}
	return revision, true
}

// routedBy is what is known of how far all nodes have come.
type routedBy struct {
	mu sync.Mutex
	// all have come to this revision.
	all uint64
	// asking is closed when the question under way, about a revision, has been answered.
	asking chan struct{}
	about  uint64
}

// await has one of those who wait ask, for the earliest revision that it knows of; the others wait for that answer first.
func (r *routedBy) await(ctx context.Context, revision uint64, ask func(context.Context, uint64) (uint64, []string, error)) (behind []string, err error) {
	for {
		r.mu.Lock()
		if revision <= r.all {
			r.mu.Unlock()
			return nil, nil
		}
		other := r.asking
		if other == nil || revision < r.about {
			return r.ask(ctx, revision, ask)
		}
		r.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			// Who is behind is not known without asking.
			return nil, fmt.Errorf("still asking about revision %d: %w", revision, ctx.Err())
		}
	}
}

// ask asks with r.mu held, and lets go of it.
func (r *routedBy) ask(ctx context.Context, revision uint64, ask func(context.Context, uint64) (uint64, []string, error)) ([]string, error) {
	done := make(chan struct{})
	mine := r.asking == nil
	if mine {
		r.asking, r.about = done, revision
	}
	r.mu.Unlock()
	all, behind, err := ask(ctx, revision)
	r.mu.Lock()
	if r.all = max(r.all, all); mine {
		r.asking, r.about = nil, math.MaxUint64
	}
	r.mu.Unlock()
	close(done)
	return behind, err
}

// acknowledge has the lease renewed at once when this node leads connections by newer slices, while some pod is going, or comes
// in a rollout: its node, or the rollout, may wait. What nobody waits for is acknowledged with the next heartbeat.
func (a *agent) acknowledge(ctx context.Context) {
	if a.cfg.Routed == nil {
		return
	}
	for {
		_, later := a.cfg.Routed()
		if a.unacknowledged() {
			a.renewNow()
		}
		select {
		case <-ctx.Done():
			return
		case <-later:
		}
	}
}

// led is the revision of the EndpointSlices up to which this node leads new connections as they say.
func (a *agent) led() uint64 {
	if a.cfg.Routed == nil {
		return 0
	}
	revision, _ := a.cfg.Routed()
	return revision
}

// unacknowledged says whether somebody may wait for this node to say how far it has come.
func (a *agent) unacknowledged() bool {
	led, told := a.led(), a.acknowledged.Load()
	if a.cfg.Snapshot == nil || led <= told {
		return false
	}
	return len(a.cfg.Snapshot.Indexed(resource.EndpointSlices, slicesLeaving.Name, "true")) > 0 ||
		slices.ContainsFunc(a.cfg.Snapshot.Indexed(resource.EndpointSlices, slicesAwaited.Name, "true"), func(o object.Object) bool {
			revision := drain.Revision(o.(*discoveryv1.EndpointSlice))
			return told < revision && revision <= led
		})
}

// markRouted writes the acknowledgement into a lease.
func (a *agent) markRouted(l *coordinationv1.Lease) {
	if a.cfg.Routed != nil {
		metav1.SetMetaDataAnnotation(&l.ObjectMeta, drain.Routed, strconv.FormatUint(a.led(), 10))
	}
}
