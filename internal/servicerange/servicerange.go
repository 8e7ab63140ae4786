// Package servicerange reads ServiceCIDRs and IPAddresses: which addresses services may have, and which of them are reserved.
//
// It owns the meaning of their state, which the API goes by when it gives addresses, nodes when they refuse those that no
// service has, and the controller that writes it. It refuses to decide that state (package cluster/serviceip).
package servicerange

import (
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
)

// Gives says whether cluster IPs are given from a ServiceCIDR.
func Gives(c *networkingv1.ServiceCIDR) bool {
	return c.DeletionTimestamp == nil && meta.IsStatusConditionTrue(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
}

// Holds says whether services may have addresses of a ServiceCIDR: of one that goes too, for as long as it is there.
func Holds(c *networkingv1.ServiceCIDR) bool {
	ready := meta.FindStatusCondition(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
	return Gives(c) || c.DeletionTimestamp != nil && ready != nil && ready.Reason == networkingv1.ServiceCIDRReasonTerminating
}

// Of are the ranges of a ServiceCIDR.
func Of(c *networkingv1.ServiceCIDR) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}
