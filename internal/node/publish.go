package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"coracle/internal/node/podsync"
	"coracle/internal/node/status"
	"coracle/internal/resource"
)

// publisher tells the API a pod's status, one write at a time, and again until it is accepted.
type publisher struct {
	busy    bool
	pause   time.Duration
	retryAt time.Time
	// sent is what the API accepted last and revision the pod's then: a server that stores it
	// otherwise is not told again and again.
	sent     *corev1.PodStatus
	revision string
	// since is when a status first differed that is not to be told at once.
	since time.Time
	// refused: the API will not have this status, now or ever. The pod must not be kept for it.
	refused bool
}

// passingTime is for how long a status waits for a better one, while a start is under way (status.Passing). A start that
// takes no longer is told in two writes: the pod's address, and that it runs.
const passingTime = time.Second

const (
	firstRetry   = 200 * time.Millisecond
	longestRetry = 5 * time.Second
)

// tellAPI publishes a status that differs from what the API has. It returns when to try again.
// Call it with w.mu held.
func (w *worker) tellAPI(ctx context.Context, st corev1.PodStatus, now time.Time) time.Time {
	p := &w.publish
	if p.busy {
		return time.Time{}
	}
	if p.sent != nil && p.revision == w.pod.ResourceVersion && status.Equal(&st, p.sent) {
		return time.Time{}
	}
	if now.Before(p.retryAt) {
		return p.retryAt
	}
	if w.pod.DeletionTimestamp == nil && len(w.busy) > 0 && status.Passing(&w.pod.Status, &st) {
		if p.since.IsZero() {
			p.since = now
		}
		if at := p.since.Add(passingTime); now.Before(at) {
			return at
		}
	}
	p.since = time.Time{}
	w.announce(&w.pod.Status, &st)
	p.busy = true
	next := w.pod.DeepCopy()
	next.Status = st
	w.a.wg.Go(func() {
		accepted, err := w.write(ctx, next)
		w.tell(func() { w.told(accepted, &st, err) })
	})
	return time.Time{}
}

// write updates the status. After a conflict it answers with the pod as it now is, for another try.
func (w *worker) write(ctx context.Context, next *corev1.Pod) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	obj, err := w.a.cfg.Client.Update(ctx, next, "status")
	if err == nil {
		return obj.(*corev1.Pod), nil
	}
	if !apierrors.IsConflict(err) {
		return nil, err
	}
	now, getErr := w.a.cfg.Client.Get(ctx, resource.Pods, next.Namespace, next.Name)
	if getErr != nil {
		return nil, getErr
	}
	return now.(*corev1.Pod), errConflict
}

var errConflict = fmt.Errorf("the pod was changed by another")

// told notes how a write of the status came out. Call it within tell.
func (w *worker) told(pod *corev1.Pod, st *corev1.PodStatus, err error) {
	p := &w.publish
	p.busy = false
	if pod != nil && pod.UID != w.uid {
		w.gone = true
		return
	}
	if pod != nil {
		w.adopt(pod)
	}
	switch {
	case err == nil:
		p.pause, p.retryAt, p.refused = 0, time.Time{}, false
		p.sent, p.revision = st, pod.ResourceVersion
	case errors.Is(err, errConflict):
	case apierrors.IsNotFound(err):
		w.gone = true
	default:
		p.refused = apierrors.IsInvalid(err) || apierrors.IsForbidden(err)
		p.pause = min(max(2*p.pause, firstRetry), longestRetry)
		p.retryAt = time.Now().Add(p.pause)
		level := slog.LevelWarn
		if apierrors.IsForbidden(err) { // what a node hears of a pod that was just removed
			level = slog.LevelDebug
		}
		w.a.cfg.Log.Log(context.Background(), level, "write a pod's status", "pod", w.name, "namespace", w.namespace, "err", err)
	}
}

// announce makes the events of containers that have begun to back off.
func (w *worker) announce(before, after *corev1.PodStatus) {
	for _, list := range [][]corev1.ContainerStatus{after.InitContainerStatuses, after.ContainerStatuses} {
		for i := range list {
			cs := &list[i]
			if cs.State.Waiting == nil || status.Waiting(before, cs.Name) == cs.State.Waiting.Reason {
				continue
			}
			switch cs.State.Waiting.Reason {
			case podsync.CrashLoopBackOff:
				w.a.events.Pod(w.pod, cs.Name, corev1.EventTypeWarning, "BackOff", fmt.Sprintf(
					"Back-off restarting failed container %s in pod %s_%s(%s)", cs.Name, w.name, w.namespace, w.uid))
			case podsync.ImagePullBackOff:
				w.a.events.Pod(w.pod, cs.Name, corev1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", imageOf(w.pod, cs.Name)))
				w.a.events.Pod(w.pod, cs.Name, corev1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
			}
		}
	}
}

func imageOf(pod *corev1.Pod, name string) string {
	if spec := specOf(pod, name); spec != nil {
		return spec.Image
	}
	return ""
}
