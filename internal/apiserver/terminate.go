package apiserver

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"

	"coracle/internal/resource"
)

// Delete implements rest.GracefulDeleter.
func (o *object) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	return o.remove(ctx, o.Store, name, validate, options)
}

// DeleteCollection implements rest.CollectionDeleter. Namespaces cannot be deleted together, as
// upstream has it.
func (o *object) DeleteCollection(ctx context.Context, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions, list *internalversion.ListOptions) (runtime.Object, error) {
	if o.kind.Resource == resource.Namespaces {
		return nil, apierrors.NewMethodNotSupported(o.kind.GroupResource(), "deletecollection")
	}
	return o.Store.DeleteCollection(ctx, validate, options, list)
}

// remove deletes an object by way of store. A namespace is first marked as terminating, and goes
// only when its finalizers (spec.finalizers, which metadata.finalizers do not cover) are gone.
func (o *object) remove(ctx context.Context, store *genericregistry.Store, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	if o.kind.Resource != resource.Namespaces {
		return store.Delete(ctx, name, validate, options)
	}
	found, err := store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns := found.(*corev1.Namespace)
	switch {
	case ns.DeletionTimestamp == nil:
		return o.terminate(ctx, store, name, validate, options)
	case len(ns.Spec.Finalizers) > 0:
		return ns, false, nil
	}
	return store.Delete(ctx, name, validate, options)
}

func (o *object) terminate(ctx context.Context, store *genericregistry.Store, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	key, err := store.KeyFunc(ctx, name)
	if err != nil {
		return nil, false, err
	}
	var preconditions *storage.Preconditions
	if p := options.Preconditions; p != nil {
		preconditions = &storage.Preconditions{UID: p.UID, ResourceVersion: p.ResourceVersion}
	}
	out := store.NewFunc()
	mark := storage.SimpleUpdate(func(existing runtime.Object) (runtime.Object, error) {
		if validate != nil {
			if err := validate(ctx, existing); err != nil {
				return nil, err
			}
		}
		ns := existing.(*corev1.Namespace).DeepCopy()
		if ns.DeletionTimestamp == nil {
			now, none := metav1.Now().Rfc3339Copy(), int64(0)
			ns.DeletionTimestamp, ns.DeletionGracePeriodSeconds = &now, &none
		}
		ns.Status.Phase = corev1.NamespaceTerminating
		return ns, nil
	})
	err = store.Storage.GuaranteedUpdate(ctx, key, out, false, preconditions, mark, dryrun.IsDryRun(options.DryRun), nil)
	if err != nil {
		return nil, false, storeerr.InterpretUpdateError(err, o.kind.GroupResource(), name)
	}
	return out, false, nil
}
