package kind

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/check"
	"coracle/internal/resource"
)

// networkPolicies say who may speak with the pods of a namespace.
var networkPolicies = Kind{
	Resource: resource.NetworkPolicies, Singular: "networkpolicy", ShortNames: []string{"netpol"},
	New:     func() runtime.Object { return &networkingv1.NetworkPolicy{} },
	NewList: func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
	Default: func(o runtime.Object) { defaultNetworkPolicy(&o.(*networkingv1.NetworkPolicy).Spec) },
	Strategy: newStrategy(resource.NetworkPolicies, rules[*networkingv1.NetworkPolicy]{
		prepareCreate: func(p *networkingv1.NetworkPolicy) { p.Generation = 1 },
		prepareUpdate: func(p, old *networkingv1.NetworkPolicy) { bump(p, !equality.Semantic.DeepEqual(&p.Spec, &old.Spec)) },
		validate: func(p *networkingv1.NetworkPolicy) field.ErrorList {
			return append(validMeta(&p.ObjectMeta, true, validation.NameIsDNSSubdomain), validateNetworkPolicy(&p.Spec, nil)...)
		},
		validateUpdate: func(p, old *networkingv1.NetworkPolicy) field.ErrorList {
			return validateNetworkPolicy(&p.Spec, &old.Spec)
		},
		warn: func(p, _ *networkingv1.NetworkPolicy) []string {
			return warnBlocks(&p.Spec)
		},
	}),
	Columns: newTable(func(p *networkingv1.NetworkPolicy, now time.Time) []any {
		return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), age(p.CreationTimestamp, now)}
	}, nameColumn(),
		col("Pod-Selector", "string", "The pods that it is about."),
		ageColumn()),
	GetAttrs:         attrsOf(resource.NetworkPolicies, selectable[*networkingv1.NetworkPolicy]{}),
	SelectableFields: metaFields(resource.NetworkPolicies),
}

