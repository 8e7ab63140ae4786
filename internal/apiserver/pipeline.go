package apiserver

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/apiserver/managed"
	"coracle/internal/client"
)

// self is whom admission sees when the server's own rooms write.
var self user.Info = &user.DefaultInfo{
	Name:   user.APIServerUser,
	Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated},
}

// inside is the context of a write of the server's own.
func inside(ctx context.Context, namespace string) context.Context {
	return request.WithUser(request.WithNamespace(ctx, namespace), self)
}

// write is a write on its way in, in the one order that there is: defaults, managed fields, admission that changes, the
// kind's strategy with its validation, admission that refuses, the store.
type write struct {
	registry *registry
	// subresource is a part of the object, or empty for the whole.
	subresource     string
	namespace, name string
	user            user.Info
	// manager is the field manager.
	manager string
	// correct, when set, changes what is about to replace the live object.
	correct func(next, live runtime.Object)
}

func (w *write) attributes(obj, old runtime.Object, op admission.Operation, options runtime.Object) admission.Attributes {
	k := &w.registry.kind
	return admission.NewAttributesRecord(obj, old, k.GVK(), w.namespace, w.name, k.GVR(), w.subresource, op, options, false, w.user)
}

// create makes an object that has its defaults, and that nobody else holds.
func (w *write) create(ctx context.Context, obj client.Object) (runtime.Object, error) {
	rest.WipeObjectMetaSystemFields(obj)
	options := &metav1.CreateOptions{FieldManager: w.manager}
	if err := w.registry.fields.Create(obj, w.manager); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	ctx = request.WithNamespace(ctx, w.namespace)
	a := w.attributes(obj, nil, admission.Create, options)
	if err := w.registry.chain.Admit(ctx, a, nil); err != nil {
		return nil, err
	}
	return w.registry.Create(ctx, obj, rest.AdmissionToValidateObjectFunc(w.registry.chain, a, nil), options)
}

// update puts an object, or the part of it that is meant, in the place of the live one.
func (w *write) update(ctx context.Context, obj client.Object) (runtime.Object, error) {
	target, fields := rest.Updater(w.registry), w.registry.fields
	if w.subresource != "" {
		p, ok := w.registry.parts[w.subresource]
		if !ok {
			return nil, apierrors.NewNotFound(w.registry.kind.GroupResource(), w.name+"/"+w.subresource)
		}
		target, fields = p, p.fields
	}
	u := &replacement{write: w, obj: obj, fields: fields, options: &metav1.UpdateOptions{FieldManager: w.manager}}
	validate := rest.AdmissionToValidateObjectUpdateFunc(w.registry.chain, w.attributes(nil, nil, admission.Update, u.options), nil)
	out, _, err := target.Update(request.WithNamespace(ctx, w.namespace), w.name, u, nil, validate, false, u.options)
	return out, err
}

// replacement implements rest.UpdatedObjectInfo: the writer's object in place of the live one, as often as the registry
// has to try.
type replacement struct {
	*write
	obj     client.Object
	fields  *managed.Tracker
	options *metav1.UpdateOptions
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
	k := &u.registry.kind
	if m, ok := live.(metav1.Object); ok && m.GetUID() == "" {
		return nil, apierrors.NewNotFound(k.GroupResource(), u.name)
	}
	next := u.obj.DeepCopyObject()
	if k.Default != nil {
		k.Default(next)
	}
	if u.correct != nil {
		u.correct(next, live)
	}
	if err := u.fields.Update(live, next, u.manager); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return next, u.registry.chain.Admit(ctx, u.attributes(next, live, admission.Update, u.options), nil)
}

// delete deletes the object as options say; its answer is the object.
func (w *write) delete(ctx context.Context, options *metav1.DeleteOptions) (runtime.Object, error) {
	ctx = request.WithNamespace(ctx, w.namespace)
	if err := w.registry.chain.Admit(ctx, w.attributes(nil, nil, admission.Delete, options), nil); err != nil {
		return nil, err
	}
	out, _, err := w.registry.remove(ctx, w.registry.whole, w.name, rest.ValidateAllObjectFunc, options)
	return out, err
}
