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

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

// Controllers returns the planners.
func Controllers() []plan.Controller {
	pods := plan.Watch{Resource: resource.Pods, Keys: servicesOf}
	return []plan.Controller{
		{
			Name: "endpointslice-controller", For: resource.Services, Plan: planSlices,
			Watches: []plan.Watch{pods, {Resource: resource.EndpointSlices, Keys: ownerOfSlice}, {Resource: resource.Nodes, Keys: zoneless}},
		},
		{
			Name: "endpoint-controller", For: resource.Services, Plan: planEndpoints,
			Watches: []plan.Watch{pods, {Resource: resource.Endpoints, Keys: sameName}},
		},
	}
}

// zoneless asks for nothing: a node's zone is read when its pods change. It keeps nodes in the
// picture.
func zoneless(object.Reader, object.Object, object.Object) []object.Key { return nil }

// servicesOf asks for the services whose endpoints a pod's change alters.
func servicesOf(r object.Reader, before, after object.Object) []object.Key {
	var was, is *corev1.Pod
	if before != nil {
		was = before.(*corev1.Pod)
	}
	if after != nil {
		is = after.(*corev1.Pod)
	}
	if !altered(was, is) {
		return nil
	}
	pod := is
	if pod == nil {
		pod = was
	}
	var keys []object.Key
	for _, o := range r.List(resource.Services, pod.Namespace) {
		s := o.(*corev1.Service)
		if was != nil && selects(s, was) || is != nil && selects(s, is) {
			keys = append(keys, object.KeyOf(s))
		}
	}
	return keys
}

// altered says whether anything changed that an endpoint shows.
func altered(was, is *corev1.Pod) bool {
	if was == nil || is == nil {
		return true
	}
	return was.UID != is.UID || was.Spec.NodeName != is.Spec.NodeName || was.Spec.Hostname != is.Spec.Hostname ||
		(was.DeletionTimestamp == nil) != (is.DeletionTimestamp == nil) || ended(was) != ended(is) || isReady(was) != isReady(is) ||
		!slices.Equal(was.Status.PodIPs, is.Status.PodIPs) || was.Status.PodIP != is.Status.PodIP || !maps.Equal(was.Labels, is.Labels)
}

func selects(s *corev1.Service, p *corev1.Pod) bool {
	if len(s.Spec.Selector) == 0 {
		return false
	}
	for k, v := range s.Spec.Selector {
		if have, ok := p.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

func ended(p *corev1.Pod) bool {
	return podstate.Ended(p)
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func ownerOfSlice(_ object.Reader, before, after object.Object) []object.Key {
	o := after
	if o == nil {
		o = before
	}
	name := o.GetLabels()[discoveryv1.LabelServiceName]
	if name == "" || o.GetLabels()[discoveryv1.LabelManagedBy] != SliceManager {
		return nil
	}
	return []object.Key{{Namespace: o.GetNamespace(), Name: name}}
}

func sameName(_ object.Reader, before, after object.Object) []object.Key {
	o := after
	if o == nil {
		o = before
	}
	return []object.Key{object.KeyOf(o)}
}

// backend is one pod behind a service, with the ports it serves there.
type backend struct {
	pod   *corev1.Pod
	ports []port
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

// backends reads the pods of a service that have an address and have not ended.
func backends(r object.Reader, s *corev1.Service) []backend {
	var out []backend
	for _, o := range r.List(resource.Pods, s.Namespace) {
		p := o.(*corev1.Pod)
		if selects(s, p) && !ended(p) && p.Status.PodIP != "" {
			out = append(out, backend{p, portsOf(s, p)})
		}
	}
	return out
}

func portsOf(s *corev1.Service, p *corev1.Pod) []port {
	var out []port
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
		out = append(out, port{sp.Name, protocol, number, sp.AppProtocol})
	}
	return out
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
