package apiserver

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/apiserver/registry"
	"coracle/internal/client"
	"coracle/internal/resource"
	"coracle/internal/servicerange"
)

// bootstrap writes what every cluster has. What is there already is left as it is, but for the
// kubernetes service's endpoints, which follow the server.
func (s *Server) bootstrap(ctx context.Context) error {
	for _, obj := range initial() {
		if err := s.ensure(ctx, obj); err != nil {
			return err
		}
	}
	if err := s.tellRange(ctx); err != nil {
		return err
	}
	if _, ok := s.set.All[resource.Services]; ok {
		if err := s.ensure(ctx, s.ownService()); err != nil {
			return err
		}
		return s.publish(ctx)
	}
	return nil
}

// ensure creates an object that is not there. It keeps no managed fields: nobody's manifest made
// these objects, and whoever applies one owns what he says (upstream's before-first-apply rule).
// So the merge schema need not be made before the server is ready.
func (s *Server) ensure(ctx context.Context, obj client.Object) error {
	res := resource.Of(obj)
	o, ok := s.set.All[res]
	if !ok {
		return nil
	}
	if _, ok := s.set.Get(res, obj.GetNamespace(), obj.GetName()); ok {
		return nil
	}
	if o.Kind.Default != nil {
		o.Kind.Default(obj)
	}
	ctx = registry.Inside(ctx, obj.GetNamespace())
	if _, err := o.Store.Create(ctx, obj, rest.ValidateAllObjectFunc, &metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create %s %s: %w", res, obj.GetName(), err)
	}
	return nil
}

// The storage classes that every cluster has, and their provisioners.
const (
	localClass        = "local"
	localProvisioner  = "coracle.io/local"
	sharedClass       = "shared"
	sharedProvisioner = "coracle.io/shared"
)

// initial returns the objects that a new cluster starts with.
func initial() []client.Object {
	var objects []client.Object
	for _, name := range []string{
		metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease,
	} {
		objects = append(objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	return append(objects,
		&schedulingv1.PriorityClass{
			ObjectMeta:  metav1.ObjectMeta{Name: registry.SystemNodeCritical},
			Value:       2_000_001_000,
			Description: "Used for system critical pods that must not be moved from their current node.",
		},
		&schedulingv1.PriorityClass{
			ObjectMeta:  metav1.ObjectMeta{Name: registry.SystemClusterCritical},
			Value:       2_000_000_000,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
		},
		storageClass(localClass, localProvisioner, storagev1.VolumeBindingWaitForFirstConsumer, true),
		storageClass(sharedClass, sharedProvisioner, storagev1.VolumeBindingImmediate, false),
	)
}

func storageClass(name, provisioner string, mode storagev1.VolumeBindingMode, isDefault bool) *storagev1.StorageClass {
	reclaim, grows := corev1.PersistentVolumeReclaimDelete, true
	class := &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: name},
		Provisioner: provisioner, ReclaimPolicy: &reclaim, VolumeBindingMode: &mode, AllowVolumeExpansion: &grows,
	}
	if isDefault {
		class.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	}
	return class
}

// tellRange makes the ServiceCIDR that cluster IPs come from, and sees that it says that it is ready.
func (s *Server) tellRange(ctx context.Context) error {
	o, ok := s.set.All[resource.ServiceCIDRs]
	if !ok {
		return nil
	}
	ready := metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue,
		LastTransitionTime: metav1.Now(), Message: "Kubernetes Service CIDR is ready",
	}
	want := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: servicerange.Own}}
	for _, r := range s.cfg.serviceRanges() {
		want.Spec.CIDRs = append(want.Spec.CIDRs, r.Masked().String())
	}
	want.Status.Conditions = []metav1.Condition{ready}
	if err := s.ensure(ctx, want); err != nil {
		return err
	}
	stored, _ := s.set.Get(resource.ServiceCIDRs, "", servicerange.Own)
	held, ok := stored.(*networkingv1.ServiceCIDR)
	if !ok || meta.IsStatusConditionTrue(held.Status.Conditions, ready.Type) {
		return nil
	}
	next := held.DeepCopy()
	meta.SetStatusCondition(&next.Status.Conditions, ready)
	_, _, err := o.Parts["status"].Update(registry.Inside(ctx, ""), next.Name, rest.DefaultUpdatedObjectInfo(next), nil,
		rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("say that the ServiceCIDR %s is ready: %w", next.Name, err)
	}
	return nil
}

