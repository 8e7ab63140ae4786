// Package behind says what stands behind a service: which EndpointSlices name it.
//
// It owns the rule (the label kubernetes.io/service-name, within the namespace) and the index that finds them. It refuses to
// say which of their endpoints serve: that differs for whoever asks.
package behind

import (
	discoveryv1 "k8s.io/api/discovery/v1"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// Index files slices under their service. A Reader must have it for Slices.
var Index = object.Index{Resource: resource.EndpointSlices, Name: "behind.service", Values: func(o object.Object) []string {
	key, ok := ServiceOf(o)
	if !ok {
		return nil
	}
	return []string{key.String()}
}}

// ServiceOf is the service that a slice names.
func ServiceOf(slice object.Object) (object.Key, bool) {
	key := object.Key{Namespace: slice.GetNamespace(), Name: slice.GetLabels()[discoveryv1.LabelServiceName]}
	return key, key.Name != ""
}

// Slices are those that name a service.
func Slices(r object.Reader, service object.Key) []*discoveryv1.EndpointSlice {
	objs := r.Indexed(resource.EndpointSlices, Index.Name, service.String())
	out := make([]*discoveryv1.EndpointSlice, len(objs))
	for i, o := range objs {
		out[i] = o.(*discoveryv1.EndpointSlice)
	}
	return out
}
