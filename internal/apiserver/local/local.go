package local

import (
	"context"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/apiserver/admit"
	"coracle/internal/apiserver/registry"
	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/store"
)

// defaultManager is the field manager of in-process writes whose context names none.
const defaultManager = "coracle"

// local is client.Interface straight on the registry: kinds' strategies, hooks, admission and
// managed fields as for any write, without HTTP, authorization or copies of what is read.
type Client struct {
	set   *registry.Set
	chain *admit.Chain
	// count makes what a controller has counted of a quota true.
	count func(next, live runtime.Object)
	// patches serves PATCH requests.
	patches http.Handler
}

var _ client.Interface = Client{}

// newLocal makes a client. Count makes what a controller has counted of a quota true, and patches serves PATCH requests.
func New(kinds *registry.Set, chain *admit.Chain, count func(next, live runtime.Object), patches http.Handler) Client {
	return Client{kinds, chain, count, patches}
}

func (l Client) registry(res resource.Resource) (*registry.Registry, error) {
	if o, ok := l.set.All[res]; ok {
		return o, nil
	}
	return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: 404, Reason: metav1.StatusReasonNotFound,
		Message: fmt.Sprintf("the server does not serve %s", res),
	}}
}

// Get implements client.Interface.
func (l Client) Get(_ context.Context, res resource.Resource, namespace, name string) (client.Object, error) {
	o, err := l.registry(res)
	if err != nil {
		return nil, err
	}
	obj, err := o.Object(namespace, name)
	if err != nil {
		if storage.IsNotFound(err) {
			return nil, apierrors.NewNotFound(res.GroupResource(), name)
		}
		return nil, apierrors.NewInternalError(err)
	}
	return asObject(obj)
}

func asObject(obj runtime.Object) (client.Object, error) {
	if o, ok := obj.(client.Object); ok {
		return o, nil
	}
	return nil, apierrors.NewInternalError(fmt.Errorf("%T carries no metadata", obj))
}

// List implements client.Interface.
func (l Client) List(ctx context.Context, res resource.Resource, opts client.ListOptions) ([]client.Object, string, error) {
	o, err := l.registry(res)
	if err != nil {
		return nil, "", err
	}
	key, selected, err := o.Selection(opts)
	if err != nil {
		return nil, "", err
	}
	found, revision, err := o.Stored.Objects(ctx, key, selected)
	if err != nil {
		return nil, "", apierrors.NewInternalError(err)
	}
	items := make([]client.Object, 0, len(found))
	for _, obj := range found {
		item, err := asObject(obj)
		if err != nil {
			return nil, "", err
		}
		items = append(items, item)
	}
	return items, fmt.Sprint(revision), nil
}

// Watch implements client.Interface.
func (l Client) Watch(ctx context.Context, res resource.Resource, opts client.ListOptions) (watch.Interface, error) {
	o, err := l.registry(res)
	if err != nil {
		return nil, err
	}
	key, selected, err := o.Selection(opts)
	if err != nil {
		return nil, err
	}
	selected.ResourceVersion = opts.Revision
	selected.Predicate.AllowWatchBookmarks = true
	selected.ProgressNotify = true
	return o.Stored.Watch(store.Shared(ctx), key, selected)
}

// Create implements client.Interface.
func (l Client) Create(ctx context.Context, obj client.Object) (client.Object, error) {
	res := resource.Of(obj)
	o, err := l.registry(res)
	if err != nil {
		return nil, err
	}
	created, ok := obj.DeepCopyObject().(client.Object)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("%T carries no metadata", obj))
	}
	created.SetResourceVersion("")
	if o.Kind.Default != nil {
		o.Kind.Default(created)
	}
	w := registry.Write{Registry: o, Namespace: created.GetNamespace(), Name: created.GetName(), User: registry.Self, Manager: client.ManagerFrom(ctx, defaultManager)}
	out, err := w.Create(registry.Inside(ctx, w.Namespace), created)
	if err != nil {
		return nil, err
	}
	return asObject(out)
}

// Update implements client.Interface.
func (l Client) Update(ctx context.Context, obj client.Object, subresource string) (client.Object, error) {
	res := resource.Of(obj)
	o, err := l.registry(res)
	if err != nil {
		return nil, err
	}
	w := registry.Write{
		Registry: o, Subresource: subresource, Namespace: obj.GetNamespace(), Name: obj.GetName(), User: registry.Self,
		Manager: client.ManagerFrom(ctx, defaultManager),
	}
	if res == resource.ResourceQuotas && subresource == "status" {
		w.Correct = l.count
	}
	out, err := w.Update(registry.Inside(ctx, w.Namespace), obj)
	if err != nil {
		return nil, err
	}
	return asObject(out)
}

// Delete implements client.Interface.
func (l Client) Delete(ctx context.Context, ref object.Ref, opts metav1.DeleteOptions) (client.Object, error) {
	o, err := l.registry(ref.Resource)
	if err != nil {
		return nil, err
	}
	options := opts.DeepCopy()
	if ref.UID != "" {
		if options.Preconditions == nil {
			options.Preconditions = &metav1.Preconditions{}
		}
		uid := ref.UID
		options.Preconditions.UID = &uid
	}
	w := registry.Write{Registry: o, Namespace: ref.Namespace, Name: ref.Name, User: registry.Self}
	out, err := w.Delete(registry.Inside(ctx, w.Namespace), options)
	if err != nil {
		return nil, err
	}
	return asObject(out)
}
