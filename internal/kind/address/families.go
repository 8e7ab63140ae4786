package address

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is4() || ip.Is4In6() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func other(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// families fills in ipFamilyPolicy and ipFamilies as upstream does (KEP-563,
// https://kubernetes.io/docs/concepts/services-networking/dual-stack/): nothing changes between one family and two unless the
// user says so.
func (a *assignment) families() field.ErrorList {
	s := &a.svc.Spec
	if a.preferredAsBefore() {
		return nil
	}
	a.policy()
	errs := a.reduce()
	errs = append(errs, a.tooMany()...)
	errs = append(errs, a.infer()...)
	if len(errs) > 0 {
		return errs
	}
	if Headless(a.svc) && len(s.Selector) == 0 {
		// Whoever writes the endpoints of such a Service decides on their families, whatever those of the cluster are.
		if len(s.IPFamilies) == 0 {
			s.IPFamilies = []corev1.IPFamily{a.book.families[0]}
		}
		a.addOther()
		return nil
	}
	at := field.NewPath("spec")
	if *s.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && len(a.book.families) < 2 {
		errs = append(errs, field.Invalid(at.Child("ipFamilyPolicy"), s.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, family := range s.IPFamilies {
		// What is no family at all is for validation to tell.
		if family == other(other(family)) && !slices.Contains(a.book.families, family) {
			errs = append(errs, field.Invalid(at.Child("ipFamilies").Index(i), family, "not configured on this cluster"))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if len(s.IPFamilies) == 0 {
		s.IPFamilies = []corev1.IPFamily{a.book.families[0]}
	}
	if len(a.book.families) > 1 {
		a.addOther()
	}
	return nil
}

// preferredAsBefore: a Service that prefers two families, and does not change in what it has of them, keeps what it has.
func (a *assignment) preferredAsBefore() bool {
	if a.old == nil || a.old.Spec.Type != a.svc.Spec.Type {
		return false
	}
	now, was := &a.svc.Spec, &a.old.Spec
	prefers := func(p *corev1.IPFamilyPolicy) bool { return ptr.Deref(p, "") == corev1.IPFamilyPolicyPreferDualStack }
	return prefers(now.IPFamilyPolicy) && (was.IPFamilyPolicy == nil || prefers(was.IPFamilyPolicy)) &&
		slices.Equal(now.ClusterIPs, was.ClusterIPs) && slices.Equal(now.IPFamilies, was.IPFamilies)
}

// policy is that of before where the user says none, and else one family: but for endpoints that somebody writes himself.
func (a *assignment) policy() {
	s := &a.svc.Spec
	switch {
	case s.IPFamilyPolicy != nil:
	case a.old != nil && a.old.Spec.IPFamilyPolicy != nil:
		s.IPFamilyPolicy = ptr.To(*a.old.Spec.IPFamilyPolicy)
	case Headless(a.svc) && len(s.Selector) == 0:
		s.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
	default:
		s.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack)
	}
}

// reduce gives up the second family where the user asks for one by the policy alone, and refuses to where he asks otherwise.
func (a *assignment) reduce() field.ErrorList {
	if a.old == nil {
		return nil
	}
	s, was := &a.svc.Spec, &a.old.Spec
	if *s.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack {
		if len(s.ClusterIPs) > 1 && slices.Equal(s.ClusterIPs, was.ClusterIPs) {
			s.ClusterIPs = s.ClusterIPs[:1]
		}
		if len(s.IPFamilies) > 1 && slices.Equal(s.IPFamilies, was.IPFamilies) {
			s.IPFamilies = s.IPFamilies[:1]
		}
		return nil
	}
	var errs field.ErrorList
	at := field.NewPath("spec", "ipFamilyPolicy")
	if len(s.ClusterIPs) > 0 && len(s.ClusterIPs) < len(was.ClusterIPs) {
		errs = append(errs, field.Invalid(at, s.IPFamilyPolicy, "must be 'SingleStack' to release the secondary cluster IP"))
	}
	if len(s.IPFamilies) > 0 && len(s.IPFamilies) < len(was.IPFamilies) {
		errs = append(errs, field.Invalid(at, s.IPFamilyPolicy, "must be 'SingleStack' to release the secondary IP family"))
	}
	return errs
}

// tooMany refuses two of what there is to be one of.
func (a *assignment) tooMany() (errs field.ErrorList) {
	s, at := &a.svc.Spec, field.NewPath("spec", "ipFamilyPolicy")
	if *s.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		return nil
	}
	if len(s.ClusterIPs) == 2 {
		errs = append(errs, field.Invalid(at, s.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"))
	}
	if len(s.IPFamilies) == 2 {
		errs = append(errs, field.Invalid(at, s.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"))
	}
	return errs
}

// infer adds the families of the cluster IPs that the user asks for and says no family of.
func (a *assignment) infer() (errs field.ErrorList) {
	s := &a.svc.Spec
	for i, text := range s.ClusterIPs {
		ip, err := netip.ParseAddr(text)
		if err != nil || i < len(s.IPFamilies) {
			continue // "None", or something for validation to tell
		}
		family := familyOf(ip)
		if !slices.Contains(a.book.families, family) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "clusterIPs").Index(i), s.ClusterIPs, fmt.Sprintf("%s is not configured on this cluster", family)))
			continue
		}
		s.IPFamilies = append(slices.Clip(s.IPFamilies), family)
	}
	return errs
}

// addOther adds the second family to a Service that is to have two.
func (a *assignment) addOther() {
	s := &a.svc.Spec
	if *s.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack && len(s.IPFamilies) == 1 {
		s.IPFamilies = append(slices.Clip(s.IPFamilies), other(s.IPFamilies[0]))
	}
}
