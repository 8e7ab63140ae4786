package kind

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/address"
	"coracle/internal/kind/check"
)

func validateService(s *corev1.Service) field.ErrorList {
	errs := validMeta(&s.ObjectMeta, true, validation.NameIsDNS1035Label)
	hints, hinted := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	if mode, set := s.Annotations[corev1.AnnotationTopologyMode]; set && hinted && mode != hints {
		errs = append(errs, field.Invalid(metadataPath.Child("annotations").Key(corev1.AnnotationTopologyMode), mode,
			fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints)))
	}
	if len(s.Spec.Ports) == 0 && !address.Headless(s) && s.Spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(specPath.Child("ports"), ""))
	}
	errs = append(errs, validateServiceType(s)...)
	errs = append(errs, validateServicePorts(s, specPath.Child("ports"))...)
	if s.Spec.Selector != nil {
		errs = append(errs, metav1validation.ValidateLabels(s.Spec.Selector, specPath.Child("selector"))...)
	}
	errs = append(errs, validateSessionAffinity(&s.Spec)...)
	errs = append(errs, validateClusterIPs(s)...)
	for i, ip := range s.Spec.ExternalIPs {
		at := specPath.Child("externalIPs").Index(i)
		if bad := utilvalidation.IsValidIPForLegacyField(at, ip, false, nil); len(bad) > 0 {
			errs = append(errs, bad...)
		} else {
			errs = append(errs, validateOrdinaryIP(ip, at)...)
		}
	}
	errs = append(errs, validateSourceRanges(s)...)
	errs = append(errs, validateLoadBalancing(s, nil)...)
	return append(errs, validateTrafficPolicies(s)...)
}

