package kind

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"coracle/internal/kind/check"
)

// validateIngress checks a spec. What one had before that would not be taken today may stay: names of secrets, and what
// stands behind hosts with a wildcard.
func validateIngress(s, old *networkingv1.IngressSpec) field.ErrorList {
	var errs field.ErrorList
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(specPath, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, validateBackend(s.DefaultBackend, specPath.Child("defaultBackend"))...)
	}
	laxHosts := old != nil && hasOddWildcard(old.Rules)
	for i := range s.Rules {
		errs = append(errs, validateIngressRule(&s.Rules[i], specPath.Child("rules").Index(i), laxHosts)...)
	}
	laxSecrets := old != nil && hasOddSecret(old.TLS)
	for i := range s.TLS {
		errs = append(errs, validateIngressTLS(&s.TLS[i], specPath.Child("tls").Index(i), laxSecrets)...)
	}
	if s.IngressClassName != nil {
		errs = append(errs, check.Name(specPath.Child("ingressClassName"), *s.IngressClassName, validation.NameIsDNSSubdomain)...)
	}
	return errs
}

func hasOddWildcard(rules []networkingv1.IngressRule) bool {
	for i := range rules {
		if strings.Contains(rules[i].Host, "*") && len(validateHTTP(rules[i].HTTP, nil)) > 0 {
			return true
		}
	}
	return false
}

func hasOddSecret(tls []networkingv1.IngressTLS) bool {
	for _, t := range tls {
		if t.SecretName != "" && len(validation.NameIsDNSSubdomain(t.SecretName, false)) > 0 {
			return true
		}
	}
	return false
}

// validateHostPattern checks a host name, whose first label may be *.
func validateHostPattern(host string, at *field.Path) field.ErrorList {
	if strings.Contains(host, "*") {
		return check.Says(at, host, utilvalidation.IsWildcardDNS1123Subdomain(host))
	}
	return check.Subdomain(at, host)
}

func validateIngressTLS(t *networkingv1.IngressTLS, at *field.Path, laxSecrets bool) field.ErrorList {
	var errs field.ErrorList
	for i, host := range t.Hosts {
		errs = append(errs, validateHostPattern(host, at.Child("hosts").Index(i))...)
	}
	if t.SecretName != "" && !laxSecrets {
		errs = append(errs, check.Name(at.Child("secretName"), t.SecretName, validation.NameIsDNSSubdomain)...)
	}
	return errs
}

func validateIngressRule(r *networkingv1.IngressRule, at *field.Path, lax bool) field.ErrorList {
	var errs field.ErrorList
	if r.Host != "" {
		if netutils.ParseIPSloppy(r.Host) != nil {
			errs = append(errs, field.Invalid(at.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, validateHostPattern(r.Host, at.Child("host"))...)
	}
	if lax && strings.Contains(r.Host, "*") {
		return errs
	}
	return append(errs, validateHTTP(r.HTTP, at.Child("http"))...)
}

func validateHTTP(h *networkingv1.HTTPIngressRuleValue, at *field.Path) field.ErrorList {
	if h == nil {
		return nil
	}
	if len(h.Paths) == 0 {
		return field.ErrorList{field.Required(at.Child("paths"), "")}
	}
	var errs field.ErrorList
	for i := range h.Paths {
		errs = append(errs, validateIngressPath(&h.Paths[i], at.Child("paths").Index(i))...)
	}
	return errs
}

func validateIngressPath(p *networkingv1.HTTPIngressPath, at *field.Path) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(at.Child("pathType"), "pathType must be specified")}
	}
	var errs field.ErrorList
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		errs = validatePlainPath(p.Path, at.Child("path"))
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at.Child("path"), p.Path, "must be an absolute path"))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("pathType"), *p.PathType, []networkingv1.PathType{
			networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix,
		}))
	}
	return append(errs, validateBackend(&p.Backend, at.Child("backend"))...)
}

// validatePlainPath refuses paths that proxies read in different ways.
func validatePlainPath(path string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !strings.HasPrefix(path, "/") {
		errs = append(errs, field.Invalid(at, path, "must be an absolute path"))
	}
	for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
		if strings.Contains(path, part) {
			errs = append(errs, field.Invalid(at, path, fmt.Sprintf("must not contain '%s'", part)))
		}
	}
	for _, end := range []string{"/..", "/."} {
		if strings.HasSuffix(path, end) {
			errs = append(errs, field.Invalid(at, path, fmt.Sprintf("cannot end with '%s'", end)))
		}
	}
	return errs
}

func validateBackend(b *networkingv1.IngressBackend, at *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(at, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateReference(b.Resource, at.Child("resource"))
	case b.Service == nil:
		return field.ErrorList{field.Invalid(at, "", "resource or service backend is required")}
	}
	var errs field.ErrorList
	service := at.Child("service")
	if b.Service.Name == "" {
		errs = append(errs, field.Required(service.Child("name"), ""))
	} else {
		errs = append(errs, check.Name(service.Child("name"), b.Service.Name, validation.NameIsDNS1035Label)...)
	}
	port := b.Service.Port
	switch {
	case port.Name != "" && port.Number != 0:
		errs = append(errs, field.Invalid(at, "", "cannot set both port name & port number"))
	case port.Name != "":
		errs = append(errs, check.Says(service.Child("port", "name"), port.Name, utilvalidation.IsValidPortName(port.Name))...)
	case port.Number != 0:
		errs = append(errs, check.Says(service.Child("port", "number"), port.Number, utilvalidation.IsValidPortNum(int(port.Number)))...)
	default:
		errs = append(errs, field.Required(at, "port name or number is required"))
	}
	return errs
}

func validateReference(r *corev1.TypedLocalObjectReference, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.APIGroup != nil {
		errs = append(errs, check.Subdomain(at.Child("apiGroup"), *r.APIGroup)...)
	}
	errs = append(errs, requireSegment(at.Child("kind"), r.Kind)...)
	return append(errs, requireSegment(at.Child("name"), r.Name)...)
}

// requireSegment asks for a name that can be part of a path.
func requireSegment(at *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return check.Says(at, name, content.IsPathSegmentName(name))
}

func validateIngressStatus(s, old *networkingv1.IngressLoadBalancerStatus) field.ErrorList {
	var errs field.ErrorList
	var known []string
	for _, p := range old.Ingress {
		if p.IP != "" {
			known = append(known, p.IP)
		}
	}
	for i, p := range s.Ingress {
		at := statusPath.Child("loadBalancer", "ingress").Index(i)
		if p.IP != "" {
			errs = append(errs, utilvalidation.IsValidIPForLegacyField(at.Child("ip"), p.IP, false, known)...)
		}
		if p.Hostname == "" {
			continue
		}
		errs = append(errs, check.Subdomain(at.Child("hostname"), p.Hostname)...)
		if netutils.ParseIPSloppy(p.Hostname) != nil {
			errs = append(errs, field.Invalid(at.Child("hostname"), p.Hostname, "must be a DNS name, not an IP address"))
		}
	}
	return errs
}
