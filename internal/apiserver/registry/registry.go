package registry

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/dryrun"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"coracle/internal/apiserver/admit"
	"coracle/internal/apiserver/charge"
	"coracle/internal/apiserver/managed"
	"coracle/internal/apiserver/openapi"
	"coracle/internal/kind"
	"coracle/internal/resource"
	"coracle/internal/scheme"
	"coracle/internal/store"
)

// registry serves a kind itself: every verb.
type Registry struct {
	*genericregistry.Store
	Stored *store.Collection
	// chain says whether any plugin validates a write.
	chain *admit.Chain
	// quotas are charged for what is written.
	quotas *charge.Books
	// whole is the same registry, whose deletions always answer with the object.
	whole *genericregistry.Store
	// lists is the same registry, whose lists are shared ones.
	lists *genericregistry.Store
	// parts are the subresources that take the whole object, by name.
	Parts map[string]*part
	// subs are all subresources, by name.
	Subresources map[string]rest.Storage
	Kind         kind.Kind
	// about is what failures of writes are told of.
	about  subject
	hooks  kind.Hooks
	fields *managed.Tracker
	// grants holds writers to giving no more rights than they have; nil for kinds that give none.
	grants *granting
}

// The priority classes that every cluster has.
const (
	SystemNodeCritical    = "system-node-critical"
	SystemClusterCritical = "system-cluster-critical"
)

// systemClasses are the priority classes that every cluster has.
var systemClasses = map[string]bool{SystemNodeCritical: true, SystemClusterCritical: true}

// answersWhole lists the kinds whose DELETE answers with the object; the others answer with a
// Status, as upstream's do.
var answersWhole = map[resource.Resource]bool{
	resource.Pods: true, resource.PodTemplates: true, resource.Services: true,
	resource.ServiceAccounts: true, resource.ResourceQuotas: true,
	resource.PersistentVolumes: true, resource.PersistentVolumeClaims: true,
}

// deleteWorkers is how many objects of a collection are deleted at once: enough to share group
// commits.
const deleteWorkers = 32

func newObject(k kind.Kind, c *store.Collection, cfg Config, cluster kind.Cluster) *Registry {
	types := cfg.Types
	o := &Registry{
		Kind: k, about: subject{k.GVK(), k.New, typer{types}}, Stored: c, chain: cfg.Chain, quotas: cfg.Quotas, grants: grantingOf(cfg.Authz, k.Resource),
	}
	o.Store = &genericregistry.Store{
		NewFunc:                   k.New,
		NewListFunc:               k.NewList,
		DefaultQualifiedResource:  k.GroupResource(),
		SingularQualifiedResource: schema.GroupResource{Group: k.Group, Resource: k.Singular},
		ObjectNameFunc: func(obj runtime.Object) (string, error) {
			m, err := meta.Accessor(obj)
			if err != nil {
				return "", err
			}
			return m.GetName(), nil
		},
		PredicateFunc: func(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
			return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: k.GetAttrs}
		},
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: deleteWorkers,
		CreateStrategy:          k.Strategy,
		UpdateStrategy:          k.Strategy,
		DeleteStrategy:          k.Strategy,
		ResetFieldsStrategy:     k.Strategy,
		ReturnDeletedObject:     answersWhole[k.Resource],
		TableConvertor:          k.Columns,
		Storage:                 genericregistry.DryRunnableStorage{Storage: c, Codec: scheme.Codecs.LegacyCodec(k.GVK().GroupVersion())},
		StorageVersioner:        k.GVK().GroupVersion(),
		ReadinessCheckFunc:      c.ReadinessCheck,
	}
	root := KeyRoot(k.Resource)
	o.KeyRootFunc = func(context.Context) string { return root }
	o.KeyFunc = func(ctx context.Context, name string) (string, error) {
		return genericregistry.NoNamespaceKeyFunc(ctx, root, name)
	}
	if k.Namespaced {
		o.KeyRootFunc = func(ctx context.Context) string { return genericregistry.NamespaceKeyRootFunc(ctx, root) }
		o.KeyFunc = func(ctx context.Context, name string) (string, error) {
			return genericregistry.NamespaceKeyFunc(ctx, root, name)
		}
	}
	if k.TTL != nil {
		o.TTLFunc = func(obj runtime.Object, _ uint64, _ bool) (uint64, error) { return k.TTL(obj), nil }
	}
	if k.DeletedByUpdate != nil {
		o.ShouldDeleteDuringUpdate = func(_ context.Context, _ string, obj, existing runtime.Object) bool {
			return k.DeletedByUpdate(obj, existing)
		}
	}
	if k.Hooks != nil {
		o.install(k.Hooks(cluster))
	}
	whole := *o.Store
	whole.ReturnDeletedObject = true
	o.whole = &whole
	lists := *o.Store
	lists.NewListFunc = func() runtime.Object { return &SharedList{NewList: k.NewList} }
	o.lists = &lists
	o.fields = o.tracker("", k.Strategy, types)
	o.Parts = map[string]*part{}
	if k.Status != nil {
		o.Parts["status"] = newPart(o, "status", k.Status, types)
	}
	for name, strategy := range k.Subresources {
		o.Parts[name] = newPart(o, name, strategy, types)
	}
	return o
}

