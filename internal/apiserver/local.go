package apiserver

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
	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/store"
)

// defaultManager is the field manager of in-process writes whose context names none.
const defaultManager = "coracle"

// local is client.Interface straight on the registry: kinds' strategies, hooks, admission and
// managed fields as for any write, without HTTP, authorization or copies of what is read.
type local struct {
	set   *set
	chain *admit.Chain
	// count makes what a controller has counted of a quota true.
	count func(next, live runtime.Object)
	// patches serves PATCH requests.
	patches http.Handler
}

var _ client.Interface = local{}

// newLocal makes a client. Count makes what a controller has counted of a quota true, and patches serves PATCH requests.
func newLocal(kinds *set, chain *admit.Chain, count func(next, live runtime.Object), patches http.Handler) local {
	return local{kinds, chain, count, patches}
}

func (l local) registry(res resource.Resource) (*registry, error) {
	if o, ok := l.set.objects[res]; ok {
		return o, nil
	}
	return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: 404, Reason: metav1.StatusReasonNotFound,
		Message: fmt.Sprintf("the server does not serve %s", res),
	}}
}

// Get implements client.Interface.
func (l local) Get(_ context.Context, res resource.Resource, namespace, name string) (client.Object, error) {
	o, err := l.registry(res)
	if err != nil {
		return nil, err
	}
	obj, err := o.shared.Object(keyOf(res, namespace, name))
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
func (l local) List(ctx context.Context, res resource.Resource, opts client.ListOptions) ([]client.Object, string, error) {
	o, err := l.registry(res)
	if err != nil {
		return nil, "", err
	}
	key, selected, err := o.selection(opts)
	if err != nil {
		return nil, "", err
	}
	found, revision, err := o.shared.Objects(ctx, key, selected)
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
func (l local) Watch(ctx context.Context, res resource.Resource, opts client.ListOptions) (watch.Interface, error) {
	o, err := l.registry(res)
	if err != nil {
		return nil, err
	}
	key, selected, err := o.selection(opts)
	if err != nil {
		return nil, err
	}
	selected.ResourceVersion = opts.Revision
	selected.Predicate.AllowWatchBookmarks = true
	selected.ProgressNotify = true
	return o.shared.Watch(store.Shared(ctx), key, selected)
}

// Create implements client.Interface.
func (l local) Create(ctx context.Context, obj client.Object) (client.Object, error) {
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
	if o.kind.Default != nil {
		o.kind.Default(created)
	}
	w := write{registry: o, namespace: created.GetNamespace(), name: created.GetName(), user: self, manager: client.ManagerFrom(ctx, defaultManager)}
	out, err := w.create(inside(ctx, w.namespace), created)
	if err != nil {
		return nil, err
	}
	return asObject(out)
}

// Update implements client.Interface.
func (l local) Update(ctx context.Context, obj client.Object, subresource string) (client.Object, error) {
	res := resource.Of(obj)
	o, err := l.registry(res)
	if err != nil {
		return nil, err
	}
	w := write{
		registry: o, subresource: subresource, namespace: obj.GetNamespace(), name: obj.GetName(), user: self,
		manager: client.ManagerFrom(ctx, defaultManager),
	}
	if res == resource.ResourceQuotas && subresource == "status" {
		w.correct = l.count
	}
	out, err := w.update(inside(ctx, w.namespace), obj)
	if err != nil {
		return nil, err
	}
	return asObject(out)
}

// Delete implements client.Interface.
func (l local) Delete(ctx context.Context, ref object.Ref, opts metav1.DeleteOptions) (client.Object, error) {
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
	w := write{registry: o, namespace: ref.Namespace, name: ref.Name, user: self}
	out, err := w.delete(inside(ctx, w.namespace), options)
	if err != nil {
		return nil, err
	}
	return asObject(out)
}
