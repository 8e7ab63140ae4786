package registry

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/client"
)

// immediate is the strategy of a kind that has grace periods, for deletions that give none.
type immediate struct {
	rest.RESTDeleteStrategy
	rest.GarbageCollectionDeleteStrategy
}

// removeAtOnce deletes in one write an object that gets no grace and waits for no finalizer. Upstream's registry
// writes such a deletion twice, first as a mark with no grace and then as a removal; nobody can do anything between the
// two, and each watcher would be told both. done is false where the deletion is not of that sort.
func (o *Registry) removeAtOnce(ctx context.Context, store *genericregistry.Store, graceful rest.RESTGracefulDeleteStrategy,
	name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (out runtime.Object, done bool, err error) {
	key, err := store.KeyFunc(ctx, name)
	if err != nil {
		return nil, false, nil //nolint:nilerr // the registry says what is wrong with the name
	}
	swift := *store
	swift.DeleteStrategy = immediate{o.Kind.Strategy, o.Kind.Strategy}
	for {
		live, err := o.Stored.Object(key)
		if err != nil {
			return nil, false, nil //nolint:nilerr // the registry says that it is not there
		}
		pinned, ok := atOnce(ctx, graceful, live, options)
		if !ok {
			return nil, false, nil
		}
		out, _, err := swift.Delete(ctx, name, validate, pinned)
		if apierrors.IsConflict(err) && asksNoVersion(options) && ctx.Err() == nil {
			continue // it has changed meanwhile, perhaps to one that needs grace
		}
		return out, true, err
	}
}

func asksNoVersion(options *metav1.DeleteOptions) bool {
	return options.Preconditions == nil || options.Preconditions.ResourceVersion == nil
}

// atOnce says whether deleting the live object is one write, and pins the options to it as it is.
func atOnce(ctx context.Context, graceful rest.RESTGracefulDeleteStrategy, live runtime.Object, options *metav1.DeleteOptions) (*metav1.DeleteOptions, bool) {
	m, ok := live.(client.Object)
	//nolint:staticcheck // deprecated, and still sent
	orphans := options != nil && options.OrphanDependents != nil
	if !ok || options == nil || len(m.GetFinalizers()) > 0 || len(options.DryRun) > 0 || orphans ||
		options.PropagationPolicy != nil && *options.PropagationPolicy != metav1.DeletePropagationBackground {
		return nil, false
	}
	pinned := options.DeepCopy()
	if !graceful.CheckGracefulDelete(ctx, live, pinned) || *pinned.GracePeriodSeconds > 0 {
		return nil, false
	}
	if pinned.Preconditions == nil {
		pinned.Preconditions = &metav1.Preconditions{}
	}
	if pinned.Preconditions.UID == nil {
		uid := m.GetUID()
		pinned.Preconditions.UID = &uid
	}
	if pinned.Preconditions.ResourceVersion == nil {
		version := m.GetResourceVersion()
		pinned.Preconditions.ResourceVersion = &version
	}
	return pinned, true
}
