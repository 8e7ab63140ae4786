package registry

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/apiserver/admit"
	"coracle/internal/apiserver/authn"
	"coracle/internal/apiserver/authz"
	"coracle/internal/apiserver/charge"
	"coracle/internal/apiserver/openapi"
	"coracle/internal/kind"
	"coracle/internal/kind/address"
	"coracle/internal/resource"
	"coracle/internal/store"
)

// set is the registries of all kinds. It is how the server's own rooms (authentication, authorization, admission) look
// objects up: what it returns is shared and must not be changed.
type Set struct {
	All map[resource.Resource]*Registry
	log *slog.Logger
}

func NewSet(log *slog.Logger) *Set {
	return &Set{All: map[resource.Resource]*Registry{}, log: log}
}

// setConfig is what the registries are made with.
type Config struct {
	Chain  *admit.Chain
	Quotas *charge.Books
	Types  *openapi.Types
	// Authz holds writers of roles to giving no more rights than they have.
	Authz *authz.Authorizer
	// Ranges are those of cluster IPs, that of services which do not say their family first.
	Ranges []netip.Prefix
}

// open makes the registries of all kinds over a store.
func (s *Set) Open(from *store.Store, cfg Config) error {
	kinds := kind.All()
	stored, err := collections(from, kinds)
	if err != nil {
		return err
	}
	book, err := address.New(cfg.Ranges[0], [2]int{}, cfg.Ranges[1:]...)
	if err != nil {
		return fmt.Errorf("the range of cluster IPs: %w", err)
	}
	own := kind.Cluster{ServiceRange: cfg.Ranges[0], Book: book}
	if len(cfg.Ranges) > 1 {
		own.SecondRange = cfg.Ranges[1]
	}
	for _, k := range kinds {
		o := newObject(k, stored[k.Resource], cfg, own)
		o.Subresources = s.subresources(o)
		s.All[k.Resource] = o
	}
	return nil
}

// subresources makes the storage of a kind's subresources, by name.
func (s *Set) subresources(o *Registry) map[string]rest.Storage {
	subs := map[string]rest.Storage{}
	for name, p := range o.Parts {
		subs[name] = p
	}
	if o.Kind.Scale != nil {
		subs["scale"] = newScale(o)
	}
	if o.Kind.Resource == resource.Pods {
		subs["binding"] = &binding{o}
		subs["eviction"] = &eviction{s}
	}
	return subs
}

// restore gives each kind's hooks what is stored, before the first write.
func (s *Set) Restore() error {
	for res, o := range s.All {
		if o.hooks.Restore == nil {
			continue
		}
		if err := o.hooks.Restore(s.List(res, "")); err != nil {
			return fmt.Errorf("restore %s: %w", res, err)
		}
	}
	return nil
}

// Get returns the stored object, shared, or false.
func (s *Set) Get(res resource.Resource, namespace, name string) (runtime.Object, bool) {
	o, ok := s.All[res]
	if !ok {
		return nil, false
	}
	obj, err := o.Object(namespace, name)
	return obj, err == nil
}

// List returns the stored objects of a kind, shared, in a namespace or everywhere.
func (s *Set) List(res resource.Resource, namespace string) []runtime.Object {
	o, ok := s.All[res]
	if !ok {
		return nil
	}
	prefix := KeyRoot(res)
	if namespace != "" {
		prefix += "/" + namespace
	}
	objects, _, err := o.Stored.Objects(context.Background(), prefix, storage.ListOptions{
		Recursive: true,
		Predicate: storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything(), GetAttrs: o.Kind.GetAttrs},
	})
	if err != nil {
		s.log.Error("look-up failed", "resource", res.String(), "error", err)
	}
	return objects
}

// Change changes the stored object of this UID, whatever its revision, past strategies and admission. One that has gone is
// no error.
func (s *Set) Change(res resource.Resource, namespace, name string, uid types.UID, f func(live runtime.Object) error) error {
	o := s.All[res]
	// Not in the context of one writer: others depend on it.
	err := o.Storage.GuaranteedUpdate(context.Background(), KeyOf(res, namespace, name), o.Kind.New(), false,
		&storage.Preconditions{UID: &uid}, storage.SimpleUpdate(func(live runtime.Object) (runtime.Object, error) {
			return live, f(live)
		}), false, nil)
	if storage.IsNotFound(err) || storage.IsInvalidObj(err) {
		return nil
	}
	return err
}