// ownName is the name of the service and endpoints by which pods reach the server.
const ownName = "kubernetes"

func ownMeta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: ownName, Namespace: metav1.NamespaceDefault}
}

func (s *Server) ownService() *corev1.Service {
	_, port := s.advertised()
	single := corev1.IPFamilyPolicySingleStack
	ip := firstAddress(s.ownRange()).String()
	meta := ownMeta()
	meta.Labels = map[string]string{"component": "apiserver", "provider": "kubernetes"}
	return &corev1.Service{
		ObjectMeta: meta,
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
			IPFamilyPolicy:  &single,
			SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{
				Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(port),
			}},
		},
	}
}

// serviceRanges are those of cluster IPs, that of services which do not say their family first.
func (c *Config) serviceRanges() []netip.Prefix {
	if !c.SecondServiceCIDR.IsValid() {
		return []netip.Prefix{c.ServiceCIDR}
	}
	return []netip.Prefix{c.ServiceCIDR, c.SecondServiceCIDR}
}

// ownRange is the range that the kubernetes service has its address of: that of the family by which the server is reached.
func (s *Server) ownRange() netip.Prefix {
	for _, r := range s.cfg.serviceRanges() {
		if a := s.cfg.Endpoint.Addr(); a.IsValid() && a.Is4() == r.Addr().Is4() {
			return r
		}
	}
	return s.cfg.ServiceCIDR
}

// firstAddress returns the first address of a range that can be a service's.
func firstAddress(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// publish says where the server is: as Endpoints and as an EndpointSlice. A loopback address
// means nothing to a pod, and the API takes none: then there is nothing to say.
func (s *Server) publish(ctx context.Context) error {
	if a := s.cfg.Endpoint.Addr(); !a.IsValid() || a.IsLoopback() || a.IsUnspecified() {
		return nil
	}
	host, port := s.advertised()
	name, proto := "https", corev1.ProtocolTCP
	mirrored := ownMeta()
	mirrored.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"}
	endpoints := &corev1.Endpoints{ //nolint:staticcheck // clients still read it
		ObjectMeta: mirrored,
		Subsets: []corev1.EndpointSubset{{ //nolint:staticcheck // as above
			Addresses: []corev1.EndpointAddress{{IP: host}},
			Ports:     []corev1.EndpointPort{{Name: name, Port: port, Protocol: proto}},
		}},
	}
	labelled := ownMeta()
	labelled.Labels = map[string]string{discoveryv1.LabelServiceName: ownName}
	isReady := true
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  labelled,
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{host}, Conditions: discoveryv1.EndpointConditions{Ready: &isReady},
		}},
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}},
	}
	if s.cfg.Endpoint.Addr().Is6() {
		slice.AddressType = discoveryv1.AddressTypeIPv6
	}
	for _, obj := range []client.Object{endpoints, slice} {
		if err := s.ensure(ctx, obj.DeepCopyObject().(client.Object)); err != nil {
			return err
		}
		if err := s.follow(ctx, obj); err != nil {
			return err
		}
	}
	return nil
}

// follow makes a stored Endpoints or EndpointSlice say what want says.
func (s *Server) follow(ctx context.Context, want client.Object) error {
	res := resource.Of(want)
	o, ok := s.set.All[res]
	if !ok {
		return nil
	}
	stored, ok := s.set.Get(res, want.GetNamespace(), want.GetName())
	if !ok {
		return nil
	}
	next := stored.DeepCopyObject()
	switch n := next.(type) {
	case *corev1.Endpoints: //nolint:staticcheck // clients still read it
		n.Subsets = want.(*corev1.Endpoints).Subsets //nolint:staticcheck // as above
	case *discoveryv1.EndpointSlice:
		w := want.(*discoveryv1.EndpointSlice)
		if n.AddressType != w.AddressType {
			return nil // immutable; the range of addresses does not change under a cluster
		}
		n.Endpoints, n.Ports = w.Endpoints, w.Ports
	}
	if equality.Semantic.DeepEqual(next, stored) {
		return nil
	}
	ctx = registry.Inside(ctx, want.GetNamespace())
	_, _, err := o.Store.Update(ctx, want.GetName(), rest.DefaultUpdatedObjectInfo(next), nil, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update %s %s: %w", res, want.GetName(), err)
	}
	return nil
}
