package endpoint

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
)

// Endpoints hold a thousand addresses at most; more are cut off, and the annotation says so.
const (
	maxAddresses = 1000
	overCapacity = "endpoints.kubernetes.io/over-capacity"
	truncated    = "truncated"
)

func planEndpoints(in plan.Input) plan.Plan {
	s := getService(in)
	var old *corev1.Endpoints //nolint:staticcheck // written for clients that still read it
	if o, ok := in.Reader.Get(resource.Endpoints, in.Key.Namespace, in.Key.Name); ok {
		old = o.(*corev1.Endpoints) //nolint:staticcheck // as above
	}
	switch {
	case s == nil || s.DeletionTimestamp != nil:
		if old == nil || old.Labels[managedByEndpoints] != EndpointsManager {
			return plan.Plan{}
		}
		return plan.Plan{Actions: []plan.Action{plan.Delete{
			Object: object.RefOf(old), Because: "its service is gone",
			When: plan.AllAbsent(object.Ref{Resource: resource.Services, Key: in.Key}),
		}}}
	case len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName:
		return plan.Plan{}
	}
	subsets, cut := subsetsOf(s, backends(in.Reader, s))
	labels := labelsFor(s, map[string]string{managedByEndpoints: EndpointsManager})
	if old == nil {
		e := &corev1.Endpoints{ //nolint:staticcheck // as above
			ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, Labels: labels}, Subsets: subsets,
		}
		markCut(&e.ObjectMeta, cut)
		return plan.Plan{Actions: []plan.Action{plan.Create{Object: e, Because: "the service has no Endpoints"}}}
	}
	if maps.Equal(old.Labels, labels) && apiequality.Semantic.DeepEqual(old.Subsets, subsets) && (old.Annotations[overCapacity] == truncated) == cut {
		return plan.Plan{}
	}
	next := old.DeepCopy()
	next.Labels, next.Subsets = labels, subsets
	markCut(&next.ObjectMeta, cut)
	return plan.Plan{Actions: []plan.Action{plan.Update{Object: next, Because: "its endpoints changed"}}}
}

func markCut(m *metav1.ObjectMeta, cut bool) {
	if !cut {
		delete(m.Annotations, overCapacity)
		return
	}
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[overCapacity] = truncated
}

// subsetsOf groups addresses that serve the same ports, in a stable order. Pods that are
// terminating are left out unless the service publishes all.
func subsetsOf(s *corev1.Service, all []backend) (out []corev1.EndpointSubset, cut bool) { //nolint:staticcheck // as above
	family := families(s)[0]
	count := 0
	for _, b := range all {
		address, ok := addressOf(b.pod, family)
		if !ok || b.pod.DeletionTimestamp != nil && !s.Spec.PublishNotReadyAddresses {
			continue
		}
		if len(s.Spec.Ports) > 0 && len(b.ports) == 0 {
			continue
		}
		if count++; count > maxAddresses {
			return out, true
		}
		ports := toEndpoints(b.ports)
		at := slices.IndexFunc(out, func(sub corev1.EndpointSubset) bool { return apiequality.Semantic.DeepEqual(sub.Ports, ports) }) //nolint:staticcheck // as above
		if at < 0 {
			at, out = len(out), append(out, corev1.EndpointSubset{Ports: ports}) //nolint:staticcheck // as above
		}
		a := corev1.EndpointAddress{IP: address, TargetRef: targetRef(b.pod), Hostname: hostnameOf(s, b.pod)}
		if b.pod.Spec.NodeName != "" {
			a.NodeName = new(b.pod.Spec.NodeName)
		}
		if isReady(b.pod) || s.Spec.PublishNotReadyAddresses {
			out[at].Addresses = append(out[at].Addresses, a)
		} else {
			out[at].NotReadyAddresses = append(out[at].NotReadyAddresses, a)
		}
	}
	byIP := func(a, b corev1.EndpointAddress) int {
		return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
	}
	for i := range out {
		slices.SortFunc(out[i].Addresses, byIP)
		slices.SortFunc(out[i].NotReadyAddresses, byIP)
	}
	return out, false
}

func toEndpoints(ports []port) []corev1.EndpointPort {
	var out []corev1.EndpointPort
	for _, p := range ports {
		out = append(out, corev1.EndpointPort{Name: p.name, Port: p.number, Protocol: p.protocol, AppProtocol: p.appProtocol})
	}
	return out
}
