package admit

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apiserver/pkg/admission"

	"coracle/internal/resource"
)

// olderIngressClass names the class of an Ingress that has no spec.ingressClassName.
const olderIngressClass = "kubernetes.io/ingress.class"

// defaultIngressClass gives an Ingress that names no class the default one.
var defaultIngressClass = plugin{
	name:       "DefaultIngressClass",
	resources:  []resource.Resource{resource.Ingresses},
	operations: []admission.Operation{admission.Create},
	mutate: func(_ context.Context, a admission.Attributes, c Cluster) error {
		ingress, ok := a.GetObject().(*networkingv1.Ingress)
		if !ok || a.GetSubresource() != "" || ingress.Spec.IngressClassName != nil {
			return nil
		}
		if _, named := ingress.Annotations[olderIngressClass]; named {
			return nil
		}
		if name := defaultIngressClassOf(c); name != "" {
			ingress.Spec.IngressClassName = &name
		}
		return nil
	},
}

// defaultIngressClassOf picks the default among ingress classes, as upstream does: of those marked, the newest, and of
// equally old ones the first by name. It is empty when none is marked.
func defaultIngressClassOf(c Cluster) string {
	var found *networkingv1.IngressClass
	for _, obj := range c.List(resource.IngressClasses, "") {
		class, ok := obj.(*networkingv1.IngressClass)
		if !ok || class.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true" {
			continue
		}
		if found == nil || found.CreationTimestamp.Before(&class.CreationTimestamp) ||
			found.CreationTimestamp.Equal(&class.CreationTimestamp) && class.Name < found.Name {
			found = class
		}
	}
	if found == nil {
		return ""
	}
	return found.Name
}