// kindOf returns the kind of a resource, as a request names it.
func (s *Set) KindOf(info *request.RequestInfo) schema.GroupVersionKind {
	for res, o := range s.All {
		if res.Group == info.APIGroup && res.Version == info.APIVersion && res.Plural == info.Resource {
			return o.Kind.GVK()
		}
	}
	return schema.GroupVersionKind{}
}

// lived are the kinds to which tokens are bound.
var lived = []resource.Resource{resource.ServiceAccounts, resource.Pods, resource.Secrets, resource.Nodes}

// life implements authn.Lives.
func (s *Set) Life(plural, namespace, name string) (authn.Life, bool) {
	i := slices.IndexFunc(lived, func(r resource.Resource) bool { return r.Plural == plural })
	if i < 0 {
		return authn.Life{}, false
	}
	obj, ok := s.Get(lived[i], namespace, name)
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

// observe tells the authorizer what roles and bindings there are, and of each change before anybody can read it.
func (s *Set) Observe(a *authz.Authorizer) error {
	for _, res := range roleKinds {
		if o, ok := s.All[res]; ok {
			if err := o.Stored.Observe(a.Observe); err != nil {
				return fmt.Errorf("read the %s: %w", res, err)
			}
		}
	}
	return nil
}

// Relations are what the authorizer asks of nodes.
func (s *Set) Relations() authz.Cluster { return relations{s} }

// relations implements authz.Cluster by the store's keys and indexes.
type relations struct{ *Set }

// Pod implements authz.Cluster.
func (s relations) Pod(namespace, name string) *corev1.Pod {
	obj, _ := s.Get(resource.Pods, namespace, name)
	pod, _ := obj.(*corev1.Pod)
	return pod
}

// AnyPodOn implements authz.Cluster.
func (s relations) AnyPodOn(node string, match func(*corev1.Pod) bool) bool {
	return s.All[resource.Pods].Stored.Some(podNode, node, func(o runtime.Object) bool {
		p, ok := o.(*corev1.Pod)
		return ok && match(p)
	})
}

// Volume implements authz.Cluster.
func (s relations) Volume(name string) *corev1.PersistentVolume {
	obj, _ := s.Get(resource.PersistentVolumes, "", name)
	pv, _ := obj.(*corev1.PersistentVolume)
	return pv
}

// AnyVolumeFor implements authz.Cluster.
func (s relations) AnyVolumeFor(namespace, claim string, match func(*corev1.PersistentVolume) bool) bool {
	return s.All[resource.PersistentVolumes].Stored.Some(volumeClaim, namespace+"/"+claim, func(o runtime.Object) bool {
		pv, ok := o.(*corev1.PersistentVolume)
		return ok && match(pv)
	})
}

// awaitLimit bounds the wait for an object that a controller is about to make.
const awaitLimit = time.Second

// lookup implements admit.Cluster.
type lookup struct {
	*Set
	quotas *charge.Books
}

var _ admit.Cluster = lookup{}

// Admission is what admission asks, and where it charges.
func (s *Set) Admission(quotas *charge.Books) admit.Cluster { return lookup{s, quotas} }

// Any says whether a namespace has any object of a kind, without a list.
func (s *Set) Any(res resource.Resource, namespace string) bool {
	o, ok := s.All[res]
	return ok && o.Stored.Any(KeyRoot(res)+"/"+namespace)
}

// Charge implements admit.Cluster.
func (s lookup) Charge(ctx context.Context, a admission.Attributes) error {
	return s.quotas.Charge(ctx, a)
}

// Await is Get that waits a moment for an object about to be made.
func (s *Set) Await(ctx context.Context, res resource.Resource, namespace, name string) (runtime.Object, bool) {
	o, ok := s.All[res]
	if !ok {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(store.Shared(ctx), awaitLimit)
	defer cancel()
	w, err := o.Stored.Watch(ctx, KeyOf(res, namespace, name), storage.ListOptions{
		ResourceVersion: "0",
		Predicate:       storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything(), GetAttrs: o.Kind.GetAttrs},
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
