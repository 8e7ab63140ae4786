package view

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// Source is one kind to follow, whole or in part.
type Source struct {
	Resource resource.Resource
	// Namespace, LabelSelector and FieldSelector narrow it, in the API's text form.
	Namespace, LabelSelector, FieldSelector string
	// Keep, when set, returns what the snapshot keeps of an object, which it may change; nil keeps all.
	Keep func(object.Object) object.Object
}

func (s *Source) keep(obj object.Object) object.Object {
	if s.Keep == nil {
		return obj
	}
	return s.Keep(obj)
}

// Following is a snapshot being kept true.
type Following struct {
	synced chan struct{}
	done   chan struct{}
}

// Synced is closed when every kind has been listed once.
func (f *Following) Synced() <-chan struct{} { return f.synced }

// Done is closed when following has ended, after its context did.
func (f *Following) Done() <-chan struct{} { return f.done }

// Follow keeps v true to the cluster for whole kinds until ctx ends.
func Follow(ctx context.Context, c client.Interface, v *View, resources ...resource.Resource) *Following {
	sources := make([]Source, len(resources))
	for i, r := range resources {
		sources[i] = Source{Resource: r}
	}
	return FollowSources(ctx, c, v, sources...)
}

// FollowSources is Follow for parts of kinds: each kind at most once. A list, then a watch from
// its very revision, so that nothing is missed; a broken watch resumes where it was; one that is
// too old (410 Gone) begins again with a list, whose differences subscribers are told.
func FollowSources(ctx context.Context, c client.Interface, v *View, sources ...Source) *Following {
	f := &Following{synced: make(chan struct{}), done: make(chan struct{})}
	var synced, done sync.WaitGroup
	for _, s := range sources {
		synced.Add(1)
		done.Go(func() {
			(&follower{client: c, view: v, source: s, synced: sync.OnceFunc(synced.Done)}).run(ctx)
		})
	}
	go func() {
		synced.Wait()
		close(f.synced)
	}()
	go func() {
		done.Wait()
		close(f.done)
	}()
	return f
}

// Pauses after a failed list or watch, doubling.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
)

type follower struct {
	client client.Interface
	view   *View
	source Source
	synced func()
	// revision is where the next watch begins; empty means list first.
	revision string
}

func (f *follower) run(ctx context.Context) {
	// A follower that ends before its first list must not hold up the end of the others.
	defer f.synced()
	pause := firstPause
	for ctx.Err() == nil {
		progressed, err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if progressed {
			pause = firstPause
		}
		if err == nil {
			continue
		}
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			f.revision = ""
			if progressed {
				continue
			}
		}
		slog.WarnContext(ctx, "watch interrupted", "resource", f.source.Resource.String(), "error", err, "pause", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

// follow lists where needed and watches until the watch ends. progressed says whether anything
// was learnt.
func (f *follower) follow(ctx context.Context) (progressed bool, err error) {
	opts := client.ListOptions{
		Namespace: f.source.Namespace, LabelSelector: f.source.LabelSelector, FieldSelector: f.source.FieldSelector,
	}
	if f.revision == "" {
		items, rv, err := f.client.List(ctx, f.source.Resource, opts)
		if err != nil {
			return false, fmt.Errorf("list %s: %w", f.source.Resource, err)
		}
		n, err := ParseRevision(rv)
		if err != nil {
			return false, fmt.Errorf("list %s: %w", f.source.Resource, err)
		}
		for i, obj := range items {
			items[i] = f.source.keep(obj)
		}
		f.view.Replace(f.source.Resource, items, n)
		f.revision = rv
		progressed = true
		f.synced()
	}
	opts.Revision = f.revision
	w, err := f.client.Watch(ctx, f.source.Resource, opts)
	if err != nil {
		return progressed, fmt.Errorf("watch %s: %w", f.source.Resource, err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if e.Type == watch.Error {
			return progressed, fmt.Errorf("watch %s: %w", f.source.Resource, apierrors.FromObject(e.Object))
		}
		obj, ok := e.Object.(object.Object)
		if !ok {
			return progressed, fmt.Errorf("watch %s: a %T is no API object", f.source.Resource, e.Object)
		}
		f.view.Apply(Event{Type: e.Type, Resource: f.source.Resource, Object: f.source.keep(obj)})
		f.revision = obj.GetResourceVersion()
		progressed = true
	}
	if !progressed {
		return false, fmt.Errorf("watch %s: ended before its first event", f.source.Resource)
	}
	return true, nil
}
