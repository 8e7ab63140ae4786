package apiserver

import (
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/kind"
	"coracle/internal/resource"
	"coracle/internal/scheme"
	"coracle/internal/store"
)

// indexes lists, by kind, the fields by which objects are found without a scan.
var indexes = map[resource.Resource]storage.IndexerFuncs{
	resource.Pods: {"spec.nodeName": func(obj runtime.Object) string {
		return obj.(*corev1.Pod).Spec.NodeName
	}},
	resource.Events: {"involvedObject.uid": func(obj runtime.Object) string {
		return string(obj.(*corev1.Event).InvolvedObject.UID)
	}},
}

// collectionOf opens the store's collection of a kind.
func collectionOf(s *store.Store, k kind.Kind) (*store.Collection, error) {
	c, err := s.For(store.Resource{
		Prefix:  keyRoot(k.Resource),
		Codec:   newStorageCodec(k.GVK(), k.Default),
		New:     k.New,
		NewList: k.NewList,
		Index:   indexes[k.Resource],
	})
	if err != nil {
		return nil, fmt.Errorf("open collection of %s: %w", k.Resource, err)
	}
	return c, nil
}

// storageCodec is the durable form of one kind: Kubernetes protobuf of the version served, as
// etcd of an upstream cluster holds it. It converts nothing, because the version served is the
// version in memory.
type storageCodec struct {
	gvk      schema.GroupVersionKind
	raw      runtime.Serializer
	defaults func(runtime.Object)
}

func newStorageCodec(gvk schema.GroupVersionKind, defaults func(runtime.Object)) storageCodec {
	return storageCodec{gvk, protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), defaults}
}

// Identifier implements runtime.Encoder.
func (c storageCodec) Identifier() runtime.Identifier {
	return runtime.Identifier("storage/" + c.gvk.String())
}

// Encode implements runtime.Encoder.
func (c storageCodec) Encode(obj runtime.Object, w io.Writer) error {
	obj = shallowCopy(obj)
	obj.GetObjectKind().SetGroupVersionKind(c.gvk)
	return c.raw.Encode(obj, w)
}

// Decode implements runtime.Decoder. Defaults are filled in on reading, as upstream does: an
// object written by an older release gets those that are new.
func (c storageCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, gvk, err := c.raw.Decode(data, defaults, into)
	if err != nil {
		return nil, gvk, err
	}
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	if c.defaults != nil {
		c.defaults(obj)
	}
	return obj, gvk, nil
}