func validateServiceType(s *corev1.Service) field.ErrorList {
	errs := check.OneOf(specPath.Child("type"), s.Spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	switch s.Spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if address.Headless(s) {
			errs = append(errs, field.Invalid(specPath.Child("clusterIPs").Index(0), s.Spec.ClusterIPs[0],
				fmt.Sprintf("may not be set to 'None' for %s services", s.Spec.Type)))
		}
	case corev1.ServiceTypeExternalName:
		for _, f := range [...]struct {
			name string
			set  bool
		}{
			{"clusterIPs", len(s.Spec.ClusterIPs) > 0}, {"ipFamilies", len(s.Spec.IPFamilies) > 0}, {"ipFamilyPolicy", s.Spec.IPFamilyPolicy != nil},
		} {
			if f.set {
				errs = append(errs, field.Forbidden(specPath.Child(f.name), "may not be set for ExternalName services"))
			}
		}
		if name := strings.TrimSuffix(s.Spec.ExternalName, "."); name == "" {
			errs = append(errs, field.Required(specPath.Child("externalName"), ""))
		} else {
			errs = append(errs, check.Subdomain(specPath.Child("externalName"), name)...)
		}
	case corev1.ServiceTypeClusterIP:
		for i := range s.Spec.Ports {
			if s.Spec.Ports[i].NodePort != 0 {
				errs = append(errs, field.Forbidden(specPath.Child("ports").Index(i).Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
			}
		}
	}
	return errs
}

func validateServicePorts(s *corev1.Service, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	list := s.Spec.Ports
	for i := range list {
		p, at := &list[i], at.Index(i)
		earlier := list[:i]
		if p.Name != "" {
			errs = append(errs, check.Label(at.Child("name"), p.Name)...)
			if slices.ContainsFunc(earlier, func(o corev1.ServicePort) bool { return o.Name == p.Name }) {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
		} else if len(list) > 1 {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
		errs = append(errs, check.Port(at.Child("port"), p.Port)...)
		errs = append(errs, check.OneOf(at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		errs = append(errs, check.PortOrName(at.Child("targetPort"), p.TargetPort)...)
		if p.AppProtocol != nil {
			errs = append(errs, check.Qualified(at.Child("appProtocol"), *p.AppProtocol)...)
		}
		if p.NodePort != 0 && slices.ContainsFunc(earlier, func(o corev1.ServicePort) bool { return o.NodePort == p.NodePort && o.Protocol == p.Protocol }) {
			errs = append(errs, field.Duplicate(at.Child("nodePort"), p.NodePort))
		}
		if slices.ContainsFunc(earlier, func(o corev1.ServicePort) bool { return o.Port == p.Port && o.Protocol == p.Protocol }) {
			errs = append(errs, field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		}
	}
	return errs
}

func validateSessionAffinity(s *corev1.ServiceSpec) field.ErrorList {
	errs := check.OneOf(specPath.Child("sessionAffinity"), s.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at, c := specPath.Child("sessionAffinityConfig"), s.SessionAffinityConfig
	const missing = "when session affinity type is ClientIP"
	switch {
	case s.SessionAffinity == corev1.ServiceAffinityNone && c != nil:
		errs = append(errs, field.Forbidden(at, "must not be set when session affinity is None"))
	case s.SessionAffinity != corev1.ServiceAffinityClientIP:
	case c == nil:
		errs = append(errs, field.Required(at, missing))
	case c.ClientIP == nil:
		errs = append(errs, field.Required(at.Child("clientIP"), missing))
	case c.ClientIP.TimeoutSeconds == nil:
		errs = append(errs, field.Required(at.Child("clientIP", "timeoutSeconds"), missing))
	case *c.ClientIP.TimeoutSeconds <= 0 || *c.ClientIP.TimeoutSeconds > maxSticky:
		errs = append(errs, field.Invalid(at.Child("clientIP", "timeoutSeconds"), c.ClientIP.TimeoutSeconds,
			fmt.Sprintf("must be greater than 0 and less than %d", maxSticky)))
	}
	return errs
}

// maxSticky is the longest session affinity, a day, in seconds.
const maxSticky = 86400

// validateClusterIPs checks the addresses and families of a Service against each other.
func validateClusterIPs(svc *corev1.Service) field.ErrorList {
	s := &svc.Spec
	if s.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var errs field.ErrorList
	at := specPath.Child("clusterIPs")
	switch {
	case s.ClusterIP == "" && len(s.ClusterIPs) > 0:
		errs = append(errs, field.Invalid(at, s.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	case s.ClusterIP != "" && len(s.ClusterIPs) == 0:
		errs = append(errs, field.Required(at, ""))
	case s.ClusterIP != "" && s.ClusterIPs[0] != s.ClusterIP:
		errs = append(errs, field.Invalid(at, s.ClusterIPs, "first value must match `clusterIP`"))
	}
	for i, f := range s.IPFamilies {
		at := specPath.Child("ipFamilies").Index(i)
		errs = append(errs, check.Among(at, f, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if slices.Contains(s.IPFamilies[:i], f) {
			errs = append(errs, field.Duplicate(at, f))
		}
	}
	if p := s.IPFamilyPolicy; p != nil {
		errs = append(errs, check.Among(specPath.Child("ipFamilyPolicy"), *p, corev1.IPFamilyPolicyPreferDualStack,
			corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	}
	bad := false
	for i, ip := range s.ClusterIPs {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(s.ClusterIPs) > 1 {
				bad = true
				errs = append(errs, field.Invalid(at, s.ClusterIPs, "'None' must be the first and only value"))
			}
			continue
		}
		found := utilvalidation.IsValidIPForLegacyField(at.Index(i), ip, false, nil)
		bad = bad || len(found) > 0
		errs = append(errs, found...)
	}
	if len(s.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(at, s.ClusterIPs, "may only hold up to 2 values"))
	}
	if bad || address.Headless(svc) {
		return errs
	}
	if len(s.ClusterIPs) > 1 {
		if dual, err := netutils.IsDualStackIPStrings(s.ClusterIPs); err == nil && !dual {
			errs = append(errs, field.Invalid(at, s.ClusterIPs, "may specify no more than one IP for each IP family"))
		}
	}
	for i := range min(len(s.ClusterIPs), len(s.IPFamilies)) {
		want := s.IPFamilies[i]
		if v6 := netutils.IsIPv6String(s.ClusterIPs[i]); v6 != (want == corev1.IPv6Protocol) {
			errs = append(errs, field.Invalid(at.Index(i), s.ClusterIPs[i], fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%v]`", want, i)))
		}
	}
	return errs
}

func validateSourceRanges(s *corev1.Service) field.ErrorList {
	const misplaced = "may only be used when `type` is 'LoadBalancer'"
	balanced := s.Spec.Type == corev1.ServiceTypeLoadBalancer
	var errs field.ErrorList
	if len(s.Spec.LoadBalancerSourceRanges) > 0 {
		at := specPath.Child("LoadBalancerSourceRanges")
		if !balanced {
			errs = append(errs, field.Forbidden(at, misplaced))
		}
		for i, r := range s.Spec.LoadBalancerSourceRanges {
			errs = append(errs, utilvalidation.IsValidCIDRForLegacyField(at.Index(i), strings.TrimSpace(r), false, nil)...)
		}
		return errs
	}
	ranges, set := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if !set {
		return nil
	}
	at := metadataPath.Child("annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	if !balanced {
		errs = append(errs, field.Forbidden(at, misplaced))
	}
	if ranges = strings.TrimSpace(ranges); ranges != "" {
		for r := range strings.SplitSeq(ranges, ",") {
			errs = append(errs, utilvalidation.IsValidCIDRForLegacyField(at, strings.TrimSpace(r), false, nil)...)
		}
	}
	return errs
}

// validateLoadBalancing checks the fields of load-balanced Services; old is nil on creation.
func validateLoadBalancing(s, old *corev1.Service) field.ErrorList {
	const misplaced = "may only be used when `type` is 'LoadBalancer'"
	balanced := s.Spec.Type == corev1.ServiceTypeLoadBalancer
	var errs field.ErrorList
	switch allocate := s.Spec.AllocateLoadBalancerNodePorts; {
	case allocate != nil && !balanced:
		errs = append(errs, field.Forbidden(specPath.Child("allocateLoadBalancerNodePorts"), misplaced))
	case allocate == nil && balanced:
		errs = append(errs, field.Required(field.NewPath("allocateLoadBalancerNodePorts"), ""))
	}
	at, class := specPath.Child("loadBalancerClass"), s.Spec.LoadBalancerClass
	if old != nil && balanced && old.Spec.Type == s.Spec.Type && !ptr.Equal(class, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(at, class, "may not change once set"))
	}
	switch {
	case class == nil:
	case balanced:
		errs = append(errs, check.Qualified(at, *class)...)
	default:
		errs = append(errs, field.Forbidden(at, misplaced))
	}
	return errs
}

func validateTrafficPolicies(svc *corev1.Service) field.ErrorList {
	s := &svc.Spec
	var errs field.ErrorList
	external := specPath.Child("externalTrafficPolicy")
	if reachedFromOutside(svc) {
		errs = append(errs, check.OneOf(external, s.ExternalTrafficPolicy,
			corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	} else if s.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(external, s.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	health := specPath.Child("healthCheckNodePort")
	switch needed := address.NeedsHealthCheckPort(svc); {
	case !needed && s.HealthCheckNodePort != 0:
		errs = append(errs, field.Invalid(health, s.HealthCheckNodePort,
			"may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	case needed && s.HealthCheckNodePort == 0:
		errs = append(errs, field.Required(health, ""))
	case needed:
		errs = append(errs, check.Port(health, s.HealthCheckNodePort)...)
	}
	if p := s.InternalTrafficPolicy; p != nil {
		errs = append(errs, check.Among(specPath.Child("internalTrafficPolicy"), *p,
			corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	} else if s.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(specPath.Child("internalTrafficPolicy"), ""))
	}
	if d := s.TrafficDistribution; d != nil {
		errs = append(errs, check.Among(specPath.Child("trafficDistribution"), *d, corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return errs
}

func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	errs := validateAddressChange(s, old)
	errs = append(errs, validateLoadBalancing(s, old)...)
	if address.NeedsHealthCheckPort(old) && address.NeedsHealthCheckPort(s) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(specPath.Child("healthCheckNodePort"), "field is immutable"))
	}
	return append(errs, validateService(s)...)
}

// validateAddressChange: the first address and family of a Service are its own for life, unless
// it is or becomes an ExternalName.
func validateAddressChange(s, old *corev1.Service) field.ErrorList {
	if !address.NeedsClusterIP(s) || !address.NeedsClusterIP(old) || address.Headless(s) && address.Headless(old) {
		return nil
	}
	var errs field.ErrorList
	at := specPath.Child("clusterIPs")
	now, was := s.Spec.ClusterIPs, old.Spec.ClusterIPs
	switch {
	case len(now) == 0 && len(was) > 0:
		errs = append(errs, field.Invalid(at.Index(0), now, "primary clusterIP can not be unset"))
	case len(now) == len(was):
		for i := range was {
			if now[i] != was[i] {
				errs = append(errs, field.Invalid(at.Index(i), now, "may not change once set"))
			}
		}
	case len(was) > 0 && now[0] != was[0]:
		errs = append(errs, field.Invalid(at.Index(0), now, "may not change once set"))
	}
	if len(now) == 1 && len(was) > 1 && ptr.Deref(s.Spec.IPFamilyPolicy, "") != corev1.IPFamilyPolicySingleStack {
		errs = append(errs, field.Invalid(specPath.Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary clusterIP"))
	}
	if address.Headless(s) != address.Headless(old) {
		return errs
	}
	if families, before := s.Spec.IPFamilies, old.Spec.IPFamilies; len(families) > 0 && len(before) > 0 && families[0] != before[0] {
		errs = append(errs, field.Invalid(specPath.Child("ipFamilies").Index(0), families, "may not change once set"))
	}
	return errs
}

func validateLoadBalancer(status *corev1.LoadBalancerStatus, kind corev1.ServiceType) field.ErrorList {
	at := statusPath.Child("loadBalancer", "ingress")
	if kind != corev1.ServiceTypeLoadBalancer && len(status.Ingress) > 0 {
		return field.ErrorList{field.Forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'")}
	}
	var errs field.ErrorList
	for i, in := range status.Ingress {
		at := at.Index(i)
		if in.IP != "" {
			errs = append(errs, utilvalidation.IsValidIPForLegacyField(at.Child("ip"), in.IP, false, nil)...)
		}
		switch {
		case in.IPMode == nil && in.IP != "":
			errs = append(errs, field.Required(at.Child("ipMode"), "must be specified when `ip` is set"))
		case in.IPMode != nil && in.IP == "":
			errs = append(errs, field.Forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set"))
		case in.IPMode != nil:
			errs = append(errs, check.Among(at.Child("ipMode"), *in.IPMode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
		}
		if in.Hostname != "" {
			errs = append(errs, check.Subdomain(at.Child("hostname"), in.Hostname)...)
			if netutils.ParseIPSloppy(in.Hostname) != nil {
				errs = append(errs, field.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}
