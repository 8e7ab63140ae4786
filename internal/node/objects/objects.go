// Package objects keeps an eye on single API objects: the ConfigMaps, Secrets and claims that the
// pods of one node refer to.
//
// It owns one watch for each object that somebody subscribed to, shared by all who did, and ended
// with the last. It refuses watches of whole kinds: a node sees of the cluster what its pods name.
package objects

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client"
	"coracle/internal/resource"
)

// Ref names one object.
type Ref struct {
	Resource  resource.Resource
	Namespace string
	Name      string
}

// Hub shares watches of single objects. Its methods are safe for concurrent use.
type Hub struct {
	ctx    context.Context
	client client.Interface
	log    *slog.Logger

	mu      sync.Mutex
	watched map[Ref]*entry
}

type entry struct {
	cancel      context.CancelFunc
	subscribers map[*func()]struct{}
	synced      bool
	object      client.Object // nil when it does not exist
}

// NewHub returns a hub whose watches end with ctx.
func NewHub(ctx context.Context, c client.Interface, log *slog.Logger) *Hub {
	return &Hub{ctx: ctx, client: c, log: log, watched: map[Ref]*entry{}}
}

// Subscribe calls notify, from a goroutine of its own, after each change to the object, the first
// look included, until cancelled.
func (h *Hub) Subscribe(ref Ref, notify func()) (cancel func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.watched[ref]
	if e == nil {
		ctx, stop := context.WithCancel(h.ctx)
		e = &entry{cancel: stop, subscribers: map[*func()]struct{}{}}
		h.watched[ref] = e
		go h.follow(ctx, ref, e)
	}
	key := &notify
	e.subscribers[key] = struct{}{}
	if e.synced {
		go notify() // the first look was before this subscriber's time
	}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(e.subscribers, key)
		if len(e.subscribers) == 0 && h.watched[ref] == e {
			e.cancel()
			delete(h.watched, ref)
		}
	}
}

// Get returns an object: what the watch last saw where there is one, else what the API answers.
func (h *Hub) Get(ctx context.Context, ref Ref) (client.Object, error) {
	h.mu.Lock()
	e := h.watched[ref]
	if e != nil && e.synced {
		obj := e.object
		h.mu.Unlock()
		if obj == nil {
			return nil, apierrors.NewNotFound(ref.Resource.GroupResource(), ref.Name)
		}
		return obj, nil
	}
	h.mu.Unlock()
	return h.client.Get(ctx, ref.Resource, ref.Namespace, ref.Name)
}

// follow lists and watches one object for ever, with a pause after each failure.
func (h *Hub) follow(ctx context.Context, ref Ref, e *entry) {
	pause := time.Second
	for ctx.Err() == nil {
		err := h.watch(ctx, ref, e)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			pause = time.Second
			continue
		}
		h.log.Debug("watch of an object broke", "resource", ref.Resource.String(), "namespace", ref.Namespace, "name", ref.Name, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause + rand.N(pause)):
		}
		pause = min(2*pause, 30*time.Second)
	}
}

func (h *Hub) watch(ctx context.Context, ref Ref, e *entry) error {
	opts := client.ListOptions{Namespace: ref.Namespace, FieldSelector: "metadata.name=" + ref.Name}
	items, revision, err := h.client.List(ctx, ref.Resource, opts)
	if err != nil {
		return err
	}
	var now client.Object
	if len(items) > 0 {
		now = items[0]
	}
	h.saw(e, now)
	opts.Revision = revision
	w, err := h.client.Watch(ctx, ref.Resource, opts)
	if err != nil {
		return err
	}
	defer w.Stop()
	for ev := range w.ResultChan() {
		switch ev.Type {
		case watch.Added, watch.Modified:
			if obj, ok := ev.Object.(client.Object); ok {
				h.saw(e, obj)
			}
		case watch.Deleted:
			h.saw(e, nil)
		case watch.Error:
			return apierrors.FromObject(ev.Object)
		}
	}
	return nil
}

func (h *Hub) saw(e *entry, obj client.Object) {
	h.mu.Lock()
	same := e.synced && ((obj == nil && e.object == nil) ||
		(obj != nil && e.object != nil && obj.GetResourceVersion() == e.object.GetResourceVersion() && obj.GetUID() == e.object.GetUID()))
	e.object, e.synced = obj, true
	var notify []func()
	if !same {
		for f := range e.subscribers {
			notify = append(notify, *f)
		}
	}
	h.mu.Unlock()
	for _, f := range notify {
		f()
	}
}
