package endpoint

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/behind"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// ownerOfSlice asks for the service of a slice that somebody else has changed. A slice's write by this controller comes back
// as a change too, and one look at a service costs what the service is large: a write that left the slice as its pods say asks
// for none, and to see that costs what the slice is large.
func ownerOfSlice(r object.Reader, before, after object.Object) []object.Key {
	o := after
	if o == nil {
		o = before
	}
	if o.GetLabels()[discoveryv1.LabelManagedBy] != SliceManager && (before == nil || before.GetLabels()[discoveryv1.LabelManagedBy] != SliceManager) {
		return nil
	}
	var keys []object.Key
	for _, o := range []object.Object{after, before} {
		if o == nil {
			continue
		}
		key, ok := behind.ServiceOf(o)
		if ok && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	was, _ := before.(*discoveryv1.EndpointSlice)
	is, _ := after.(*discoveryv1.EndpointSlice)
	if len(keys) == 1 && was != nil && is != nil && asPodsSay(r, keys[0], was, is) {
		return nil
	}
	return keys
}

// asPodsSay says whether a change of a slice can have made nothing wrong: all that it says now is what its pods say, nothing that it
// said before is lacking now, and what it says anew no other slice says. What was wrong before is others' to ask about.
func asPodsSay(r object.Reader, key object.Key, was, is *discoveryv1.EndpointSlice) bool {
	o, ok := r.Get(resource.Services, key.Namespace, key.Name)
	if !ok {
		return false
	}
	s := o.(*corev1.Service)
	if s.DeletionTimestamp != nil || s.Spec.Type == corev1.ServiceTypeExternalName || len(s.Spec.Selector) == 0 || !sameFrame(was, is) || !owns(s, is) {
		return false
	}
	ports := fromSlice(is.Ports)
	said := make(map[types.UID]bool, len(is.Endpoints))
	for i := range is.Endpoints {
		e := &is.Endpoints[i]
		m, ok := memberNamed(r, s, e.TargetRef, is.AddressType, ports)
		if !ok || said[m.pod.UID] || !m.is(e) {
			return false
		}
		said[m.pod.UID] = true
	}
	for i := range was.Endpoints {
		ref := was.Endpoints[i].TargetRef
		if ref != nil && said[ref.UID] {
			delete(said, ref.UID)
			continue
		}
		if _, still := memberNamed(r, s, ref, is.AddressType, ports); still {
			return false
		}
	}
	// An empty slice goes, unless there is no other.
	return len(is.Endpoints) > 0 && !saidElsewhere(r, s, is, said)
}

// sameFrame says whether two states of a slice differ in nothing but its endpoints, of all that a slice is planned by.
func sameFrame(was, is *discoveryv1.EndpointSlice) bool {
	return was.UID == is.UID && is.DeletionTimestamp == nil && was.AddressType == is.AddressType && maps.Equal(was.Labels, is.Labels) &&
		slices.EqualFunc(fromSlice(was.Ports), fromSlice(is.Ports), port.same)
}

// memberNamed finds the pod that an endpoint is of; ok says that a slice of these ports is to have it.
func memberNamed(r object.Reader, s *corev1.Service, ref *corev1.ObjectReference, family discoveryv1.AddressType, ports []port) (m member, ok bool) {
	if ref == nil {
		return m, false
	}
	o, ok := r.Get(resource.Pods, s.Namespace, ref.Name)
	if !ok {
		return m, false
	}
	p := o.(*corev1.Pod)
	address, has := addressOf(p, family)
	if p.UID != ref.UID || !stands(p) || !behind.Selects(s, p) || !has || !slices.EqualFunc(portsOf(s, p, nil), ports, port.same) {
		return m, false
	}
	return memberOf(r, s, p, address), true
}

// saidElsewhere says whether another slice of the service and the family says something of these pods.
func saidElsewhere(r object.Reader, s *corev1.Service, is *discoveryv1.EndpointSlice, pods map[types.UID]bool) bool {
	if len(pods) == 0 {
		return false
	}
	for _, o := range r.Indexed(resource.EndpointSlices, object.ByController, string(s.UID)) {
		sl := o.(*discoveryv1.EndpointSlice)
		if sl.Name == is.Name || sl.AddressType != is.AddressType {
			continue
		}
		for i := range sl.Endpoints {
			if ref := sl.Endpoints[i].TargetRef; ref != nil && pods[ref.UID] {
				return true
			}
		}
	}
	return false
}
