package apiserver

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/apiserver/registry"
	"coracle/internal/resource"
	"coracle/internal/store"
)

// guard keeps the kubernetes service, its endpoints and the ServiceCIDR of its name as the server made them: it looks again
// when one of them changes or goes, and only then. It returns when ctx ends.
func (s *Server) guard(ctx context.Context) {
	var parts sync.WaitGroup
	for _, res := range []resource.Resource{resource.Services, resource.Endpoints, resource.EndpointSlices, resource.ServiceCIDRs} {
		if o, ok := s.set.All[res]; ok {
			parts.Go(func() { s.guardOne(ctx, o) })
		}
	}
	parts.Wait()
}

func (s *Server) guardOne(ctx context.Context, o *registry.Registry) {
	key := registry.KeyOf(o.Kind.Resource, metav1.NamespaceDefault, ownName)
	for ctx.Err() == nil {
		w, err := o.Stored.Watch(store.Shared(ctx), key, storage.ListOptions{
			Predicate: storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything(), GetAttrs: o.Kind.GetAttrs},
		})
		if err == nil {
			s.restoreOwn(ctx) // what happened before the watch began
			for event := range w.ResultChan() {
				if event.Type == watch.Deleted || event.Type == watch.Modified {
					s.restoreOwn(ctx)
				}
			}
		}
		select { // a watch that ends at once must not spin
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// restoreOwn tries until it succeeds: the address of a service that was deleted is given back only
// after watchers have heard of the deletion.
func (s *Server) restoreOwn(ctx context.Context) {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := s.bootstrap(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		s.log.Info("the kubernetes service is not right yet", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
