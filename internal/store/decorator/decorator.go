// Package decorator hands the store to k8s.io/apiserver's generic registry.
//
// It owns the shape of generic.RESTOptions and StorageDecorator for our store, in a package of its
// own because the generic registry links upstream's etcd client, which package store does
// without. It refuses policy: codecs, prefixes and indexes are the caller's.
package decorator

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/util/flowcontrol"
	"k8s.io/client-go/tools/cache"

	"coracle/internal/store"
)

// Getter implements generic.RESTOptionsGetter over one store.
type Getter struct {
	Store *store.Store
	// Codec returns the codec of a resource's durable form: encode to the storage version,
	// decode to the in-memory version.
	Codec func(schema.GroupResource) runtime.Codec
	// Prefix returns the key prefix of a resource; nil is "/GROUP/RESOURCE" ("/RESOURCE" for
	// the core group).
	Prefix func(schema.GroupResource) string
	// DeleteCollectionWorkers is how many deletions of a collection go on at once; 0 is 8, so
	// that they share group commits.
	DeleteCollectionWorkers int
}

var _ generic.RESTOptionsGetter = Getter{}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (g Getter) GetRESTOptions(gr schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	prefix := strings.TrimSuffix("/"+gr.Group, "/") + "/" + gr.Resource
	if g.Prefix != nil {
		prefix = g.Prefix(gr)
	}
	workers := g.DeleteCollectionWorkers
	if workers == 0 {
		workers = 8
	}
	return generic.RESTOptions{
		StorageConfig:           storagebackend.NewDefaultConfig("", g.Codec(gr)).ForResource(gr),
		Decorator:               Decorate(g.Store),
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: workers,
		ResourcePrefix:          prefix,
	}, nil
}

// Decorate makes the generic.StorageDecorator that serves a resource from s. Fields with a
// trigger function become indexes. The store is closed by its owner, not by the registry.
func Decorate(s *store.Store) generic.StorageDecorator {
	return func(config *storagebackend.ConfigForResource, prefix string, _ func(runtime.Object) (string, error),
		newFunc, newListFunc func() runtime.Object, _ storage.AttrFunc,
		triggers storage.IndexerFuncs, _ *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		c, err := s.For(store.Resource{
			Prefix: prefix, Codec: config.Codec, New: newFunc, NewList: newListFunc, Index: triggers,
			WatchStarted: flowcontrol.WatchInitialized,
		})
		if err != nil {
			return nil, nil, err
		}
		return c, func() {}, nil
	}
}
