package node

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/fit"
	"coracle/internal/node/container"
	"coracle/internal/node/objects"
	"coracle/internal/node/podsync"
	"coracle/internal/node/status"
	"coracle/internal/node/sysctl"
)

// worker carries out podsync's decisions for one pod, one goroutine per pod, asleep until
// something is told to it. Operations run beside it, so that a pod waiting for an image can still
// be deleted; they tell the worker when they end.
type worker struct {
	a         *agent
	uid       types.UID
	namespace string
	name      string
	before    []*worker // earlier pods of this name, and those that make room for this one, until they have stopped
	after     []*worker // those that have this one in their before; a.mu guards it

	wake    chan struct{}
	recall  recall
	stopped atomic.Bool   // nothing of the pod runs any more
	looked  chan struct{} // closed once it is known what the runtime has of the pod
	look    func()        // closes it

	mu    sync.Mutex // guards all below
	pod   *corev1.Pod
	gone  bool
	world podsync.World
	stale bool // world may have changed
	// writes counts ended operations, seen those that world includes: nothing is decided on a
	// world older than our own last write.
	writes, seen uint64
	mounted      bool
	mounts       uint64 // counts how often the volumes were made ready
	released     bool
	remount      bool // an object shown by a volume has changed
	refresh      time.Time
	measure      time.Time // when volumes with a size limit are measured next
	evicted      *podsync.Stop
	ending       time.Time
	left         bool // its addresses are not its own any more, or soon
	drainBegun   bool // it is known whether the pod drains: draining
	draining     bool
	failures     map[string]podsync.Failure
	busy         map[string]*operation
	probes       map[string]*probed
	messages     map[string]string        // termination messages by container ID
	ends         map[string]chan struct{} // closed when a container no longer runs
	awaited      map[objects.Ref]func()   // what a container that cannot start refers to; stops watching
	publish      publisher
	kept         kept
}

// operation is one step under way.
type operation struct {
	cancel   context.CancelFunc
	mu       sync.Mutex
	deadline time.Time
	hurry    context.CancelFunc // interrupts the present phase of a kill
}

func newWorker(a *agent, pod *corev1.Pod, gone bool) *worker {
	w := &worker{
		a: a, uid: pod.UID, namespace: pod.Namespace, name: pod.Name, pod: pod, gone: gone, stale: true,
		wake: make(chan struct{}, 1), failures: map[string]podsync.Failure{}, busy: map[string]*operation{},
		probes: map[string]*probed{}, messages: map[string]string{}, ends: map[string]chan struct{}{}, awaited: map[objects.Ref]func(){},
	}
	w.looked = make(chan struct{})
	w.look = sync.OnceFunc(func() { close(w.looked) })
	w.refuseSysctls()
	return w
}

// refuseSysctls ends a pod that has not begun and asks for a kernel parameter that this node does not allow.
func (w *worker) refuseSysctls() {
	if w.gone || w.pod.Status.StartTime != nil || w.pod.DeletionTimestamp != nil || podsync.Terminal(w.pod.Status.Phase) {
		return
	}
	if why := w.a.cfg.UnsafeSysctls.Refuses(w.pod); why != "" {
		w.evicted = &podsync.Stop{Reason: sysctl.Forbidden, Message: "Pod was rejected: " + why}
		w.a.events.Pod(w.pod, "", corev1.EventTypeWarning, sysctl.Forbidden, why)
	}
}

// tell changes what the worker knows and wakes it.
func (w *worker) tell(change func()) {
	w.mu.Lock()
	change()
	w.mu.Unlock()
	w.nudge()
}

// nudge wakes the worker.
func (w *worker) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// adopt takes a newer version of the pod; an older one, which a watch may deliver after the
// answer to our own write, is ignored. Call it within tell.
func (w *worker) adopt(pod *corev1.Pod) {
	if pod.UID == w.uid && !older(pod.ResourceVersion, w.pod.ResourceVersion) {
		if w.mounted && downwardChanged(w.pod, pod) {
			w.remount = true
		}
		w.pod = pod
		w.govern()
	}
}

func older(a, b string) bool {
	x, errX := strconv.ParseUint(a, 10, 64)
	y, errY := strconv.ParseUint(b, 10, 64)
	return errX == nil && errY == nil && x < y
}

func (w *worker) forgetFailure(key string) { delete(w.failures, key) }

