package registry

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerrors "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
)

// namespaces serves namespaces: every verb but the deletion of a collection, which upstream does
// not offer for them.
type namespaces struct{ namespaceVerbs }

type namespaceVerbs interface {
	rest.Storage
	rest.Scoper
	rest.SingularNameProvider
	rest.ShortNamesProvider
	rest.CategoriesProvider
	rest.Getter
	rest.Lister
	rest.CreaterUpdater
	rest.GracefulDeleter
	rest.Watcher
	rest.ResetFieldsStrategy
	rest.StorageVersionProvider
}

// endNamespace begins the end of a namespace, through store: it is Terminating from then on, and
// goes when its controller has emptied it and taken the finalizer off its spec.
func (o *Registry) endNamespace(ctx context.Context, store *genericregistry.Store, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	found, err := store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns, ok := found.(*corev1.Namespace)
	if !ok {
		return nil, false, apierrors.NewInternalError(fmt.Errorf("unexpected object %T", found))
	}
	options = options.DeepCopy()
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	p := options.Preconditions
	if p.UID == nil {
		p.UID = &ns.UID
	}
	if *p.UID != ns.UID {
		return nil, false, apierrors.NewConflict(o.Kind.GroupResource(), name,
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *p.UID, ns.UID)) //nolint:staticcheck // upstream's words
	}
	if ns.DeletionTimestamp != nil {
		if len(ns.Spec.Finalizers) != 0 {
			return ns, false, nil
		}
		return store.Delete(ctx, name, validate, options)
	}
	key, err := store.KeyFunc(ctx, name)
	if err != nil {
		return nil, false, err
	}
	out := store.NewFunc()
	err = store.Storage.GuaranteedUpdate(ctx, key, out, false, &storage.Preconditions{UID: p.UID, ResourceVersion: p.ResourceVersion},
		storage.SimpleUpdate(func(live runtime.Object) (runtime.Object, error) {
			if validate != nil {
				if err := validate(ctx, live); err != nil {
					return nil, err
				}
			}
			n, ok := live.(*corev1.Namespace)
			if !ok {
				return nil, fmt.Errorf("unexpected object %T", live)
			}
			terminate(n, options, metav1.Now())
			return n, nil
		}), dryrun.IsDryRun(options.DryRun), nil)
	if err != nil {
		return nil, false, interpret(err, o.Kind.GroupResource(), name)
	}
	return out, false, nil
}

// terminate marks a namespace as going, in place.
func terminate(ns *corev1.Namespace, options *metav1.DeleteOptions, now metav1.Time) {
	if ns.DeletionTimestamp == nil {
		ns.DeletionTimestamp = &now
	}
	ns.Status.Phase = corev1.NamespaceTerminating
	var orphan, foreground bool
	switch {
	case options.OrphanDependents != nil: //nolint:staticcheck // old clients still send it
		orphan = *options.OrphanDependents //nolint:staticcheck // as above
	case options.PropagationPolicy != nil:
		orphan = *options.PropagationPolicy == metav1.DeletePropagationOrphan
		foreground = *options.PropagationPolicy == metav1.DeletePropagationForeground
	default:
		return
	}
	for name, wanted := range map[string]bool{metav1.FinalizerOrphanDependents: orphan, metav1.FinalizerDeleteDependents: foreground} {
		ns.Finalizers = slices.DeleteFunc(ns.Finalizers, func(f string) bool { return f == name })
		if wanted {
			ns.Finalizers = append(ns.Finalizers, name)
		}
	}
}

// interpret turns an error of the storage into one of the API.
func interpret(err error, gr schema.GroupResource, name string) error {
	return storeerrors.InterpretUpdateError(storeerrors.InterpretGetError(err, gr, name), gr, name)
}
