package kind

import (
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/check"
	"coracle/internal/resource"
)

// maxControllerName bounds spec.controller, in bytes.
const maxControllerName = 250

// ingressClasses name the controllers of Ingresses. Admission gives the one marked as default to Ingresses that name none.
var ingressClasses = Kind{
	Resource: resource.IngressClasses, Singular: "ingressclass",
	New:     func() runtime.Object { return &networkingv1.IngressClass{} },
	NewList: func() runtime.Object { return &networkingv1.IngressClassList{} },
	Default: func(o runtime.Object) {
		if p := o.(*networkingv1.IngressClass).Spec.Parameters; p != nil && p.Scope == nil {
			p.Scope = ptr.To(networkingv1.IngressClassParametersReferenceScopeCluster)
		}
	},
	Strategy: newStrategy(resource.IngressClasses, rules[*networkingv1.IngressClass]{
		prepareCreate: func(c *networkingv1.IngressClass) { c.Generation = 1 },
		prepareUpdate: func(c, old *networkingv1.IngressClass) { bump(c, !equality.Semantic.DeepEqual(&c.Spec, &old.Spec)) },
		validate:      validateIngressClass,
		validateUpdate: func(c, old *networkingv1.IngressClass) field.ErrorList {
			return append(check.Unchanged(specPath.Child("controller"), c.Spec.Controller, old.Spec.Controller), validateIngressClass(c)...)
		},
	}),
	Columns: newTable(func(c *networkingv1.IngressClass, now time.Time) []any {
		return []any{c.Name, c.Spec.Controller, classParameters(c.Spec.Parameters), age(c.CreationTimestamp, now)}
	}, nameColumn(),
		col("Controller", "string", "Who serves Ingresses of this class."),
		col("Parameters", "string", "What the controller is told besides."),
		ageColumn()),
	GetAttrs:         attrsOf(resource.IngressClasses, selectable[*networkingv1.IngressClass]{}),
	SelectableFields: metaFields(resource.IngressClasses),
}

func classParameters(p *networkingv1.IngressClassParametersReference) string {
	if p == nil {
		return none
	}
	kind := p.Kind
	if p.APIGroup != nil {
		kind += "." + *p.APIGroup
	}
	return kind + "/" + p.Name
}

func validateIngressClass(c *networkingv1.IngressClass) field.ErrorList {
	errs := validMeta(&c.ObjectMeta, false, validation.NameIsDNSSubdomain)
	at := specPath.Child("controller")
	if c.Spec.Controller == "" {
		errs = append(errs, field.Required(at, ""))
	} else {
		if len(c.Spec.Controller) > maxControllerName {
			errs = append(errs, field.TooLong(at, "", maxControllerName))
		}
		errs = append(errs, utilvalidation.IsDomainPrefixedPath(at, c.Spec.Controller)...)
	}
	return append(errs, validateClassParameters(c.Spec.Parameters, specPath.Child("parameters"))...)
}

func validateClassParameters(p *networkingv1.IngressClassParametersReference, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	if p.APIGroup != nil {
		errs = append(errs, check.Subdomain(at.Child("apiGroup"), *p.APIGroup)...)
	}
	errs = append(errs, requireSegment(at.Child("kind"), p.Kind)...)
	errs = append(errs, requireSegment(at.Child("name"), p.Name)...)
	const cluster, namespace = networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace
	switch scope := ptr.Deref(p.Scope, ""); {
	case p.Scope == nil:
		errs = append(errs, field.Required(at.Child("scope"), ""))
	case scope == namespace && p.Namespace == nil:
		errs = append(errs, field.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	case scope == namespace:
		errs = append(errs, check.Name(at.Child("namespace"), *p.Namespace, validation.NameIsDNSLabel)...)
	case scope != cluster:
		errs = append(errs, field.NotSupported(at.Child("scope"), scope, []string{cluster, namespace}))
	case p.Namespace != nil:
		errs = append(errs, field.Forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
	}
	return errs
}