func defaultNetworkPolicy(s *networkingv1.NetworkPolicySpec) {
	ports := func(list []networkingv1.NetworkPolicyPort) {
		for i := range list {
			if list[i].Protocol == nil {
				list[i].Protocol = ptr.To(corev1.ProtocolTCP)
			}
		}
	}
	for i := range s.Ingress {
		ports(s.Ingress[i].Ports)
	}
	for i := range s.Egress {
		ports(s.Egress[i].Ports)
	}
	if len(s.PolicyTypes) == 0 {
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(s.Egress) > 0 {
			s.PolicyTypes = append(s.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

// policyRules holds a policy against the rules; known are the address ranges that it had before, which are not checked anew,
// and lax says that its selector had a value then which would not be taken today.
type policyRules struct {
	known []string
	lax   bool
}

func validateNetworkPolicy(s, old *networkingv1.NetworkPolicySpec) field.ErrorList {
	var v policyRules
	if old != nil {
		eachBlock(old, func(_ *field.Path, b *networkingv1.IPBlock) { v.known = append(append(v.known, b.CIDR), b.Except...) })
		v.lax = len(v.selector(&old.PodSelector, nil)) > 0
	}
	errs := v.selector(&s.PodSelector, specPath.Child("podSelector"))
	for i := range s.Ingress {
		at := specPath.Child("ingress").Index(i)
		errs = append(errs, v.rule(s.Ingress[i].Ports, s.Ingress[i].From, at, "from")...)
	}
	for i := range s.Egress {
		at := specPath.Child("egress").Index(i)
		errs = append(errs, v.rule(s.Egress[i].Ports, s.Egress[i].To, at, "to")...)
	}
	at := specPath.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(at, &s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			errs = append(errs, field.NotSupported(at.Index(i), t, []networkingv1.PolicyType{
				networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress,
			}))
		}
	}
	return errs
}

func (v *policyRules) selector(s *metav1.LabelSelector, at *field.Path) field.ErrorList {
	return metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: v.lax}, at)
}

func (v *policyRules) rule(ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer,
	at *field.Path, whom string) field.ErrorList {
	var errs field.ErrorList
	for i := range ports {
		errs = append(errs, validatePolicyPort(&ports[i], at.Child("ports").Index(i))...)
	}
	for i := range peers {
		errs = append(errs, v.peer(&peers[i], at.Child(whom).Index(i))...)
	}
	return errs
}

func validatePolicyPort(p *networkingv1.NetworkPolicyPort, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.Protocol != nil {
		errs = append(errs, check.Among(at.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	switch end := at.Child("endPort"); {
	case p.Port == nil:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
		}
	case p.Port.Type == intstr.Int:
		errs = append(errs, check.Says(at.Child("port"), p.Port.IntVal, utilvalidation.IsValidPortNum(int(p.Port.IntVal)))...)
		if p.EndPort != nil {
			if *p.EndPort < p.Port.IntVal {
				errs = append(errs, field.Invalid(end, *p.EndPort, "must be greater than or equal to `port`"))
			}
			errs = append(errs, check.Says(end, *p.EndPort, utilvalidation.IsValidPortNum(int(*p.EndPort)))...)
		}
	default:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
		}
		errs = append(errs, check.Says(at.Child("port"), p.Port.StrVal, utilvalidation.IsValidPortName(p.Port.StrVal))...)
	}
	return errs
}

func (v *policyRules) peer(p *networkingv1.NetworkPolicyPeer, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	peers := 0
	if p.PodSelector != nil {
		peers++
		errs = append(errs, v.selector(p.PodSelector, at.Child("podSelector"))...)
	}
	if p.NamespaceSelector != nil {
		peers++
		errs = append(errs, v.selector(p.NamespaceSelector, at.Child("namespaceSelector"))...)
	}
	if p.IPBlock != nil {
		peers++
		errs = append(errs, v.block(p.IPBlock, at.Child("ipBlock"))...)
	}
	switch {
	case peers == 0:
		errs = append(errs, field.Required(at, "must specify a peer"))
	case peers > 1 && p.IPBlock != nil:
		errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
	}
	return errs
}

func (v *policyRules) block(b *networkingv1.IPBlock, at *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(at.Child("cidr"), "")}
	}
	errs := utilvalidation.IsValidCIDRForLegacyField(at.Child("cidr"), b.CIDR, false, v.known)
	_, whole, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil {
		return errs
	}
	size, _ := whole.Mask.Size()
	for i, text := range b.Except {
		at := at.Child("except").Index(i)
		errs = append(errs, utilvalidation.IsValidCIDRForLegacyField(at, text, false, v.known)...)
		_, part, err := netutils.ParseCIDRSloppy(text)
		if err != nil {
			continue
		}
		if partSize, _ := part.Mask.Size(); !whole.Contains(part.IP) || size >= partSize {
			errs = append(errs, field.Invalid(at, text, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

// eachBlock visits the address blocks of a policy.
func eachBlock(s *networkingv1.NetworkPolicySpec, visit func(at *field.Path, b *networkingv1.IPBlock)) {
	peers := func(at *field.Path, list []networkingv1.NetworkPolicyPeer) {
		for i := range list {
			if b := list[i].IPBlock; b != nil {
				visit(at.Index(i).Child("ipBlock"), b)
			}
		}
	}
	for i := range s.Ingress {
		peers(specPath.Child("ingress").Index(i).Child("from"), s.Ingress[i].From)
	}
	for i := range s.Egress {
		peers(specPath.Child("egress").Index(i).Child("to"), s.Egress[i].To)
	}
}

// warnBlocks warns of ranges that are written in ways which readers take for different ones.
func warnBlocks(s *networkingv1.NetworkPolicySpec) []string {
	var warnings []string
	eachBlock(s, func(at *field.Path, b *networkingv1.IPBlock) {
		warnings = append(warnings, warnRangeText(at.Child("cidr"), b.CIDR)...)
		for i, text := range b.Except {
			warnings = append(warnings, warnRangeText(at.Child("except").Index(i), text)...)
		}
	})
	return warnings
}

func warnRangeText(at *field.Path, text string) []string {
	if p, err := netip.ParsePrefix(text); err == nil && p.Masked().String() == text {
		return nil // the usual case, without the reading again
	}
	if _, _, err := netutils.ParseCIDRSloppy(text); err != nil {
		return nil // refused
	}
	return utilvalidation.GetWarningsForCIDR(at, text)
}