// tracker keeps managed fields for in-process writes through a strategy.
func (o *Registry) tracker(subresource string, strategy kind.Strategy, types *openapi.Types) *managed.Tracker {
	return managed.NewTracker(managed.Target{
		GVK: o.Kind.GVK(), Subresource: subresource, Resets: strategy.GetResetFields(), New: o.Kind.New,
	}, types, scheme.Scheme)
}

// keyRoot is where a kind's objects lie in the store: "/pods", "/apps/deployments".
func KeyRoot(res resource.Resource) string {
	if res.Group == "" {
		return "/" + res.Plural
	}
	return "/" + res.Group + "/" + res.Plural
}

// keyOf returns an object's key in the store.
func KeyOf(res resource.Resource, namespace, name string) string {
	if res.Namespaced {
		return KeyRoot(res) + "/" + namespace + "/" + name
	}
	return KeyRoot(res) + "/" + name
}

// Object returns the stored object, shared.
func (o *Registry) Object(namespace, name string) (runtime.Object, error) {
	return o.Stored.Object(KeyOf(o.Kind.Resource, namespace, name))
}

// install gives the registry a kind's hooks.
func (o *Registry) install(h kind.Hooks) {
	o.hooks = h
	if h.BeginCreate != nil {
		o.BeginCreate = func(ctx context.Context, obj runtime.Object, options *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
			finish, err := h.BeginCreate(ctx, obj, dryrun.IsDryRun(options.DryRun))
			return genericregistry.FinishFunc(finish), err
		}
	}
	if h.BeginUpdate != nil {
		o.BeginUpdate = func(ctx context.Context, obj, old runtime.Object, options *metav1.UpdateOptions) (genericregistry.FinishFunc, error) {
			finish, err := h.BeginUpdate(ctx, obj, old, dryrun.IsDryRun(options.DryRun))
			return genericregistry.FinishFunc(finish), err
		}
	}
	if h.AfterDelete != nil {
		o.AfterDelete = func(obj runtime.Object, options *metav1.DeleteOptions) {
			h.AfterDelete(obj, dryrun.IsDryRun(options.DryRun))
		}
	}
}

// validated says whether any plugin validates an operation in the namespace of a write.
func (o *Registry) validated(ctx context.Context, op admission.Operation) bool {
	return o.chain.Validates(o.Kind.Resource, op, request.NamespaceValue(ctx))
}

// Create implements rest.Creater. Without validating plugins there is nothing to call, and the
// registry need not copy the object for it. What validation charged is given back if there is no object
// in the end.
func (o *Registry) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (_ runtime.Object, err error) {
	if err := fitNew(ctx, &o.about, obj); err != nil {
		return nil, err
	}
	if o.grants != nil {
		if err := o.grants.check(ctx, obj, nil); err != nil {
			return nil, err
		}
	}
	if !o.validated(ctx, admission.Create) {
		return o.Store.Create(ctx, obj, nil, options)
	}
	ctx, end := o.quotas.Track(ctx, false)
	defer func() { end(err) }()
	return o.Store.Create(ctx, obj, validate, options)
}

