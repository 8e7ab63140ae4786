// Package serviceip keeps the objects that tell of cluster IPs: an IPAddress for each address that a Service has, and the
// ServiceCIDRs that addresses are given from (KEP-1880).
//
// It owns three pure planners. It refuses to give addresses: the API does, at once, from the ranges that are ready (package
// kind/address); and IPAddresses that others manage, which reserve theirs.
package serviceip

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/servicerange"
)

// Config is what is known of the cluster's addresses besides its objects.
type Config struct {
	// Taken are ranges that no service may have addresses of, such as that of the pods.
	Taken []netip.Prefix
	// IPv6: services have IPv6 addresses too.
	IPv6 bool
}

// indexAddress files Services under each cluster IP that they have.
const indexAddress = "serviceip.address"

var byAddress = object.Index{Resource: resource.Services, Name: indexAddress, Values: func(o object.Object) []string {
	var out []string
	for _, ip := range addressesOf(o) {
		out = append(out, ip.String())
	}
	return out
}}

// Controllers returns the planners.
func Controllers(cfg Config) []plan.Controller {
	return []plan.Controller{
		{
			Name: "service-ip-controller", For: resource.Services, Plan: planService, Indexes: []object.Index{byAddress},
			Cares: func(before, after object.Object) bool {
				return after != nil && (before == nil || fmt.Sprint(addressesOf(before)) != fmt.Sprint(addressesOf(after)))
			},
			Watches: []plan.Watch{{Resource: resource.IPAddresses, Keys: holders}},
		},
		{
			Name: "ip-address-controller", For: resource.IPAddresses, Plan: planAddress,
			Watches: []plan.Watch{{Resource: resource.Services, Keys: given}},
		},
		{
			Name: "service-cidr-controller", For: resource.ServiceCIDRs, Plan: cfg.planRange,
			Watches: []plan.Watch{
				{Resource: resource.Services, Keys: waitingRanges}, {Resource: resource.IPAddresses, Keys: waitingRanges},
				{Resource: resource.ServiceCIDRs, Keys: leaving}, {Resource: resource.Nodes, Keys: moved},
			},
		},
	}
}

// addressesOf are the cluster IPs of a service.
func addressesOf(o object.Object) []netip.Addr {
	s, ok := o.(*corev1.Service)
	if !ok || s == nil || s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var out []netip.Addr
	for _, text := range s.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

// holders asks for the services that have an address whose object has changed.
func holders(r object.Reader, before, after object.Object) []object.Key {
	o := after
	if o == nil {
		o = before
	}
	var keys []object.Key
	for _, s := range r.Indexed(resource.Services, indexAddress, o.GetName()) {
		keys = append(keys, object.KeyOf(s))
	}
	return keys
}

// given asks for the objects of the addresses that a service has got or given up.
func given(_ object.Reader, before, after object.Object) []object.Key {
	was, is := addressesOf(before), addressesOf(after)
	if fmt.Sprint(was) == fmt.Sprint(is) {
		return nil
	}
	var keys []object.Key
	for _, ip := range append(was, is...) {
		keys = append(keys, object.Key{Name: ip.String()})
	}
	return keys
}

// planService makes the IPAddresses of a service.
func planService(in plan.Input) plan.Plan {
	o, ok := in.Reader.Get(resource.Services, in.Key.Namespace, in.Key.Name)
	if !ok {
		return plan.Plan{}
	}
	var p plan.Plan
	for _, ip := range addressesOf(o) {
		held, ok := in.Reader.Get(resource.IPAddresses, "", ip.String())
		if !ok {
			p.Actions = append(p.Actions, plan.Create{Object: addressFor(ip, o), Because: "a service has the address"})
			continue
		}
		a := held.(*networkingv1.IPAddress)
		if parent, of := parentOf(a); (!of || parent != object.KeyOf(o)) && servicerange.Reserves(a) {
			p.Events = append(p.Events, plan.Event{
				Regarding: object.RefOf(o), Type: corev1.EventTypeWarning, Reason: "IPAddressWrongReference",
				Message: fmt.Sprintf("the service has the address %s, which IPAddress %s reserves for another: delete one of them", ip, a.Name),
			})
		}
		// One of ours that names another service is taken away for that, and made anew then.
	}
	return p
}

func addressFor(ip netip.Addr, s object.Object) *networkingv1.IPAddress {
	family := string(corev1.IPv4Protocol)
	if ip.Is6() {
		family = string(corev1.IPv6Protocol)
	}
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip.String(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: family, networkingv1.LabelManagedBy: servicerange.AddressManager,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: resource.Services.Plural, Namespace: s.GetNamespace(), Name: s.GetName(),
		}},
	}
}

// parentOf is the service that an IPAddress names.
func parentOf(a *networkingv1.IPAddress) (object.Key, bool) {
	p := a.Spec.ParentRef
	if p == nil || p.Group != "" || p.Resource != resource.Services.Plural {
		return object.Key{}, false
	}
	return object.Key{Namespace: p.Namespace, Name: p.Name}, true
}

// planAddress takes away an IPAddress of a cluster IP that the service which it names has not.
func planAddress(in plan.Input) plan.Plan {
	o, ok := in.Reader.Get(resource.IPAddresses, "", in.Key.Name)
	if !ok || o.GetDeletionTimestamp() != nil {
		return plan.Plan{}
	}
	a := o.(*networkingv1.IPAddress)
	if servicerange.Reserves(a) {
		return plan.Plan{}
	}
	parent, of := parentOf(a)
	for _, s := range in.Reader.Indexed(resource.Services, indexAddress, in.Key.Name) {
		if of && object.KeyOf(s) == parent {
			return plan.Plan{}
		}
	}
	return plan.Plan{Actions: []plan.Action{plan.Delete{Object: object.RefOf(o), Because: "the service that it names has not the address"}}}
}

func words(list []netip.Prefix) string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	return strings.Join(out, ", ")
}
