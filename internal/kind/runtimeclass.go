package kind

import (
	"time"

	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/amount"
	"coracle/internal/kind/check"
	"coracle/internal/kind/podspec"
	"coracle/internal/resource"
)

// runtimeClasses name the ways in which nodes can run pods (KEP-585). What a class asks of its pods is merged into them
// by admission; whether a node has the handler is the node's to say.
var runtimeClasses = Kind{
	Resource: resource.RuntimeClasses, Singular: "runtimeclass",
	New:     func() runtime.Object { return &nodev1.RuntimeClass{} },
	NewList: func() runtime.Object { return &nodev1.RuntimeClassList{} },
	Default: func(o runtime.Object) {
		if c := o.(*nodev1.RuntimeClass); c.Overhead != nil {
			amount.Round(c.Overhead.PodFixed)
		}
	},
	Strategy: newStrategy(resource.RuntimeClasses, rules[*nodev1.RuntimeClass]{
		validate: validateRuntimeClass,
		validateUpdate: func(c, old *nodev1.RuntimeClass) field.ErrorList {
			errs := validateRuntimeClass(c)
			return append(errs, check.Unchanged(field.NewPath("handler"), c.Handler, old.Handler)...)
		},
	}),
	Columns: newTable(func(c *nodev1.RuntimeClass, now time.Time) []any {
		return []any{c.Name, c.Handler, age(c.CreationTimestamp, now)}
	}, nameColumn(),
		col("Handler", "string", "What the node's runtime calls this way to run pods."),
		ageColumn()),
	GetAttrs:         attrsOf(resource.RuntimeClasses, selectable[*nodev1.RuntimeClass]{}),
	SelectableFields: metaFields(resource.RuntimeClasses),
}

func validateRuntimeClass(c *nodev1.RuntimeClass) field.ErrorList {
	errs := validMeta(&c.ObjectMeta, false, validation.NameIsDNSSubdomain)
	errs = append(errs, check.Label(field.NewPath("handler"), c.Handler)...)
	if c.Overhead != nil {
		errs = append(errs, amount.ValidateOverhead(c.Overhead.PodFixed, field.NewPath("overhead", "podFixed"))...)
	}
	if s, at := c.Scheduling, field.NewPath("scheduling"); s != nil {
		errs = append(errs, metav1validation.ValidateLabels(s.NodeSelector, at.Child("nodeSelector"))...)
		errs = append(errs, podspec.ValidateTolerations(s.Tolerations, at.Child("tolerations"))...)
	}
	return errs
}
