package apiserver

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/apiserver/authn"
	"coracle/internal/resource"
	"coracle/internal/store"
)

// peek returns the stored object, shared, or false. It is how the server's own rooms
// (authentication, authorization, admission) look things up.
func (s *Server) peek(res resource.Resource, namespace, name string) (runtime.Object, bool) {
	o, ok := s.objects[res]
	if !ok {
		return nil, false
	}
	obj, err := o.shared.Object(keyOf(res, namespace, name))
	return obj, err == nil
}

// keyOf returns an object's key in the store.
func keyOf(res resource.Resource, namespace, name string) string {
	if res.Namespaced {
		return keyRoot(res) + "/" + namespace + "/" + name
	}
	return keyRoot(res) + "/" + name
}

// peekAll returns the stored objects of a kind, shared, in a namespace or everywhere.
func (s *Server) peekAll(res resource.Resource, namespace string, field fields.Selector) []runtime.Object {
	o, ok := s.objects[res]
	if !ok {
		return nil
	}
	prefix := keyRoot(res)
	if namespace != "" {
		prefix += "/" + namespace
	}
	objects, _, err := o.shared.Objects(context.Background(), prefix, storage.ListOptions{
		Recursive: true,
		Predicate: storage.SelectionPredicate{Label: labels.Everything(), Field: field, GetAttrs: o.kind.GetAttrs},
	})
	if err != nil {
		s.log.Error("look-up failed", "resource", res.String(), "error", err)
	}
	return objects
}

// lived are the kinds to which tokens are bound.
var lived = []resource.Resource{resource.ServiceAccounts, resource.Pods, resource.Secrets, resource.Nodes}

// life implements authn.Lives.
func (s *Server) life(plural, namespace, name string) (authn.Life, bool) {
	i := slices.IndexFunc(lived, func(r resource.Resource) bool { return r.Plural == plural })
	if i < 0 {
		return authn.Life{}, false
	}
	obj, ok := s.peek(lived[i], namespace, name)
	if !ok {
		return authn.Life{}, false
	}
	m, ok := obj.(metav1.Object)
	if !ok {
		return authn.Life{}, false
	}
	life := authn.Life{UID: m.GetUID()}
	if t := m.GetDeletionTimestamp(); t != nil {
		life.Deleted = t.Time
	}
	return life, true
}

// relations implements authz.Cluster by the store's keys and indexes.
type relations struct{ *Server }

// Pod implements authz.Cluster.
func (s relations) Pod(namespace, name string) *corev1.Pod {
	obj, _ := s.peek(resource.Pods, namespace, name)
	pod, _ := obj.(*corev1.Pod)
	return pod
}

// AnyPodOn implements authz.Cluster.
func (s relations) AnyPodOn(node string, match func(*corev1.Pod) bool) bool {
	return s.objects[resource.Pods].shared.Some(podNode, node, func(o runtime.Object) bool {
		p, ok := o.(*corev1.Pod)
		return ok && match(p)
	})
}

// Volume implements authz.Cluster.
func (s relations) Volume(name string) *corev1.PersistentVolume {
	obj, _ := s.peek(resource.PersistentVolumes, "", name)
	pv, _ := obj.(*corev1.PersistentVolume)
	return pv
}

// AnyVolumeFor implements authz.Cluster.
func (s relations) AnyVolumeFor(namespace, claim string, match func(*corev1.PersistentVolume) bool) bool {
	return s.objects[resource.PersistentVolumes].shared.Some(volumeClaim, namespace+"/"+claim, func(o runtime.Object) bool {
		pv, ok := o.(*corev1.PersistentVolume)
		return ok && match(pv)
	})
}

// issuer is the URL by which pods know the API server, and the default audience of tokens.
func issuer(domain string) string { return "https://kubernetes.default.svc." + domain }

// awaitLimit bounds the wait for an object that a controller is about to make.
const awaitLimit = time.Second

// looker implements admit.Cluster.
type looker struct{ *Server }

// Get implements admit.Cluster.
func (s looker) Get(res resource.Resource, namespace, name string) (runtime.Object, bool) {
	return s.peek(res, namespace, name)
}

// List implements admit.Cluster.
func (s looker) List(res resource.Resource, namespace string) []runtime.Object {
	return s.peekAll(res, namespace, fields.Everything())
}

// Any implements admit.Cluster.
func (s looker) Any(res resource.Resource, namespace string) bool {
	o, ok := s.objects[res]
	return ok && o.shared.Any(keyRoot(res)+"/"+namespace)
}

// Charge implements admit.Cluster.
func (s looker) Charge(ctx context.Context, a admission.Attributes) error {
	return s.quotas.charge(ctx, a)
}

// Await implements admit.Cluster.
func (s looker) Await(ctx context.Context, res resource.Resource, namespace, name string) (runtime.Object, bool) {
	o, ok := s.objects[res]
	if !ok {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(store.Shared(ctx), awaitLimit)
	defer cancel()
	w, err := o.shared.Watch(ctx, keyOf(res, namespace, name), storage.ListOptions{
		ResourceVersion: "0",
		Predicate:       storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything(), GetAttrs: o.kind.GetAttrs},
	})
	if err != nil {
		return nil, false
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if event.Type == watch.Added || event.Type == watch.Modified {
			return event.Object, true
		}
	}
	return nil, false
}
