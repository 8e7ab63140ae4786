package store

import (
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// lead is how long before its deadline a watch gets a last bookmark, so that the client comes
// back from a recent revision; upstream's watch cache has the same.
const lead = 2 * time.Second

func (w *watcher) run() {
	defer close(w.result)
	defer w.leave()
	if !w.sendInitial() {
		return
	}
	if w.c.res.WatchStarted != nil {
		w.c.res.WatchStarted(w.ctx)
	}
	var farewell <-chan time.Time
	if deadline, ok := w.ctx.Deadline(); ok && w.bookmarks {
		timer := time.NewTimer(time.Until(deadline) - lead)
		defer timer.Stop()
		farewell = timer.C
	}
	var batch []entry
	for {
		w.mu.Lock()
		batch, w.queue = w.queue, batch[:0]
		over := w.over
		w.mu.Unlock()
		for i, e := range batch {
			if !w.handle(e) {
				return
			}
			batch[i] = entry{}
		}
		if over != nil {
			status := over.(apierrors.APIStatus).Status()
			w.send(watch.Event{Type: watch.Error, Object: &status})
			return
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-w.wake:
		case <-w.ctx.Done():
			return
		case <-farewell:
			farewell = nil
			w.push(entry{bookmark: w.c.s.dispatched.Load(), farewell: true})
		}
	}
}

func (w *watcher) leave() {
	w.cancel()
	if !w.joined {
		return
	}
	w.c.watchMu.Lock()
	w.c.watches.remove(w)
	w.c.watchMu.Unlock()
	if w.bookmarks {
		w.c.s.bookmarks.leave()
	}
}

func (w *watcher) sendInitial() bool {
	if w.initialAt == 0 {
		return true
	}
	for i, v := range w.initial {
		obj := v.value()
		if !w.shared {
			alone := newCached(obj)
			alone.solo = true
			obj = alone
		}
		if !w.send(watch.Event{Type: watch.Added, Object: obj}) {
			return false
		}
		w.initial[i] = nil
	}
	w.initial = nil
	return !w.endMark || w.sendBookmark(w.initialAt, map[string]string{metav1.InitialEventsAnnotationKey: "true"})
}

func (w *watcher) sendBookmark(rev int64, annotations map[string]string) bool {
	obj := w.c.res.New()
	m, err := meta.Accessor(obj)
	if err != nil {
		return w.fail(err)
	}
	m.SetAnnotations(annotations)
	if err := setRevision(obj, rev); err != nil {
		return w.fail(err)
	}
	w.last = rev
	return w.send(watch.Event{Type: watch.Bookmark, Object: obj})
}

// handle sends what the entry means to this watcher; false ends the watch.
func (w *watcher) handle(e entry) bool {
	if e.delivery == nil {
		if e.bookmark <= w.last && !e.farewell {
			return true
		}
		return w.sendBookmark(max(e.bookmark, w.last), nil)
	}
	if e.delivery.cur.rev <= w.start || !w.covers(e.delivery.it.key) {
		return true
	}
	ev, ok, err := w.event(e.delivery)
	if err != nil {
		return w.fail(err)
	}
	if !ok {
		return true
	}
	w.last = e.delivery.cur.rev
	return w.send(ev)
}

// event is what the change means under the watcher's predicate: an object that begins to match
// is added, one that ceases to is deleted.
func (w *watcher) event(d *delivery) (ev watch.Event, ok bool, err error) {
	before, after, err := w.matched(d)
	if err != nil {
		return ev, false, err
	}
	switch {
	case after && before:
		ev.Type = watch.Modified
	case after:
		ev.Type = watch.Added
	case before:
		ev.Type = watch.Deleted
		ev.Object, err = d.gone(w.shared)
		return ev, err == nil, err
	default:
		return ev, false, nil
	}
	ev.Object, err = d.current(w.shared)
	return ev, err == nil, err
}

// matched tells whether the predicate selects the object before and after the change.
func (w *watcher) matched(d *delivery) (before, after bool, err error) {
	before, after = d.prev != nil, !d.cur.dead
	if w.matches == nil {
		return before, after, nil
	}
	if before {
		obj, err := d.c.object(d.it.key, d.prev)
		if err != nil {
			return false, false, err
		}
		before = w.matches(obj)
	}
	if after {
		obj, err := d.c.object(d.it.key, d.cur)
		if err != nil {
			return false, false, err
		}
		after = w.matches(obj)
	}
	return before, after, nil
}

func (w *watcher) fail(err error) bool {
	status := apierrors.NewInternalError(err).Status()
	w.send(watch.Event{Type: watch.Error, Object: &status})
	return false
}

func (w *watcher) send(ev watch.Event) bool {
	select {
	case w.result <- ev:
		return true
	default:
	}
	select {
	case w.result <- ev:
		return true
	case <-w.ctx.Done():
		return false
	}
}
