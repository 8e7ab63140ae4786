package registry

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
var Self user.Info = &user.DefaultInfo{
	Name:   user.APIServerUser,
	Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated},
}

// inside is the context of a write of the server's own.
func Inside(ctx context.Context, namespace string) context.Context {
	return request.WithUser(request.WithNamespace(ctx, namespace), Self)
}

// write is a write on its way in, in the one order that there is: defaults, managed fields, admission that changes, the
// kind's strategy with its validation, admission that refuses, the store.
type Write struct {
	Registry *Registry
	// subresource is a part of the object, or empty for the whole.
	Subresource     string
	Namespace, Name string
	User            user.Info
	// manager is the field manager.
	Manager string
	// correct, when set, changes what is about to replace the live object.
	Correct func(next, live runtime.Object)
}

func (w *Write) attributes(obj, old runtime.Object, op admission.Operation, options runtime.Object) admission.Attributes {
	k := &w.Registry.Kind
	return admission.NewAttributesRecord(obj, old, k.GVK(), w.Namespace, w.Name, k.GVR(), w.Subresource, op, options, false, w.User)
}

// create makes an object that has its defaults, and that nobody else holds.
func (w *Write) Create(ctx context.Context, obj client.Object) (runtime.Object, error) {
	rest.WipeObjectMetaSystemFields(obj)
	options := &metav1.CreateOptions{FieldManager: w.Manager}
	if err := w.Registry.fields.Create(obj, w.Manager); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	ctx = request.WithNamespace(ctx, w.Namespace)
	a := w.attributes(obj, nil, admission.Create, options)
	if err := w.Registry.chain.Admit(ctx, a, nil); err != nil {
		return nil, err
	}
	return w.Registry.Create(ctx, obj, rest.AdmissionToValidateObjectFunc(w.Registry.chain, a, nil), options)
}

// update puts an object, or the part of it that is meant, in the place of the live one.
func (w *Write) Update(ctx context.Context, obj client.Object) (runtime.Object, error) {
	target, fields := rest.Updater(w.Registry), w.Registry.fields
	if w.Subresource != "" {
		p, ok := w.Registry.Parts[w.Subresource]
		if !ok {
			return nil, apierrors.NewNotFound(w.Registry.Kind.GroupResource(), w.Name+"/"+w.Subresource)
		}
		target, fields = p, p.fields
	}
	u := &replacement{Write: w, obj: obj, fields: fields, options: &metav1.UpdateOptions{FieldManager: w.Manager}}
	validate := rest.AdmissionToValidateObjectUpdateFunc(w.Registry.chain, w.attributes(nil, nil, admission.Update, u.options), nil)
	out, _, err := target.Update(request.WithNamespace(ctx, w.Namespace), w.Name, u, nil, validate, false, u.options)
	return out, err
}

// replacement implements rest.UpdatedObjectInfo: the writer's object in place of the live one, as often as the registry
// has to try.
type replacement struct {
	*Write
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
	k := &u.Registry.Kind
	if m, ok := live.(metav1.Object); ok && m.GetUID() == "" {
		return nil, apierrors.NewNotFound(k.GroupResource(), u.Name)
	}
	next := u.obj.DeepCopyObject()
	if k.Default != nil {
		k.Default(next)
	}
	if u.Correct != nil {
		u.Correct(next, live)
	}
	if err := u.fields.Update(live, next, u.Manager); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return next, u.Registry.chain.Admit(ctx, u.attributes(next, live, admission.Update, u.options), nil)
}

// delete deletes the object as options say; its answer is the object.
func (w *Write) Delete(ctx context.Context, options *metav1.DeleteOptions) (runtime.Object, error) {
	ctx = request.WithNamespace(ctx, w.Namespace)
	if err := w.Registry.chain.Admit(ctx, w.attributes(nil, nil, admission.Delete, options), nil); err != nil {
		return nil, err
	}
	out, _, err := w.Registry.remove(ctx, w.Registry.whole, w.Name, rest.ValidateAllObjectFunc, options)
	return out, err
}
