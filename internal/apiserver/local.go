package apiserver

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/apiserver/managed"
	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/store"
)

// self is whom admission sees when the server's own rooms write.
var self user.Info = &user.DefaultInfo{
	Name:   user.APIServerUser,
	Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated},
}

// defaultManager is the field manager of in-process writes whose context names none.
const defaultManager = "coracle"

// local is client.Interface straight on the registry: kinds' strategies, hooks, admission and
// managed fields as for any write, without HTTP, authorization or copies of what is read.
type local struct{ s *Server }

// Client returns the in-process client. What it returns and watches deliver is shared and must
// not be changed.
func (s *Server) Client() client.Interface { return local{s} }

var _ client.Interface = local{}

func (l local) registry(res resource.Resource) (*registry, error) {
	if o, ok := l.s.objects[res]; ok {
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

// selection is where a list or a watch looks: a key and a predicate.
func (o *registry) selection(opts client.ListOptions) (string, storage.ListOptions, error) {
	label, err := labels.Parse(opts.LabelSelector)
	if err != nil {
		return "", storage.ListOptions{}, apierrors.NewBadRequest(fmt.Sprintf("unable to parse label selector: %v", err))
	}
	field, err := fields.ParseSelector(opts.FieldSelector)
	if err != nil {
		return "", storage.ListOptions{}, apierrors.NewBadRequest(fmt.Sprintf("unable to parse field selector: %v", err))
	}
	key := keyRoot(o.kind.Resource)
	if o.kind.Namespaced && opts.Namespace != "" {
		key += "/" + opts.Namespace
	}
	selected := storage.ListOptions{
		Recursive: true,
		Predicate: storage.SelectionPredicate{Label: label, Field: field, GetAttrs: o.kind.GetAttrs},
	}
	if name, ok := selected.Predicate.MatchesSingle(); ok && (opts.Namespace != "" || !o.kind.Namespaced) {
		key += "/" + name
		selected.Recursive = false
	}
	return key, selected, nil
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

// context gives a write what the registry looks for.
func (l local) context(ctx context.Context, namespace string) context.Context {
	return request.WithUser(request.WithNamespace(ctx, namespace), self)
}

// attributes describes a write to admission.
func attributes(res resource.Resource, subresource string, obj, old runtime.Object, namespace, name string, op admission.Operation, options runtime.Object) admission.Attributes {
	return admission.NewAttributesRecord(obj, old, res.GVK(), namespace, name, res.GVR(), subresource, op, options, false, self)
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
	rest.WipeObjectMetaSystemFields(created)
	created.SetResourceVersion("")
	if o.kind.Default != nil {
		o.kind.Default(created)
	}
	namespace := created.GetNamespace()
	ctx = l.context(ctx, namespace)
	options := &metav1.CreateOptions{}
	if err := o.fields.Create(created, client.ManagerFrom(ctx, defaultManager)); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	a := attributes(res, "", created, nil, namespace, created.GetName(), admission.Create, options)
	if err := l.s.admit.Admit(ctx, a, nil); err != nil {
		return nil, err
	}
	out, err := o.Create(ctx, created, rest.AdmissionToValidateObjectFunc(l.s.admit, a, nil), options)
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
	target, fields := rest.Updater(o), o.fields
	if subresource != "" {
		p, ok := o.parts[subresource]
		if !ok {
			return nil, apierrors.NewNotFound(res.GroupResource(), obj.GetName()+"/"+subresource)
		}
		target, fields = p, p.fields
	}
	options := &metav1.UpdateOptions{}
	u := &replacement{
		chain: l.s.admit, object: o, obj: obj, fields: fields, manager: client.ManagerFrom(ctx, defaultManager),
		attributes: func(next, live runtime.Object) admission.Attributes {
			return attributes(res, subresource, next, live, obj.GetNamespace(), obj.GetName(), admission.Update, options)
		},
	}
	if res == resource.ResourceQuotas && subresource == "status" {
		u.correct = l.s.quotas.correct
	}
	ctx = l.context(ctx, obj.GetNamespace())
	validate := rest.AdmissionToValidateObjectUpdateFunc(l.s.admit, u.attributes(nil, nil), nil)
	out, _, err := target.Update(ctx, obj.GetName(), u, nil, validate, false, options)
	if err != nil {
		return nil, err
	}
	return asObject(out)
}

// replacement implements rest.UpdatedObjectInfo: the writer's object in place of the live one,
// as often as the registry has to try.
type replacement struct {
	chain   admission.MutationInterface
	object  *registry
	obj     client.Object
	fields  *managed.Tracker
	manager string
	// correct, when set, changes what is about to replace the live object.
	correct    func(next, live runtime.Object)
	attributes func(next, live runtime.Object) admission.Attributes
}

// Preconditions implements rest.UpdatedObjectInfo: an update of another object of the same name
// is a conflict.
func (u *replacement) Preconditions() *metav1.Preconditions {
	uid := u.obj.GetUID()
	if uid == "" {
		return nil
	}
	return &metav1.Preconditions{UID: &uid}
}

// UpdatedObject implements rest.UpdatedObjectInfo. It refuses to make what is not there, where the kind would let
// an update do that: what is admitted here is an update, and a creation has other rules.
func (u *replacement) UpdatedObject(ctx context.Context, live runtime.Object) (runtime.Object, error) {
	if m, ok := live.(metav1.Object); ok && m.GetUID() == "" {
		return nil, apierrors.NewNotFound(u.object.kind.GroupResource(), u.obj.GetName())
	}
	next := u.obj.DeepCopyObject()
	if u.object.kind.Default != nil {
		u.object.kind.Default(next)
	}
	if u.correct != nil {
		u.correct(next, live)
	}
	if err := u.fields.Update(live, next, u.manager); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return next, u.chain.Admit(ctx, u.attributes(next, live), nil)
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
	ctx = l.context(ctx, ref.Namespace)
	a := attributes(ref.Resource, "", nil, nil, ref.Namespace, ref.Name, admission.Delete, options)
	if err := l.s.admit.Admit(ctx, a, nil); err != nil {
		return nil, err
	}
	out, _, err := o.remove(ctx, o.whole, ref.Name, rest.ValidateAllObjectFunc, options)
	if err != nil {
		return nil, err
	}
	return asObject(out)
}