// run works until the pod has finished or ctx ends.
func (w *worker) run(ctx context.Context) {
	defer w.look()
	defer w.stopProbes()
	defer w.stopAwaiting()
	defer w.tell(func() {
		w.world = podsync.World{}
		w.closeEnds()
	})
	observeRetry := 100 * time.Millisecond
	for {
		again, ok := w.observe(ctx, &observeRetry)
		if ok {
			var finished bool
			if again, finished = w.step(ctx); finished {
				return
			}
		}
		timer := time.NewTimer(untilOr(again, 24*time.Hour))
		select {
		case <-ctx.Done():
			timer.Stop()
			w.cancelAll()
			return
		case <-w.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func untilOr(t time.Time, never time.Duration) time.Duration {
	if t.IsZero() {
		return never
	}
	return max(time.Until(t), 0)
}

// observe brings the world up to date if it may have changed. When the runtime does not answer,
// ok is false and again says when to ask again.
func (w *worker) observe(ctx context.Context, retry *time.Duration) (again time.Time, ok bool) {
	w.mu.Lock()
	stale, writes := w.stale, w.writes
	w.stale = false
	w.mu.Unlock()
	if !stale {
		return time.Time{}, true
	}
	world, err := w.a.cri.Observe(ctx, string(w.uid))
	if err != nil {
		if ctx.Err() == nil {
			w.a.cfg.Log.Debug("observe a pod", "pod", w.name, "namespace", w.namespace, "err", err)
		}
		w.mu.Lock()
		w.stale = true
		w.mu.Unlock()
		*retry = min(2**retry, 5*time.Second)
		return time.Now().Add(*retry), false
	}
	*retry = 100 * time.Millisecond
	w.readMessages(&world)
	w.mu.Lock()
	w.world, w.seen = world, writes
	w.govern()
	w.look()
	w.meet()
	w.closeEnds()
	w.mu.Unlock()
	return time.Time{}, true
}

// step decides once and begins what was decided. It returns when to decide again.
func (w *worker) step(ctx context.Context) (again time.Time, finished bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if w.seen != w.writes {
		return now, false // an operation ended while we looked
	}
	w.followProbes(ctx, now) // first: it takes over what an earlier agent knew
	in := w.input(now)
	if w.ending.IsZero() && podsync.Ending(in) {
		w.ending = now
		in.EndingSince = now
	}
	if !w.ending.IsZero() {
		in.Draining = w.drains(ctx)
		for id := range w.probes {
			w.calmProbes(id)
		}
	}
	st := status.Of(&in, w.a.host)
	if podsync.Terminal(st.Phase) {
		w.a.gate.Vacate(w.uid) // before the API knows, and others are placed for it
	}
	told := status.Equal(&st, &w.pod.Status)
	in.Published = told || w.publish.refused
	if w.a.knowsPods() {
		w.remember(&st, told)
	}
	d := podsync.Decide(in)
	if d.Stopped && !w.stopped.Swap(true) {
		w.a.wakeSuccessors(w)
	}
	if d.Finished {
		return time.Time{}, true
	}
	for _, step := range d.Steps {
		w.begin(ctx, step)
	}
	again = earliest(d.Again, status.Again(&in), w.measureVolumes(ctx, now))
	if w.a.trust.Serves() { // a server that is not ours must not change what volumes show
		w.refreshVolumes(ctx, now)
		again = earliest(again, w.refresh)
	}
	if !told && !w.gone && w.a.toldPods() && w.a.trust.Serves() {
		again = earliest(again, w.tellAPI(ctx, st, now))
	}
	return again, false
}

// knowsPods says whether the pods of this node are known, from a server or from the disk.
func (a *agent) knowsPods() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.listed || a.recalled
}

// toldPods says whether a server has told which they are.
func (a *agent) toldPods() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.listed
}

func earliest(times ...time.Time) time.Time {
	var out time.Time
	for _, t := range times {
		if !t.IsZero() && (out.IsZero() || t.Before(out)) {
			out = t
		}
	}
	return out
}

// input gathers what a decision depends on.
func (w *worker) input(now time.Time) podsync.Input {
	in := podsync.Input{
		Pod: w.pod, Gone: w.gone, Stop: w.evicted, World: w.world, Mounted: w.mounted, Released: w.released,
		Failures: w.failures, EndingSince: w.ending, Now: now,
		Blocked: w.blocked(), Probes: make(map[string]podsync.Probes, len(w.probes)),
		Busy: make(map[string]time.Time, len(w.busy)),
	}
	for id, p := range w.probes {
		in.Probes[id] = p.verdict
	}
	for key, op := range w.busy {
		op.mu.Lock()
		in.Busy[key] = op.deadline
		op.mu.Unlock()
	}
	return in
}

// blocked says whether the pod must wait: the node's pods are not all known yet, or an earlier
// pod of this name, or one that makes room for it, still runs.
func (w *worker) blocked() bool {
	if !w.a.knowsPods() {
		return true
	}
	w.before = slices.DeleteFunc(w.before, func(b *worker) bool { return b.stopped.Load() })
	return len(w.before) > 0
}

func (w *worker) facts() container.Facts {
	f := container.Facts{HostIPs: w.a.host.IPs}
	switch box := w.world.Newest(); {
	case w.pod.Spec.HostNetwork:
		f.PodIPs = w.a.host.IPs
	case box != nil:
		f.PodIPs = box.IPs
	}
	return f
}

func (w *worker) logDir() string {
	return container.LogDir(w.a.cfg.logRoot(), w.namespace, w.name, string(w.uid))
}

func (w *worker) cancelAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, op := range w.busy {
		op.cancel()
	}
}

// snapshot returns what operations read: none of it may be changed.
func (w *worker) snapshot() (pod *corev1.Pod, facts container.Facts) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod, w.facts()
}

// meet tells the name server who asks from the pod's address. Call it with w.mu held.
func (w *worker) meet() {
	if w.a.names == nil || w.pod.Spec.HostNetwork {
		return
	}
	var at netip.Addr
	for _, ip := range w.facts().PodIPs {
		if a, err := netip.ParseAddr(ip); err == nil && a.Is4() && !w.gone {
			at = a // it asks at an IPv4 address, from its own
		}
	}
	w.a.names.Meet(w.uid, at, func() []string { return w.a.resolving.DNS().Searches(w.pod) })
}

// refuse ends a pod before it begins. Its worker has not run yet.
func (w *worker) refuse(r *fit.Refusal) {
	w.evicted = &podsync.Stop{Reason: r.Reason, Message: r.Status()}
	w.a.events.Pod(w.pod, "", corev1.EventTypeWarning, r.Reason, r.Message)
}

// giveWay ends a pod whose room a critical one needs.
func (w *worker) giveWay() {
	w.tell(func() {
		if w.evicted != nil {
			return
		}
		w.evicted = &podsync.Stop{Reason: fit.Preempting, Message: fit.Preempted}
		w.a.events.Pod(w.pod, "", corev1.EventTypeWarning, fit.Preempting, fit.Preempted)
	})
}