// Update implements rest.Updater. As Create, it gives back what was charged for nothing.
func (o *Registry) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, force bool, options *metav1.UpdateOptions) (_ runtime.Object, _ bool, err error) {
	inTurn := o.Kind.Resource == resource.ResourceQuotas
	if inTurn {
		defer o.quotas.Turn(request.NamespaceValue(ctx))()
	}
	creates, updates := o.validated(ctx, admission.Create), o.validated(ctx, admission.Update)
	if !creates {
		create = nil
	}
	if !updates {
		update = nil
	}
	if creates || updates {
		var end func(error)
		ctx, end = o.quotas.Track(ctx, inTurn)
		defer func() { end(err) }()
	}
	info = careful{info, &o.about}
	if o.grants != nil {
		info = granted{info, o.grants}
	}
	return o.Store.Update(ctx, name, info, create, update, force, options)
}

// Delete implements rest.GracefulDeleter.
func (o *Registry) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	return o.remove(ctx, o.Store, name, validate, options)
}

// remove deletes through store, which is o.Store or o.whole.
func (o *Registry) remove(ctx context.Context, store *genericregistry.Store, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	switch o.Kind.Resource {
	case resource.Namespaces:
		return o.endNamespace(ctx, store, name, validate, options)
	case resource.PriorityClasses:
		if systemClasses[name] {
			return nil, false, apierrors.NewForbidden(o.Kind.GroupResource(), name, errors.New("this is a system priority class and cannot be deleted"))
		}
	}
	if graceful, ok := o.Kind.Strategy.(rest.RESTGracefulDeleteStrategy); ok {
		if out, done, err := o.removeAtOnce(ctx, store, graceful, name, validate, options); done {
			return out, err == nil, err
		}
	}
	return store.Delete(ctx, name, validate, options)
}

// served is what the API serves of a kind, by path.
func (o *Registry) Served() map[string]rest.Storage {
	out := map[string]rest.Storage{o.Kind.Plural: o}
	if o.Kind.Resource == resource.Namespaces {
		out[o.Kind.Plural] = namespaces{o}
	}
	for name, sub := range o.Subresources {
		out[o.Kind.Plural+"/"+name] = sub
	}
	return out
}

// ShortNames implements rest.ShortNamesProvider.
func (o *Registry) ShortNames() []string { return o.Kind.ShortNames }

// Categories implements rest.CategoriesProvider.
func (o *Registry) Categories() []string { return o.Kind.Categories }

// part serves a subresource that takes and gives the whole object and governs a part of it:
// status, namespaces/finalize.
type part struct {
	object *Registry
	store  *genericregistry.Store
	fields *managed.Tracker
}

func newPart(o *Registry, name string, strategy kind.Strategy, types *openapi.Types) *part {
	store := *o.Store
	store.CreateStrategy = nil
	store.DeleteStrategy = nil
	store.UpdateStrategy = strategy
	store.ResetFieldsStrategy = strategy
	return &part{o, &store, o.tracker(name, strategy, types)}
}

// New implements rest.Storage.
func (p *part) New() runtime.Object { return p.store.New() }

// Destroy implements rest.Storage. The store is the whole object's, which outlives it.
func (p *part) Destroy() {}

// Get implements rest.Getter, which PATCH needs.
func (p *part) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return p.store.Get(ctx, name, options)
}

// Update implements rest.Updater. A subresource never creates its object.
func (p *part) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	if p.object.Kind.Resource == resource.ResourceQuotas {
		defer p.object.quotas.Turn(request.NamespaceValue(ctx))()
	}
	if !p.object.validated(ctx, admission.Update) {
		update = nil
	}
	return p.store.Update(ctx, name, careful{info, &p.object.about}, create, update, false, options)
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (p *part) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return p.store.GetResetFields()
}

// ConvertToTable implements rest.TableConvertor.
func (p *part) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return p.store.ConvertToTable(ctx, obj, options)
}
