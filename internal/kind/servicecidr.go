package kind

import (
	"slices"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"coracle/internal/kind/check"
	"coracle/internal/resource"
)

// serviceCIDRs are the ranges of cluster IPs.
var serviceCIDRs = Kind{
	Resource: resource.ServiceCIDRs, Singular: "servicecidr",
	New:     func() runtime.Object { return &networkingv1.ServiceCIDR{} },
	NewList: func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
	Strategy: newStrategy(resource.ServiceCIDRs, rules[*networkingv1.ServiceCIDR]{
		validate: func(c *networkingv1.ServiceCIDR) field.ErrorList {
			return append(validMeta(&c.ObjectMeta, false, validation.NameIsDNSSubdomain), validateRanges(c.Spec.CIDRs, &c.Spec)...)
		},
		validateUpdate: validateServiceCIDRUpdate,
		resets:         []string{"status"},
	}),
	Status: newStrategy(resource.ServiceCIDRs, rules[*networkingv1.ServiceCIDR]{
		prepareUpdate: func(c, old *networkingv1.ServiceCIDR) { c.Spec = old.Spec },
		resets:        []string{"spec"},
	}),
	Columns: newTable(func(c *networkingv1.ServiceCIDR, now time.Time) []any {
		return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), age(c.CreationTimestamp, now)}
	}, nameColumn(),
		col("CIDRs", "string", "The ranges of addresses."),
		ageColumn()),
	GetAttrs:         attrsOf(resource.ServiceCIDRs, selectable[*networkingv1.ServiceCIDR]{}),
	SelectableFields: metaFields(resource.ServiceCIDRs),
	Hooks:            serviceCIDRHooks,
}

// validateRanges takes one range, or one of each family.
func validateRanges(ranges []string, spec *networkingv1.ServiceCIDRSpec) field.ErrorList {
	at := specPath.Child("cidrs")
	switch {
	case len(ranges) == 0:
		return field.ErrorList{field.Required(at, "at least one CIDR required")}
	case len(ranges) > 2:
		return field.ErrorList{field.Invalid(at, spec, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	for i, text := range ranges {
		errs = append(errs, utilvalidation.IsValidCIDR(at.Index(i), text)...)
	}
	if len(ranges) == 2 {
		first, second := netutils.IPFamilyOfCIDRString(ranges[0]), netutils.IPFamilyOfCIDRString(ranges[1])
		if first == second && first != netutils.IPFamilyUnknown {
			errs = append(errs, field.Invalid(at, ranges, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
		}
	}
	return errs
}

// validateServiceCIDRUpdate lets a range of a second family come to that of the first, and nothing else change.
func validateServiceCIDRUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	at, now, before := specPath.Child("cidrs"), c.Spec.CIDRs, old.Spec.CIDRs
	grows := len(before) == 1 && len(now) == 2
	if len(now) != len(before) && !grows {
		return field.ErrorList{field.Invalid(at, now, validation.FieldImmutableErrorMsg)}
	}
	var errs field.ErrorList
	for i := range before {
		if now[i] != before[i] {
			errs = append(errs, field.Invalid(at.Index(i), now[i], validation.FieldImmutableErrorMsg))
		}
	}
	if grows {
		errs = append(errs, validateRanges(now, &c.Spec)...)
	}
	return errs
}

// ipAddresses are addresses that somebody uses.
var ipAddresses = Kind{
	Resource: resource.IPAddresses, Singular: "ipaddress", ShortNames: []string{"ip"},
	New:     func() runtime.Object { return &networkingv1.IPAddress{} },
	NewList: func() runtime.Object { return &networkingv1.IPAddressList{} },
	Strategy: newStrategy(resource.IPAddresses, rules[*networkingv1.IPAddress]{
		validate: func(a *networkingv1.IPAddress) field.ErrorList {
			return append(validMeta(&a.ObjectMeta, false, nameIsIP), validateParent(a.Spec.ParentRef, specPath.Child("parentRef"))...)
		},
		validateUpdate: func(a, old *networkingv1.IPAddress) field.ErrorList {
			return check.Unchanged(specPath.Child("parentRef"), a.Spec.ParentRef, old.Spec.ParentRef)
		},
	}),
	Columns: newTable(func(a *networkingv1.IPAddress, now time.Time) []any {
		return []any{a.Name, parentName(a.Spec.ParentRef), age(a.CreationTimestamp, now)}
	}, nameColumn(),
		col("ParentRef", "string", "Whose address it is."),
		ageColumn()),
	GetAttrs:         attrsOf(resource.IPAddresses, selectable[*networkingv1.IPAddress]{}),
	SelectableFields: metaFields(resource.IPAddresses),
	Hooks:            ipAddressHooks,
}

func nameIsIP(name string, _ bool) []string {
	var complaints []string
	for _, e := range utilvalidation.IsValidIP(&field.Path{}, name) {
		complaints = append(complaints, e.Detail)
	}
	return complaints
}

func parentName(p *networkingv1.ParentReference) string {
	if p == nil {
		return none
	}
	parts := []string{strings.ToLower(schema.GroupResource{Group: p.Group, Resource: p.Resource}.String()), p.Namespace, p.Name}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "/")
}

func validateParent(p *networkingv1.ParentReference, at *field.Path) field.ErrorList {
	if p == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if p.Group != "" {
		errs = append(errs, check.Subdomain(at.Child("group"), p.Group)...)
	}
	errs = append(errs, requireSegment(at.Child("resource"), p.Resource)...)
	errs = append(errs, requireSegment(at.Child("name"), p.Name)...)
	if p.Namespace != "" {
		errs = append(errs, requireSegment(at.Child("namespace"), p.Namespace)...)
	}
	return errs
}
