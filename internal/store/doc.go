// Package store is the cluster's memory: every object, decoded and shared, under one revision
// counter, in an ordered multi-version index, durable by group commit.
//
// It owns revisions, consistent lists, watches, retained history, expiry and the order in which
// a write becomes durable and then visible. It implements k8s.io/apiserver/pkg/storage.Interface
// once per resource (Collection), over one Store for the whole cluster.
//
// It refuses to know kinds: an object is a key, bytes made by the caller's codec, and
// metav1.ObjectMeta. Defaults, validation, admission and conversion belong to its callers; how
// bytes reach the disk belongs to package engine and its implementations.
//
// # What is shared
//
// A stored object is immutable. The same pointer goes to every reader that asks for pointers:
// Collection.Object, Collection.Objects and watches opened with a Shared context. They must not
// change it. The storage.Interface methods fill the caller's object with a shallow copy: its
// top-level fields (TypeMeta, the fields of ObjectMeta) are the caller's own, what they point to
// is shared and must not be changed. Watches without a Shared context deliver a
// runtime.CacheableObject, as upstream's watch cache does: the API server's encoders set the
// kind on a private shallow copy and encode each event once for all watchers.
//
// # Order of a write
//
// A writer encodes its object, takes the next revision and becomes visible to other writers of
// that key only; the committer hands whole batches to the engine; once the engine says durable,
// readers see the revision, the writer is answered, and watchers get the event, in this order.
package store
