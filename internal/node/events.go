package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/client"
)

// recorder writes the node's events in the background. The same event again raises a count
// instead of making another object. Events are news, not truth: when the API does not keep up,
// or is away, they are dropped.
type recorder struct {
	client client.Interface
	node   string
	log    *slog.Logger
	queue  chan *corev1.Event
	known  map[eventKey]*corev1.Event
	order  []eventKey
	stamp  atomic.Int64 // of the last event: names are times, and no two the same
	spent  map[types.UID]*allowance
	// mute, when set, says that nobody there knows this node's pods.
	mute func() bool
}

// allowance is a token bucket: what one object may still say.
type allowance struct {
	left float64
	at   time.Time
}

// As client-go's spam filter: 25 events of one object at once, then one in five minutes.
const (
	eventBurst = 25
	eventEvery = 5 * time.Minute
)

// allow says whether an object may have another event.
func (r *recorder) allow(uid types.UID, now time.Time) bool {
	a := r.spent[uid]
	if a == nil {
		if len(r.spent) >= eventsKept {
			clear(r.spent)
		}
		a = &allowance{left: eventBurst, at: now}
		r.spent[uid] = a
	}
	a.left = min(a.left+float64(now.Sub(a.at))/float64(eventEvery), eventBurst)
	a.at = now
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

type eventKey struct {
	namespace, name, uid, field, kind, reason, message string
}

const (
	eventQueue = 256
	eventsKept = 512 // to raise counts of
)

func newRecorder(c client.Interface, node string, log *slog.Logger) *recorder {
	return &recorder{client: c, node: node, log: log, queue: make(chan *corev1.Event, eventQueue), known: map[eventKey]*corev1.Event{}, spent: map[types.UID]*allowance{}}
}

// pod records an event about a pod, or one of its containers.
func (r *recorder) pod(pod *corev1.Pod, ctr, kind, reason, message string) {
	if pod.Name == "" || r.mute != nil && r.mute() {
		return // an orphan that only the disk knew, or a server that knows none
	}
	ref := corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
	if ctr != "" {
		ref.FieldPath = fmt.Sprintf("spec.containers{%s}", ctr)
		for i := range pod.Spec.InitContainers {
			if pod.Spec.InitContainers[i].Name == ctr {
				ref.FieldPath = fmt.Sprintf("spec.initContainers{%s}", ctr)
			}
		}
	}
	r.record(ref, kind, reason, message)
}

// ofNode records an event about the node itself.
func (r *recorder) ofNode(kind, reason, message string) {
	r.record(corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: r.node, UID: ""}, kind, reason, message)
}

// volume records an event about a persistent volume.
func (r *recorder) volume(pv *corev1.PersistentVolume, kind, reason, message string) {
	r.record(corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolume", Name: pv.Name, UID: pv.UID}, kind, reason, message)
}

func (r *recorder) record(ref corev1.ObjectReference, kind, reason, message string) {
	now := metav1.Now()
	stamp := now.UnixNano()
	for last := r.stamp.Load(); ; last = r.stamp.Load() {
		stamp = max(stamp, last+1)
		if r.stamp.CompareAndSwap(last, stamp) {
			break
		}
	}
	namespace := ref.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	ev := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%x", ref.Name, stamp)},
		InvolvedObject: ref, Type: kind, Reason: reason, Message: message, Count: 1,
		FirstTimestamp: now, LastTimestamp: now,
		Source:              corev1.EventSource{Component: "kubelet", Host: r.node},
		ReportingController: "kubelet", ReportingInstance: r.node,
	}
	select {
	case r.queue <- ev:
	default:
		r.log.Debug("event dropped", "reason", reason, "name", ref.Name)
	}
}

func (r *recorder) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-r.queue:
			r.write(ctx, ev)
		}
	}
}

func (r *recorder) write(ctx context.Context, ev *corev1.Event) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	o := ev.InvolvedObject
	if !r.allow(o.UID, ev.LastTimestamp.Time) {
		return
	}
	key := eventKey{o.Namespace, o.Name, string(o.UID), o.FieldPath, ev.Type, ev.Reason, ev.Message}
	if old := r.known[key]; old != nil {
		next := old.DeepCopy()
		next.Count++
		next.LastTimestamp = ev.LastTimestamp
		next.ResourceVersion = ""
		updated, err := r.client.Update(ctx, next, "")
		if err == nil {
			r.known[key] = updated.(*corev1.Event)
			return
		}
		delete(r.known, key)
		if !apierrors.IsNotFound(err) {
			r.log.Debug("event not counted", "reason", ev.Reason, "err", err)
		}
	}
	made, err := r.client.Create(ctx, ev)
	if err != nil {
		r.log.Debug("event not written", "reason", ev.Reason, "name", o.Name, "err", err)
		return
	}
	r.remember(key, made.(*corev1.Event))
}

func (r *recorder) remember(key eventKey, ev *corev1.Event) {
	if len(r.order) >= eventsKept {
		delete(r.known, r.order[0])
		r.order = r.order[1:]
	}
	r.known[key] = ev
	r.order = append(r.order, key)
}
