package registry

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/flowcontrol"

	"coracle/internal/apiserver/admit"
	"coracle/internal/apiserver/durable"
	"coracle/internal/kind"
	"coracle/internal/resource"
	"coracle/internal/store"
)

const (
	podNode = "spec.nodeName"
	// volumeClaim is namespace/name of the claim in a volume's spec.claimRef. No client selects by it.
	volumeClaim = "spec.claimRef"
)

// indexes lists, by kind, the fields by which objects are found without a scan.
var indexes = map[resource.Resource]storage.IndexerFuncs{
	resource.Pods: {podNode: func(obj runtime.Object) string {
		return obj.(*corev1.Pod).Spec.NodeName
	}},
	resource.PersistentVolumes: {volumeClaim: func(obj runtime.Object) string {
		if ref := obj.(*corev1.PersistentVolume).Spec.ClaimRef; ref != nil {
			return ref.Namespace + "/" + ref.Name
		}
		return ""
	}},
	resource.Events: {"involvedObject.uid": func(obj runtime.Object) string {
		return string(obj.(*corev1.Event).InvolvedObject.UID)
	}},
}

// collections opens the store's collections of all kinds: namespaces first, because others live in them.
func collections(s *store.Store, kinds []kind.Kind) (map[resource.Resource]*store.Collection, error) {
	out := map[resource.Resource]*store.Collection{}
	for _, inNamespaces := range []bool{false, true} {
		for _, k := range kinds {
			if k.Namespaced != inNamespaces {
				continue
			}
			c, err := collectionOf(s, k, out[resource.Namespaces])
			if err != nil {
				return nil, err
			}
			out[k.Resource] = c
		}
	}
	return out, nil
}

// within holds creations against the namespace as it is when they are written: admission saw it a little before.
func within(k kind.Kind, namespaces *store.Collection) *store.Within {
	if !k.Namespaced || namespaces == nil {
		return nil
	}
	root := KeyRoot(k.Resource) + "/"
	split := func(key string) (namespace, name string) {
		namespace, name, _ = strings.Cut(strings.TrimPrefix(key, root), "/")
		return namespace, name
	}
	return &store.Within{
		Of: namespaces,
		Key: func(key string) string {
			namespace, _ := split(key)
			return KeyOf(resource.Namespaces, "", namespace)
		},
		Open: func(container runtime.Object, key string) error {
			namespace, name := split(key)
			ns, _ := container.(*corev1.Namespace)
			return admit.IntoNamespace(ns, k.GroupResource(), namespace, name)
		},
	}
}

// collectionOf opens the store's collection of a kind.
func collectionOf(s *store.Store, k kind.Kind, namespaces *store.Collection) (*store.Collection, error) {
	c, err := s.For(store.Resource{
		Prefix:  KeyRoot(k.Resource),
		Codec:   durable.NewCodec(k.GVK(), k.Default),
		New:     k.New,
		NewList: k.NewList,
		Index:   indexes[k.Resource],
		Within:  within(k, namespaces),

		// Package gate waits for it before it takes a watch's seats back.
		WatchStarted: flowcontrol.WatchInitialized,
	})
	if err != nil {
		return nil, fmt.Errorf("open collection of %s: %w", k.Resource, err)
	}
	return c, nil
}
