// Package object is how the rest of the house speaks of API objects: their names and identities, and the reading of
// a consistent set of them with its indexes.
//
// It owns values and the Reader's contract only. It refuses decisions (package plan), and knows nothing of kinds
// beyond their names (package resource).
package object

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/resource"
)

// Object is any API object. Objects reached through a Reader are shared and must not be
// changed: take a DeepCopy first.
type Object interface {
	metav1.Object
	runtime.Object
}

// Key names the object a decision is about. Namespace is empty for cluster-scoped kinds.
type Key struct {
	Namespace string
	Name      string
}

// String prints "namespace/name", or the name alone where there is no namespace.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// KeyOf returns the key of an object.
func KeyOf(o metav1.Object) Key { return Key{o.GetNamespace(), o.GetName()} }

// Ref names one object of one kind, and its identity where that matters.
type Ref struct {
	Resource resource.Resource
	Key
	// UID, when set, is a precondition: the action applies to this very object or to none.
	UID types.UID
}

// String prints "pods default/web-0".
func (r Ref) String() string { return r.Resource.String() + " " + r.Key.String() }

// RefOf returns the reference to an object, UID included.
func RefOf(o Object) Ref {
	return Ref{Resource: resource.Of(o), Key: KeyOf(o), UID: o.GetUID()}
}

// Reader is a consistent snapshot of the cluster. All results are shared and immutable, and come
// in a stable order (by namespace, then name).
type Reader interface {
	// Get returns one object.
	Get(res resource.Resource, namespace, name string) (Object, bool)
	// List returns every object of a kind in a namespace, or everywhere when namespace is empty.
	// Prefer Indexed: a list costs what the cluster is large.
	List(res resource.Resource, namespace string) []Object
	// Indexed returns the objects of a kind that an Index files under value.
	Indexed(res resource.Resource, index, value string) []Object
}

// Any says whether a kind has any object in a namespace, or anywhere when namespace is empty. A
// Reader that has a method of this name answers without making the list.
func Any(r Reader, res resource.Resource, namespace string) bool {
	if quick, ok := r.(interface {
		Any(res resource.Resource, namespace string) bool
	}); ok {
		return quick.Any(res, namespace)
	}
	return len(r.List(res, namespace)) > 0
}

// Indexes that every Reader keeps for every kind, from object metadata alone.
const (
	// ByController files an object under the UID of its controlling owner reference.
	ByController = "controller"
	// ByOrphan files an object without a controlling owner under its namespace.
	ByOrphan = "orphan"
	// ByOwner files an object under the UID of each of its owner references.
	ByOwner = "owner"
)

// Index files objects of one kind under values of its own choosing.
type Index struct {
	Resource resource.Resource
	Name     string
	Values   func(Object) []string
}
