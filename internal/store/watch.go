package store

import (
	"context"
	"errors"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
)

// entry is one element of a watcher's queue: a change or a bookmark.
type entry struct {
	delivery *delivery
	bookmark int64
	farewell bool // a bookmark to be sent even if it tells nothing new
}

// watcher implements watch.Interface. Its goroutine filters and sends; the dispatcher only
// appends to its queue, so that no watcher ever holds up a writer.
type watcher struct {
	c         *Collection
	ctx       context.Context
	cancel    context.CancelFunc
	place     place
	key       string
	recursive bool
	pred      storage.SelectionPredicate
	matches   func(runtime.Object) bool // nil takes all
	shared    bool
	bookmarks bool  // progress at intervals
	progress  bool  // progress on request
	start     int64 // changes up to here are not sent
	joined    bool
	limit     int
	initial   []*version // decoded
	initialAt int64      // when not 0, revision of the initial events and of the bookmark that ends them
	endMark   bool
	result    chan watch.Event

	mu    sync.Mutex
	queue []entry
	over  error
	wake  chan struct{}

	last int64 // newest revision the client knows of; the goroutine's own
}

// Watch implements storage.Interface. See Shared for what events carry. A watcher that falls
// too far behind gets an ERROR event (429, come back from the last revision seen) and is closed.
func (c *Collection) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	key, err := storage.PrepareKey(c.prefix, key, opts.Recursive)
	if err != nil {
		return nil, err
	}
	from, err := parseRevision(opts.ResourceVersion)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	w := &watcher{
		c: c, key: key, recursive: opts.Recursive, pred: opts.Predicate, shared: isShared(ctx),
		place: c.watches.placeOf(c.res.Prefix, key, opts.Recursive, opts.Predicate), matches: matcher(c, opts.Predicate),
		bookmarks: opts.Predicate.AllowWatchBookmarks || opts.ProgressNotify, progress: opts.ProgressNotify,
		limit: c.s.queue, result: make(chan watch.Event, 100), wake: make(chan struct{}, 1),
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	wantInitial, err := w.register(from, opts)
	if err == nil && wantInitial {
		err = w.list(opts)
	}
	if err != nil && ctx.Err() == nil {
		w.leave()
		if errors.Is(err, ErrClosed) || storage.IsTooLargeResourceVersion(err) {
			return nil, err
		}
		return failedWatch(err), nil
	}
	go w.run()
	return w, nil
}

// failedWatch is a watch that ends with err, the way upstream's storage reports an expired revision.
func failedWatch(err error) watch.Interface {
	w := watch.NewRaceFreeFake()
	status := apierrors.NewInternalError(err).Status()
	if s := apierrors.APIStatus(nil); errors.As(err, &s) {
		status = s.Status()
	}
	w.Error(&status)
	w.Stop()
	return w
}

// register joins the stream of changes with no gap to what the client has.
func (w *watcher) register(from int64, opts storage.ListOptions) (wantInitial bool, err error) {
	c := w.c
	wantInitial = from == 0 && opts.SendInitialEvents == nil || opts.SendInitialEvents != nil && *opts.SendInitialEvents
	c.watchMu.Lock()
	defer c.watchMu.Unlock()
	if c.watches.closed {
		return false, ErrClosed
	}
	now := c.s.durable.Load()
	if wantInitial && from > now {
		return false, storage.NewTooLargeResourceVersionError(uint64(from), uint64(now), 1)
	}
	if from > now {
		// This server has never told anybody of that revision. Upstream waits for it, because another
		// of its servers may be ahead; here it is of another store, or of a part that was lost. Expired
		// is what client-go's reflectors answer by listing again.
		return false, apierrors.NewResourceExpired(fmt.Sprintf(watchAhead, from, now))
	}
	w.start = from
	if wantInitial || from == 0 {
		w.start = now
	} else if err := w.replay(from); err != nil {
		return false, err
	}
	w.last = w.start
	c.watches.add(w)
	if w.bookmarks {
		c.s.bookmarks.join(w.start < now)
	}
	w.joined = true
	return wantInitial, nil
}

