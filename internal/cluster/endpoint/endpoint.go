// Package endpoint says which pods stand behind a Service: as EndpointSlices, and as the older
// Endpoints object for clients that still read it.
//
// It owns two pure planners over one reading of a service's pods. It refuses services without a
// selector, whose endpoints are their author's, and objects that another controller manages.
package endpoint

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/behind"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/podstate"
	"coracle/internal/resource"
)

const (
	// SliceManager is the label value on slices of this controller.
	SliceManager = "endpointslice-controller.k8s.io"
	// EndpointsManager is the same for Endpoints, under endpoints.kubernetes.io/managed-by.
	EndpointsManager = "endpoint-controller"

	managedByEndpoints = "endpoints.kubernetes.io/managed-by"
	headless           = "service.kubernetes.io/headless"
)

// legacyLag is how long after a change Endpoints are written, as upstream's --endpoint-updates-batch-period: the slices come first,
// and a burst of changes writes the object of all addresses once. That write is the largest of all that a pod's change brings, and
// whatever is written meanwhile waits behind it.
const legacyLag = time.Second

// Controllers returns the planners.
func Controllers() []plan.Controller {
	pods := plan.Watch{Resource: resource.Pods, Keys: servicesOf}
	return []plan.Controller{
		{
			Name: "endpointslice-controller", For: resource.Services, Plan: planSlices, Indexes: behind.PodIndexes(),
			Watches: []plan.Watch{pods, {Resource: resource.EndpointSlices, Keys: ownerOfSlice}, {Resource: resource.Nodes, Keys: zoneless}},
		},
		{
			Name: "endpoint-controller", For: resource.Services, Plan: planEndpoints, Indexes: behind.PodIndexes(), Lag: legacyLag,
			Watches: []plan.Watch{pods, {Resource: resource.Endpoints, Keys: sameName}},
		},
	}
}

// zoneless asks for nothing: a node's zone is read when its pods change. It keeps nodes in the
// snapshot.
func zoneless(object.Reader, object.Object, object.Object) []object.Key { return nil }

