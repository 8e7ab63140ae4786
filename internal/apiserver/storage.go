package apiserver

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/flowcontrol"

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

// collectionOf opens the store's collection of a kind.
func collectionOf(s *store.Store, k kind.Kind) (*store.Collection, error) {
	c, err := s.For(store.Resource{
		Prefix:  keyRoot(k.Resource),
		Codec:   durable.NewCodec(k.GVK(), k.Default),
		New:     k.New,
		NewList: k.NewList,
		Index:   indexes[k.Resource],

		// Package gate waits for it before it takes a watch's seats back.
		WatchStarted: flowcontrol.WatchInitialized,
	})
	if err != nil {
		return nil, fmt.Errorf("open collection of %s: %w", k.Resource, err)
	}
	return c, nil
}
