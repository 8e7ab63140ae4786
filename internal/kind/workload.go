package kind

import (
	"fmt"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
	"coracle/internal/kind/podspec"
)

// What the kinds that make pods from a template have in common.

// validateSelector checks a workload's selector; empty is what upstream says of one that
// selects everything.
func validateSelector(s *metav1.LabelSelector, empty string, at *field.Path) field.ErrorList {
	if s == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, at)
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(at, s, empty))
	}
	return errs
}

// validateTemplate checks a workload's template against its selector.
func validateTemplate(t *corev1.PodTemplateSpec, s *metav1.LabelSelector, kind string, at *field.Path) field.ErrorList {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return field.ErrorList{field.Invalid(at, s, "invalid label selector")}
	}
	matches := selector.Empty() || selector.Matches(labels.Set(t.Labels))
	return podspec.ValidateWorkloadTemplate(t, matches, kind, at.Child("template"))
}

// validateShare checks a number or a percentage of replicas.
func validateShare(v *intstr.IntOrString, at *field.Path) field.ErrorList {
	if v == nil {
		return nil
	}
	if v.Type == intstr.Int {
		return check.NonNegative(at, int64(v.IntVal))
	}
	return check.Says(at, *v, utilvalidation.IsValidPercent(v.StrVal))
}

// atMostAll refuses more than 100%.
func atMostAll(v *intstr.IntOrString, at *field.Path) field.ErrorList {
	if n, ok := percent(v); ok && n > 100 {
		return field.ErrorList{field.Invalid(at, *v, "must not be greater than 100%")}
	}
	return nil
}

func percent(v *intstr.IntOrString) (int, bool) {
	if v == nil || v.Type != intstr.String || len(utilvalidation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	n := 0
	_, err := fmt.Sscanf(v.StrVal, "%d%%", &n)
	return n, err == nil
}

// noShare says whether a share comes to nothing, whatever it is a share of.
func noShare(v *intstr.IntOrString) bool {
	if v == nil {
		return true
	}
	if n, ok := percent(v); ok {
		return n == 0
	}
	return v.Type == intstr.Int && v.IntVal == 0
}

// count is a replica count of a status, and what it may not exceed.
type count struct {
	name  string
	value int32
}

// validateCounts refuses negative counts, and counts above the total.
func validateCounts(total int32, at *field.Path, parts ...count) field.ErrorList {
	errs := check.NonNegative(at.Child("replicas"), int64(total))
	for _, p := range parts {
		errs = append(errs, check.NonNegative(at.Child(p.name), int64(p.value))...)
	}
	for _, p := range parts {
		if p.value > total {
			errs = append(errs, field.Invalid(at.Child(p.name), p.value, "cannot be greater than status.replicas"))
		}
	}
	return errs
}

// availableIsReady refuses more available than ready replicas.
func availableIsReady(available, ready int32, at *field.Path) field.ErrorList {
	if available > ready {
		return field.ErrorList{field.Invalid(at.Child("availableReplicas"), available, "cannot be greater than readyReplicas")}
	}
	return nil
}

// onlyGrows refuses a collision count that goes back.
func onlyGrows(now, was *int32, at *field.Path) field.ErrorList {
	value := deref(now)
	if was != nil && value < *was {
		return field.ErrorList{field.Invalid(at.Child("collisionCount"), value, "cannot be decremented")}
	}
	if now != nil {
		return check.NonNegative(at.Child("collisionCount"), int64(value))
	}
	return nil
}

func deref(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

func orOne(n **int32) {
	if *n == nil {
		one := int32(1)
		*n = &one
	}
}

func orTen(n **int32) {
	if *n == nil {
		ten := int32(10)
		*n = &ten
	}
}

// warnTemplate warns of a template when it is new or has changed.
func warnTemplate(name string, t *corev1.PodTemplateSpec, created, changed bool) []string {
	var warnings []string
	if created {
		warnings = warnHostname(name, inPodNames)
	}
	if created || changed {
		warnings = append(warnings, podspec.Warnings(&t.Spec, t.Annotations, field.NewPath("spec", "template"))...)
	}
	return warnings
}

// containerCells returns the names and the images of a template's containers, for wide output.
func containerCells(t *corev1.PodTemplateSpec) (names, images string) {
	var n, i []string
	for _, c := range t.Spec.Containers {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

func containerColumns() []column {
	return []column{
		wide("Containers", "string", "Names of the containers of the template."),
		wide("Images", "string", "Images of the containers of the template."),
	}
}

func selectorColumn() column {
	return wide("Selector", "string", "Which pods belong to it.")
}

// scaleOf builds the scale subresource of a kind; selector is in text form.
func scaleOf(m *metav1.ObjectMeta, spec *int32, status int32, selector string) *autoscalingv1.Scale {
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID,
			ResourceVersion: m.ResourceVersion, CreationTimestamp: m.CreationTimestamp},
		Spec:   autoscalingv1.ScaleSpec{Replicas: deref(spec)},
		Status: autoscalingv1.ScaleStatus{Replicas: status, Selector: selector},
	}
}

// scaling makes a kind's Scale from its accessors.
func scaling[T object](read func(T) (spec *int32, status int32, selector *metav1.LabelSelector), write func(T, *int32)) *Scale {
	return &Scale{
		Get: func(o runtime.Object) (*autoscalingv1.Scale, error) {
			obj := o.(T)
			replicas, have, s := read(obj)
			selector, err := metav1.LabelSelectorAsSelector(s)
			if err != nil {
				return nil, fmt.Errorf("scale of %s: %w", obj.GetName(), err)
			}
			return scaleOf(&metav1.ObjectMeta{Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
				ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp()},
				replicas, have, selector.String()), nil
		},
		Set: func(o runtime.Object, s *autoscalingv1.Scale) {
			n := s.Spec.Replicas
			write(o.(T), &n)
		},
		Validate:     validateScale,
		ReplicasPath: []string{"spec", "replicas"},
	}
}

func validateScale(s *autoscalingv1.Scale) field.ErrorList {
	errs := validation.ValidateObjectMeta(&s.ObjectMeta, true, validation.NameIsDNSSubdomain, metadataPath)
	return append(errs, check.NonNegative(specPath.Child("replicas"), int64(s.Spec.Replicas))...)
}