// servicesOf asks for the services whose endpoints a pod's change alters.
func servicesOf(r object.Reader, before, after object.Object) []object.Key {
	was, _ := before.(*corev1.Pod)
	is, _ := after.(*corev1.Pod)
	if !altered(was, is) {
		return nil
	}
	var keys []object.Key
	for _, p := range []*corev1.Pod{is, was} {
		if p == nil || p == was && is != nil && maps.Equal(was.Labels, is.Labels) {
			continue
		}
		for _, s := range behind.Selecting(r, p) {
			if k := object.KeyOf(s); !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	return keys
}

// altered says whether anything changed that an endpoint shows.
func altered(was, is *corev1.Pod) bool {
	if !stands(was) && !stands(is) {
		return false
	}
	if was == nil || is == nil {
		return true
	}
	return was.UID != is.UID || was.Spec.NodeName != is.Spec.NodeName || was.Spec.Hostname != is.Spec.Hostname ||
		(was.DeletionTimestamp == nil) != (is.DeletionTimestamp == nil) || podstate.Ended(was) != podstate.Ended(is) || podstate.Ready(was) != podstate.Ready(is) ||
		!slices.Equal(was.Status.PodIPs, is.Status.PodIPs) || was.Status.PodIP != is.Status.PodIP || !maps.Equal(was.Labels, is.Labels)
}

// stands says whether a pod can be an endpoint: it has an address and has not ended.
func stands(p *corev1.Pod) bool { return p != nil && p.Status.PodIP != "" && !podstate.Ended(p) }

func sameName(_ object.Reader, before, after object.Object) []object.Key {
	o := after
	if o == nil {
		o = before
	}
	return []object.Key{object.KeyOf(o)}
}

// port is a service's port as one pod serves it.
type port struct {
	name        string
	protocol    corev1.Protocol
	number      int32
	appProtocol *string
}

func (p port) same(q port) bool {
	return p.name == q.name && p.protocol == q.protocol && p.number == q.number && deref(p.appProtocol) == deref(q.appProtocol) &&
		(p.appProtocol == nil) == (q.appProtocol == nil)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// podsOf reads the pods of a service that have an address and have not ended.
func podsOf(r object.Reader, s *corev1.Service) []*corev1.Pod {
	return slices.DeleteFunc(behind.Pods(r, s), func(p *corev1.Pod) bool { return !stands(p) })
}

// portsOf appends the ports of a service that a pod serves.
func portsOf(s *corev1.Service, p *corev1.Pod, into []port) []port {
	for i := range s.Spec.Ports {
		sp := &s.Spec.Ports[i]
		number, ok := targetPort(sp, p)
		if !ok {
			continue // the pod has no port of that name: it does not serve this one
		}
		protocol := sp.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		into = append(into, port{sp.Name, protocol, number, sp.AppProtocol})
	}
	return into
}

// targetPort finds the number of the pod's port that a service port leads to.
func targetPort(sp *corev1.ServicePort, p *corev1.Pod) (int32, bool) {
	name := sp.TargetPort.StrVal
	if name == "" {
		if n := sp.TargetPort.IntVal; n != 0 {
			return n, true
		}
		return sp.Port, true
	}
	protocol := sp.Protocol
	if protocol == "" {
		protocol = corev1.ProtocolTCP
	}
	find := func(c *corev1.Container) (int32, bool) {
		for _, cp := range c.Ports {
			if cp.Name == name && (cp.Protocol == protocol || cp.Protocol == "" && protocol == corev1.ProtocolTCP) {
				return cp.ContainerPort, true
			}
		}
		return 0, false
	}
	for i := range p.Spec.Containers {
		if n, ok := find(&p.Spec.Containers[i]); ok {
			return n, true
		}
	}
	for i := range p.Spec.InitContainers {
		// Sidecars serve as long as the pod does (KEP-753).
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			if n, ok := find(c); ok {
				return n, true
			}
		}
	}
	return 0, false
}

// addressOf is the pod's address of a family. A node says what it is: one that no endpoint may have, for it means another
// machine to each that reads it, would have all endpoints of the service refused.
func addressOf(p *corev1.Pod, family discoveryv1.AddressType) (string, bool) {
	ips := p.Status.PodIPs
	if len(ips) == 0 {
		ips = []corev1.PodIP{{IP: p.Status.PodIP}}
	}
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip.IP); err == nil && ordinary(a) && a.Is6() == (family == discoveryv1.AddressTypeIPv6) {
			return ip.IP, true
		}
	}
	return "", false
}

func ordinary(a netip.Addr) bool {
	plain := a.Unmap()
	return a.Zone() == "" && !plain.IsUnspecified() && !plain.IsLoopback() && !plain.IsLinkLocalUnicast() && !plain.IsLinkLocalMulticast()
}

// hostnameOf is the name that DNS gives the pod under the service, if any.
func hostnameOf(s *corev1.Service, p *corev1.Pod) string {
	if p.Spec.Hostname != "" && p.Spec.Subdomain == s.Name {
		return p.Spec.Hostname
	}
	return ""
}

func targetRef(p *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
}

// labelsFor are the service's own labels with those that mark the object.
func labelsFor(s *corev1.Service, marks map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range s.Labels {
		if k != headless && k != discoveryv1.LabelServiceName && k != discoveryv1.LabelManagedBy && k != managedByEndpoints {
			out[k] = v
		}
	}
	maps.Copy(out, marks)
	if s.Spec.ClusterIP == corev1.ClusterIPNone {
		out[headless] = ""
	}
	return out
}

func ownerRef(s *corev1.Service) []metav1.OwnerReference {
	return []metav1.OwnerReference{*metav1.NewControllerRef(s, corev1.SchemeGroupVersion.WithKind("Service"))}
}

func getService(in plan.Input) *corev1.Service {
	if o, ok := in.Reader.Get(resource.Services, in.Key.Namespace, in.Key.Name); ok {
		return o.(*corev1.Service)
	}
	return nil
}
