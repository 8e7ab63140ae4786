package kind

import (
	"fmt"
	"slices"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/resource"
)

// ingressClassMark names an Ingress's class in the older way.
const ingressClassMark = "kubernetes.io/ingress.class"

// ingresses say how requests from outside find services. An ingress controller, which people bring, does it.
var ingresses = Kind{
	Resource: resource.Ingresses, Singular: "ingress", ShortNames: []string{"ing"},
	New:     func() runtime.Object { return &networkingv1.Ingress{} },
	NewList: func() runtime.Object { return &networkingv1.IngressList{} },
	Strategy: newStrategy(resource.Ingresses, rules[*networkingv1.Ingress]{
		prepareCreate: func(i *networkingv1.Ingress) { i.Status, i.Generation = networkingv1.IngressStatus{}, 1 },
		prepareUpdate: func(i, old *networkingv1.Ingress) {
			i.Status = old.Status
			bump(i, !equality.Semantic.DeepEqual(&i.Spec, &old.Spec))
		},
		validate: validateNewIngress,
		validateUpdate: func(i, old *networkingv1.Ingress) field.ErrorList {
			return append(validMeta(&i.ObjectMeta, true, validation.NameIsDNSSubdomain), validateIngress(&i.Spec, &old.Spec)...)
		},
		warn:   warnIngress,
		resets: []string{"status"},
	}),
	Status: newStrategy(resource.Ingresses, rules[*networkingv1.Ingress]{
		prepareUpdate: func(i, old *networkingv1.Ingress) { i.Spec = old.Spec },
		validateUpdate: func(i, old *networkingv1.Ingress) field.ErrorList {
			return validateIngressStatus(&i.Status.LoadBalancer, &old.Status.LoadBalancer)
		},
		resets: []string{"spec"},
	}),
	Columns: newTable(func(i *networkingv1.Ingress, now time.Time) []any {
		class := none
		if i.Spec.IngressClassName != nil {
			class = *i.Spec.IngressClassName
		}
		return []any{
			i.Name, class, ingressHosts(i.Spec.Rules), ingressAddress(i.Status.LoadBalancer.Ingress), ingressPorts(i.Spec.TLS),
			age(i.CreationTimestamp, now),
		}
	}, nameColumn(),
		col("Class", "string", "The class, by which a controller knows it for its own."),
		col("Hosts", "string", "The hosts that it is about."),
		col("Address", "string", "Where its controller is reached."),
		col("Ports", "string", "The ports at which it answers."),
		ageColumn()),
	GetAttrs:         attrsOf(resource.Ingresses, selectable[*networkingv1.Ingress]{}),
	SelectableFields: metaFields(resource.Ingresses),
}

// ingressHosts prints three hosts at most.
func ingressHosts(rules []networkingv1.IngressRule) string {
	const most = 3
	var hosts []string
	for _, r := range rules {
		if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	switch n := len(hosts); {
	case n == 0:
		return "*"
	case n > most:
		return fmt.Sprintf("%s + %d more...", strings.Join(hosts[:most], ","), n-most)
	}
	return strings.Join(hosts, ",")
}

func ingressAddress(points []networkingv1.IngressLoadBalancerIngress) string {
	var out []string
	for _, p := range points {
		at := p.IP
		if at == "" {
			at = p.Hostname
		}
		if at != "" {
			out = append(out, at)
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ",")
}

func ingressPorts(tls []networkingv1.IngressTLS) string {
	if len(tls) > 0 {
		return "80, 443"
	}
	return "80"
}

func warnIngress(i, old *networkingv1.Ingress) []string {
	if _, marked := i.Annotations[ingressClassMark]; old != nil || !marked || i.Spec.IngressClassName != nil {
		return nil
	}
	return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", ingressClassMark)}
}

func validateNewIngress(i *networkingv1.Ingress) field.ErrorList {
	errs := append(validMeta(&i.ObjectMeta, true, validation.NameIsDNSSubdomain), validateIngress(&i.Spec, nil)...)
	class, marked := i.Annotations[ingressClassMark]
	if marked && i.Spec.IngressClassName != nil && class != *i.Spec.IngressClassName {
		errs = append(errs, field.Invalid(field.NewPath("annotations").Child(ingressClassMark), class,
			"must match `ingressClassName` when both are specified"))
	}
	return errs
}
