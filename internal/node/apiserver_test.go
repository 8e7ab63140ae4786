package node

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client"
	clientfake "coracle/internal/client/fake"
	"coracle/internal/node/lineage"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// apiServer is one whose store can be exchanged, which breaks all watches.
type apiServer struct {
	mu      sync.Mutex
	store   *clientfake.Cluster
	watches []watch.Interface
}

func (s *apiServer) now() *clientfake.Cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store
}

// swap has the server begin anew, with a store, and note so in it.
func (w *world) swap(store *clientfake.Cluster) {
	w.t.Helper()
	w.began++
	ns, err := store.Get(w.t.Context(), resource.Namespaces, "", metav1.NamespaceSystem)
	if err != nil {
		w.t.Fatal(err)
	}
	system := ns.(*corev1.Namespace).DeepCopy()
	metav1.SetMetaDataAnnotation(&system.ObjectMeta, lineage.History,
		lineage.Begin(system.Annotations[lineage.History], fmt.Sprint("run-", w.began), store.Revision()))
	if _, err := store.Update(w.t.Context(), system, ""); err != nil {
		w.t.Fatal(err)
	}
	s := w.server
	s.mu.Lock()
	s.store = store
	for _, broken := range s.watches {
		broken.Stop()
	}
	s.watches = nil
	s.mu.Unlock()
	w.cluster = store
	w.breakCluster()
}

// newCluster is one of an identity of its own.
func (w *world) newCluster() *clientfake.Cluster {
	w.identities++
	c := clusterOf(types.UID(fmt.Sprintf("cluster-%d", w.identities)))
	// No two clusters give out the same UIDs.
	c.Load(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other", UID: types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012x", w.identities<<16))}})
	return c
}

// clusterOf is an empty cluster of an identity.
func clusterOf(identity types.UID) *clientfake.Cluster {
	c := clientfake.New()
	c.Load(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem, UID: identity, ResourceVersion: "1"}})
	return c
}

func (s *apiServer) Get(ctx context.Context, res resource.Resource, namespace, name string) (client.Object, error) {
	return s.now().Get(ctx, res, namespace, name)
}

func (s *apiServer) List(ctx context.Context, res resource.Resource, opts client.ListOptions) ([]client.Object, string, error) {
	return s.now().List(ctx, res, opts)
}

func (s *apiServer) Watch(ctx context.Context, res resource.Resource, opts client.ListOptions) (watch.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, err := s.store.Watch(ctx, res, opts)
	if err == nil {
		s.watches = append(s.watches, w)
	}
	return w, err
}

func (s *apiServer) Create(ctx context.Context, obj client.Object) (client.Object, error) {
	return s.now().Create(ctx, obj)
}

func (s *apiServer) CreateSub(ctx context.Context, ref object.Ref, subresource string, obj any) (any, error) {
	return s.now().CreateSub(ctx, ref, subresource, obj)
}

func (s *apiServer) Update(ctx context.Context, obj client.Object, subresource string) (client.Object, error) {
	return s.now().Update(ctx, obj, subresource)
}

func (s *apiServer) Patch(ctx context.Context, ref object.Ref, kind types.PatchType, body []byte, subresource string) (client.Object, error) {
	return s.now().Patch(ctx, ref, kind, body, subresource)
}

func (s *apiServer) Delete(ctx context.Context, ref object.Ref, opts metav1.DeleteOptions) (client.Object, error) {
	return s.now().Delete(ctx, ref, opts)
}
