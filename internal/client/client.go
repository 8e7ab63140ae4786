// Package client is the small waist through which controllers, the scheduler and the node agent
// reach the cluster.
//
// It owns the interface; it has two implementations: in process, straight into the API server's
// registry (admission included, no HTTP, shared objects), and remote, over HTTPS (package
// client/remote). It refuses caching: that is package view.
package client

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// Object is any API object. Objects that a client returns or a watch delivers are shared and
// must not be changed: take a DeepCopy first.
type Object = object.Object

// ListOptions narrows a list or a watch.
type ListOptions struct {
	// Namespace is empty for all namespaces and for cluster-scoped kinds.
	Namespace string
	// LabelSelector and FieldSelector are in the API's text form; empty selects all.
	LabelSelector string
	FieldSelector string
	// Revision is, for a watch, where to begin (exclusive); it is ignored by List, which is
	// always consistent.
	Revision string
}

// Interface reaches one cluster. Errors are the API's (k8s.io/apimachinery/pkg/api/errors).
// Passed-in objects are not kept nor changed.
type Interface interface {
	Get(ctx context.Context, res resource.Resource, namespace, name string) (Object, error)
	// List returns the objects and the revision to watch from.
	List(ctx context.Context, res resource.Resource, opts ListOptions) (items []Object, revision string, err error)
	// Watch streams changes after opts.Revision, bookmarks included. It ends when ctx does.
	Watch(ctx context.Context, res resource.Resource, opts ListOptions) (watch.Interface, error)
	Create(ctx context.Context, obj Object) (Object, error)
	// CreateSub posts obj to a subresource of the object named, such as pods/binding,
	// pods/eviction and serviceaccounts/token. It returns what the API answered, which may be
	// of another type (metav1.Status for a binding).
	CreateSub(ctx context.Context, ref object.Ref, subresource string, obj any) (any, error)
	// Update replaces an object; subresource is "" or "status". A set resourceVersion is a precondition.
	Update(ctx context.Context, obj Object, subresource string) (Object, error)
	Patch(ctx context.Context, ref object.Ref, kind types.PatchType, body []byte, subresource string) (Object, error)
	// Delete deletes an object. When ref.UID is set it becomes a precondition. The answer is
	// the object as the deletion left it, with the revision of that write.
	Delete(ctx context.Context, ref object.Ref, opts metav1.DeleteOptions) (Object, error)
}