// list collects the initial events at the revision from which the watcher takes changes.
func (w *watcher) list(opts storage.ListOptions) error {
	pred := opts.Predicate
	pred.Limit, pred.Continue = 0, ""
	l := &listing{c: w.c, prefix: w.key, end: prefixEnd(w.key), single: !w.recursive, rev: w.start, from: w.key, pred: pred}
	if err := l.collect(w.ctx); err != nil {
		if errors.Is(err, errForgotten) {
			return apierrors.NewResourceExpired(watchExpired)
		}
		return err
	}
	w.initial, w.initialAt = l.versions, w.start
	w.endMark = opts.SendInitialEvents != nil && opts.Predicate.AllowWatchBookmarks
	return nil
}

// replay queues the retained changes after from. It needs watchMu held.
func (w *watcher) replay(from int64) error {
	w.c.mu.RLock()
	defer w.c.mu.RUnlock()
	if from < w.c.past.floor {
		return apierrors.NewResourceExpired(watchExpired)
	}
	for _, ch := range w.c.past.after(from) {
		if w.covers(ch.it.key) {
			w.queue = append(w.queue, entry{delivery: &delivery{change: ch}})
		}
	}
	w.limit += len(w.queue) // what was retained for it is not its fault
	return nil
}

func (w *watcher) covers(key string) bool {
	if !w.recursive {
		return key == w.key
	}
	return len(key) > len(w.key) && key[:len(w.key)] == w.key
}

// matcher returns the cheapest function that decides as pred does, nil for everything.
func matcher(c *Collection, pred storage.SelectionPredicate) func(runtime.Object) bool {
	if pred.Empty() {
		return nil
	}
	if pred.ShardSelector == nil && (pred.Field == nil || pred.Field.Empty()) {
		return func(obj runtime.Object) bool { return labelsMatch(pred.Label, obj) }
	}
	if pred.ShardSelector == nil && c.indexedOnly(pred) {
		return func(obj runtime.Object) bool {
			for _, r := range pred.Field.Requirements() {
				if c.res.Index[r.Field](obj) != r.Value {
					return false
				}
			}
			return pred.Label == nil || pred.Label.Empty() || labelsMatch(pred.Label, obj)
		}
	}
	return func(obj runtime.Object) bool {
		ok, err := pred.Matches(obj)
		return err == nil && ok
	}
}

func labelsMatch(sel labels.Selector, obj runtime.Object) bool {
	m, err := meta.Accessor(obj)
	return err == nil && sel.Matches(labels.Set(m.GetLabels()))
}

// indexedOnly tells whether every field requirement is an exact match of an indexed field.
func (c *Collection) indexedOnly(pred storage.SelectionPredicate) bool {
	for _, r := range pred.Field.Requirements() {
		if _, ok := pred.Field.RequiresExactMatch(r.Field); !ok || c.res.Index[r.Field] == nil {
			return false
		}
	}
	return true
}

// sharedPatience is how much further than others a watcher that shares the stored objects may fall behind.
const sharedPatience = 10

// push appends to the queue; it never blocks.
func (w *watcher) push(e entry) {
	limit := max(w.limit, int(w.c.itemCount.Load()))
	if w.shared {
		limit *= sharedPatience
	}
	w.mu.Lock()
	if w.over == nil {
		if len(w.queue) >= limit {
			w.over = apierrors.NewTooManyRequests(fmt.Sprintf("the watch fell %d events behind and was closed: watch again from the last resourceVersion received", len(w.queue)), 1)
			w.queue = nil
		} else {
			w.queue = append(w.queue, e)
		}
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// closeWatches ends all watches of a collection.
func (c *Collection) closeWatches() {
	c.watchMu.Lock()
	defer c.watchMu.Unlock()
	c.watches.closed = true
	c.watches.each(func(w *watcher) { w.cancel() })
}

// Stop implements watch.Interface.
func (w *watcher) Stop() { w.cancel() }

// ResultChan implements watch.Interface.
func (w *watcher) ResultChan() <-chan watch.Event { return w.result }

// RequestWatchProgress implements storage.Interface: watches opened with ProgressNotify get a bookmark.
func (c *Collection) RequestWatchProgress(context.Context) error {
	c.bookmark(func(w *watcher) bool { return w.progress })
	return nil
}
