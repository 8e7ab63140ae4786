package kind

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"coracle/internal/kind/check"
	"coracle/internal/resource"
)

// Endpoints is deprecated upstream in favour of EndpointSlice and served for clients that still
// read it.
//
//nolint:staticcheck // see above
type endpointsObject = corev1.Endpoints

var endpoints = Kind{
	Resource: resource.Endpoints, Singular: "endpoints", ShortNames: []string{"ep"},
	New:     func() runtime.Object { return &endpointsObject{} },
	NewList: func() runtime.Object { return &corev1.EndpointsList{} },
	Default: func(o runtime.Object) {
		e := o.(*endpointsObject)
		for i := range e.Subsets {
			for j := range e.Subsets[i].Ports {
				if p := &e.Subsets[i].Ports[j]; p.Protocol == "" {
					p.Protocol = corev1.ProtocolTCP
				}
			}
		}
	},
	Strategy: newStrategy(resource.Endpoints, rules[*endpointsObject]{
		validate: validateEndpoints,
		validateUpdate: func(e, old *endpointsObject) field.ErrorList {
			return validateEndpoints(e)
		},
		createOnUpdate: true,
	}),
	Columns: newTable(func(e *endpointsObject, now time.Time) []any {
		return []any{e.Name, endpointsCell(e), age(e.CreationTimestamp, now)}
	}, nameColumn(), col("Endpoints", "string", "Addresses and ports that are ready."), ageColumn()),
	GetAttrs:         attrsOf(resource.Endpoints, selectable[*endpointsObject]{}),
	SelectableFields: metaFields(resource.Endpoints),
}

// maxShown is how many addresses or ports a table cell names before it counts the rest.
const maxShown = 3

func shown(list []string, total int, empty string) string {
	if len(list) == 0 {
		return empty
	}
	out := strings.Join(list, ",")
	if more := total - len(list); more > 0 {
		out += fmt.Sprintf(" + %d more...", more)
	}
	return out
}

func endpointsCell(e *endpointsObject) string {
	var list []string
	total := 0
	add := func(s string) {
		if total++; len(list) < maxShown {
			list = append(list, s)
		}
	}
	for i := range e.Subsets {
		s := &e.Subsets[i]
		if len(s.Ports) == 0 {
			for j := range s.Addresses {
				add(s.Addresses[j].IP)
			}
		}
		for j := range s.Ports {
			for k := range s.Addresses {
				add(net.JoinHostPort(s.Addresses[k].IP, strconv.Itoa(int(s.Ports[j].Port))))
			}
		}
	}
	return shown(list, total, none)
}

func validateEndpoints(e *endpointsObject) field.ErrorList {
	errs := validMeta(&e.ObjectMeta, true, validation.NameIsDNSSubdomain)
	for i := range e.Subsets {
		s, at := &e.Subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range s.Addresses {
			errs = append(errs, validateEndpointAddress(&s.Addresses[j], at.Child("addresses").Index(j))...)
		}
		for j := range s.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(&s.NotReadyAddresses[j], at.Child("notReadyAddresses").Index(j))...)
		}
		for j := range s.Ports {
			p, at := &s.Ports[j], at.Child("ports").Index(j)
			if p.Name != "" {
				errs = append(errs, check.Label(at.Child("name"), p.Name)...)
			} else if len(s.Ports) > 1 {
				errs = append(errs, field.Required(at.Child("name"), ""))
			}
			errs = append(errs, check.Port(at.Child("port"), p.Port)...)
			errs = append(errs, check.OneOf(at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
			if p.AppProtocol != nil {
				errs = append(errs, check.Qualified(at.Child("appProtocol"), *p.AppProtocol)...)
			}
		}
	}
	return errs
}

func validateEndpointAddress(a *corev1.EndpointAddress, at *field.Path) field.ErrorList {
	errs := utilvalidation.IsValidIPForLegacyField(at.Child("ip"), a.IP, false, nil)
	if a.Hostname != "" {
		errs = append(errs, check.Label(at.Child("hostname"), a.Hostname)...)
	}
	if a.NodeName != nil {
		errs = append(errs, check.Subdomain(at.Child("nodeName"), *a.NodeName)...)
	}
	if len(errs) == 0 {
		errs = append(errs, validateOrdinaryIP(a.IP, at.Child("ip"))...)
	}
	return errs
}

// validateOrdinaryIP refuses addresses that mean another machine to each that reads them.
func validateOrdinaryIP(s string, at *field.Path) field.ErrorList {
	ip := netutils.ParseIPSloppy(s)
	var errs field.ErrorList
	switch {
	case ip == nil:
		errs = append(errs, field.Invalid(at, s, "must be a valid IP address"))
	case ip.IsUnspecified():
		errs = append(errs, field.Invalid(at, s, fmt.Sprintf("may not be unspecified (%v)", s)))
	case ip.IsLoopback():
		errs = append(errs, field.Invalid(at, s, "may not be in the loopback range (127.0.0.0/8, ::1/128)"))
	case ip.IsLinkLocalUnicast():
		errs = append(errs, field.Invalid(at, s, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"))
	case ip.IsLinkLocalMulticast():
		errs = append(errs, field.Invalid(at, s, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"))
	}
	return errs
}
