package kind

import (
	"maps"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/check"
	"coracle/internal/resource"
)

// The most a slice may hold (discovery/v1).
const (
	maxSliceEndpoints = 1000
	maxSliceAddresses = 100
	maxSlicePorts     = 20000
	maxZoneHints      = 8
)

var endpointSlices = Kind{
	Resource: resource.EndpointSlices, Singular: "endpointslice",
	New:     func() runtime.Object { return &discoveryv1.EndpointSlice{} },
	NewList: func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
	Default: func(o runtime.Object) {
		s := o.(*discoveryv1.EndpointSlice)
		for i := range s.Ports {
			if s.Ports[i].Name == nil {
				s.Ports[i].Name = ptr.To("")
			}
			if s.Ports[i].Protocol == nil {
				s.Ports[i].Protocol = ptr.To(corev1.ProtocolTCP)
			}
		}
	},
	Strategy: newStrategy(resource.EndpointSlices, rules[*discoveryv1.EndpointSlice]{
		prepareCreate: func(s *discoveryv1.EndpointSlice) { s.Generation = 1 },
		prepareUpdate: func(s, old *discoveryv1.EndpointSlice) {
			same := s.AddressType == old.AddressType && maps.Equal(s.Labels, old.Labels) &&
				equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) && equality.Semantic.DeepEqual(s.Ports, old.Ports)
			bump(s, !same)
		},
		validate: validateEndpointSlice,
		validateUpdate: func(s, old *discoveryv1.EndpointSlice) field.ErrorList {
			errs := validateEndpointSlice(s)
			return append(errs, check.Unchanged(field.NewPath("addressType"), s.AddressType, old.AddressType)...)
		},
	}),
	Columns: newTable(func(s *discoveryv1.EndpointSlice, now time.Time) []any {
		return []any{s.Name, string(s.AddressType), slicePorts(s.Ports), sliceAddresses(s.Endpoints), age(s.CreationTimestamp, now)}
	}, nameColumn(),
		col("AddressType", "string", "IPv4, IPv6 or FQDN."),
		col("Ports", "string", "Ports of the endpoints."),
		col("Endpoints", "string", "Addresses of the endpoints, ready or not."),
		ageColumn()),
	GetAttrs:         attrsOf(resource.EndpointSlices, selectable[*discoveryv1.EndpointSlice]{}),
	SelectableFields: metaFields(resource.EndpointSlices),
}

func slicePorts(ports []discoveryv1.EndpointPort) string {
	var list []string
	for i := range ports {
		if len(list) == maxShown {
			break
		}
		word := "*"
		if ports[i].Port != nil {
			word = strconv.Itoa(int(*ports[i].Port))
		} else if ptr.Deref(ports[i].Name, "") != "" {
			word = *ports[i].Name
		}
		list = append(list, word)
	}
	return shown(list, len(ports), unset)
}

func sliceAddresses(endpoints []discoveryv1.Endpoint) string {
	var list []string
	total := 0
	for i := range endpoints {
		for _, a := range endpoints[i].Addresses {
			if total++; len(list) < maxShown {
				list = append(list, a)
			}
		}
	}
	return shown(list, total, unset)
}

func validateEndpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	errs := validMeta(&s.ObjectMeta, true, validation.NameIsDNSSubdomain)
	errs = append(errs, check.OneOf(field.NewPath("addressType"), s.AddressType,
		discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)...)
	at := field.NewPath("endpoints")
	if len(s.Endpoints) > maxSliceEndpoints {
		errs = append(errs, field.TooMany(at, len(s.Endpoints), maxSliceEndpoints))
	} else {
		for i := range s.Endpoints {
			errs = append(errs, validateSliceEndpoint(&s.Endpoints[i], s.AddressType, at.Index(i))...)
		}
	}
	return append(errs, validateSlicePorts(s.Ports, field.NewPath("ports"))...)
}

func validateSliceEndpoint(e *discoveryv1.Endpoint, kind discoveryv1.AddressType, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	addresses := at.Child("addresses")
	switch n := len(e.Addresses); {
	case n == 0:
		errs = append(errs, field.Required(addresses, "must contain at least 1 address"))
	case n > maxSliceAddresses:
		errs = append(errs, field.TooMany(addresses, n, maxSliceAddresses))
	}
	for i, a := range e.Addresses {
		errs = append(errs, validateSliceAddress(a, kind, addresses.Index(i))...)
	}
	if e.NodeName != nil {
		errs = append(errs, check.Subdomain(at.Child("nodeName"), *e.NodeName)...)
	}
	if e.Hostname != nil {
		errs = append(errs, check.Label(at.Child("hostname"), *e.Hostname)...)
	}
	if e.Hints == nil {
		return errs
	}
	zones := at.Child("hints", "forZones")
	if n := len(e.Hints.ForZones); n > maxZoneHints {
		return append(errs, field.TooMany(zones, n, maxZoneHints))
	}
	seen := map[string]bool{}
	for i, z := range e.Hints.ForZones {
		if seen[z.Name] {
			errs = append(errs, field.Duplicate(zones.Index(i).Child("name"), z.Name))
		}
		seen[z.Name] = true
		errs = append(errs, metav1validation.ValidateLabelName(z.Name, zones.Index(i).Child("name"))...)
	}
	return errs
}

func validateSliceAddress(a string, kind discoveryv1.AddressType, at *field.Path) field.ErrorList {
	switch kind {
	case discoveryv1.AddressTypeFQDN:
		return utilvalidation.IsFullyQualifiedDomainName(at, a)
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
		errs := utilvalidation.IsValidIPForLegacyField(at, a, false, nil)
		if len(errs) > 0 {
			return errs
		}
		if v6 := netutils.IsIPv6String(a); v6 != (kind == discoveryv1.AddressTypeIPv6) {
			return field.ErrorList{field.Invalid(at, a, "must be an "+string(kind)+" address")}
		}
		return validateOrdinaryIP(a, at)
	}
	return nil
}

func validateSlicePorts(ports []discoveryv1.EndpointPort, at *field.Path) field.ErrorList {
	if len(ports) > maxSlicePorts {
		return field.ErrorList{field.TooMany(at, len(ports), maxSlicePorts)}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i := range ports {
		p, at := &ports[i], at.Index(i)
		name := ptr.Deref(p.Name, "")
		if name != "" {
			errs = append(errs, check.Label(at.Child("name"), name)...)
		}
		if seen[name] {
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
		seen[name] = true
		if p.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, check.Among(at.Child("protocol"), *p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		if p.Port != nil {
			errs = append(errs, check.Port(at.Child("port"), *p.Port)...)
		}
		if p.AppProtocol != nil {
			errs = append(errs, check.Qualified(at.Child("appProtocol"), *p.AppProtocol)...)
		}
	}
	return errs
}
