package kind

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/podspec"
	"coracle/internal/resource"
)

// The priorities that Kubernetes keeps for itself (scheduling/v1).
const (
	maxUserPriority       = int32(1000000000)
	clusterCriticalClass  = "system-cluster-critical"
	nodeCriticalClass     = "system-node-critical"
	clusterCriticalWeight = 2 * maxUserPriority
	nodeCriticalWeight    = clusterCriticalWeight + 1000
)

var priorityClasses = Kind{
	Resource: resource.PriorityClasses, Singular: "priorityclass", ShortNames: []string{"pc"},
	New:     func() runtime.Object { return &schedulingv1.PriorityClass{} },
	NewList: func() runtime.Object { return &schedulingv1.PriorityClassList{} },
	Default: func(o runtime.Object) {
		if c := o.(*schedulingv1.PriorityClass); c.PreemptionPolicy == nil {
			c.PreemptionPolicy = ptr.To(corev1.PreemptLowerPriority)
		}
	},
	Strategy: newStrategy(resource.PriorityClasses, rules[*schedulingv1.PriorityClass]{
		prepareCreate: func(c *schedulingv1.PriorityClass) { c.Generation = 1 },
		validate:      validatePriorityClass,
		validateUpdate: func(c, old *schedulingv1.PriorityClass) field.ErrorList {
			var errs field.ErrorList
			if c.Value != old.Value {
				errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
			}
			if !ptr.Equal(c.PreemptionPolicy, old.PreemptionPolicy) {
				errs = append(errs, field.Invalid(field.NewPath("preemptionPolicy"), c.PreemptionPolicy, "field is immutable"))
			}
			return errs
		},
	}),
	Columns: newTable(func(c *schedulingv1.PriorityClass, now time.Time) []any {
		return []any{c.Name, int64(c.Value), c.GlobalDefault, age(c.CreationTimestamp, now), string(ptr.Deref(c.PreemptionPolicy, ""))}
	}, nameColumn(),
		col("Value", "integer", "Priority of its pods; the higher goes first."),
		col("Global-Default", "boolean", "Whether pods that name no class are of this one."),
		ageColumn(),
		col("PreemptionPolicy", "string", "Whether its pods may displace others.")),
	GetAttrs:         attrsOf(resource.PriorityClasses, selectable[*schedulingv1.PriorityClass]{}),
	SelectableFields: metaFields(resource.PriorityClasses),
}

func validatePriorityClass(c *schedulingv1.PriorityClass) field.ErrorList {
	errs := validMeta(&c.ObjectMeta, false, validation.NameIsDNSSubdomain)
	if strings.HasPrefix(c.Name, "system-") {
		if reason := notSystemClass(c); reason != "" {
			errs = append(errs, field.Forbidden(metadataPath.Child("name"),
				"priority class names with 'system-' prefix are reserved for system use only. error: "+reason))
		}
	} else if c.Value > maxUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", maxUserPriority)))
	}
	if c.PreemptionPolicy != nil {
		errs = append(errs, podspec.ValidatePreemption(*c.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
	}
	return errs
}

// notSystemClass says in what a class of a reserved name differs from the one the name is
// reserved for; empty when in nothing.
func notSystemClass(c *schedulingv1.PriorityClass) string {
	want, known := map[string]int32{clusterCriticalClass: clusterCriticalWeight, nodeCriticalClass: nodeCriticalWeight}[c.Name]
	switch {
	case !known:
		return c.Name + " is not a known system priority class"
	case c.Value != want:
		return fmt.Sprintf("value of %v PriorityClass must be %v", c.Name, want)
	case c.GlobalDefault:
		return fmt.Sprintf("globalDefault of %v PriorityClass must be %v", c.Name, false)
	}
	return ""
}
