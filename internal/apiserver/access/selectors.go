package access

import (
	"errors"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// selectedBy adds to attributes what a review says of selectors (KEP-4601). Roles do not look at them; what a node may list
// depends on them. What cannot be read narrows nothing.
func selectedBy(a *authorizer.AttributesRecord, r *authorizationv1.ResourceAttributes) error {
	if s := r.LabelSelector; s != nil {
		if s.RawSelector != "" && len(s.Requirements) > 0 {
			return errors.New("spec.resourceAttributes.labelSelector: rawSelector may not be specified at the same time as requirements")
		}
		a.LabelSelectorRequirements, a.LabelSelectorParsingErr = labelRequirements(s)
	}
	if s := r.FieldSelector; s != nil {
		if s.RawSelector != "" && len(s.Requirements) > 0 {
			return errors.New("spec.resourceAttributes.fieldSelector: rawSelector may not be specified at the same time as requirements")
		}
		a.FieldSelectorRequirements, a.FieldSelectorParsingErr = fieldRequirements(s)
	}
	return nil
}

func labelRequirements(s *authorizationv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if s.RawSelector != "" {
		selector, err := labels.Parse(s.RawSelector)
		if err != nil {
			return nil, err
		}
		requirements, _ := selector.Requirements()
		return requirements, nil
	}
	operators := map[metav1.LabelSelectorOperator]selection.Operator{
		metav1.LabelSelectorOpIn: selection.In, metav1.LabelSelectorOpNotIn: selection.NotIn,
		metav1.LabelSelectorOpExists: selection.Exists, metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
	}
	var out labels.Requirements
	var failed error
	for _, r := range s.Requirements {
		operator, ok := operators[r.Operator]
		if !ok {
			failed = errors.Join(failed, fmt.Errorf("%q is not a valid label selector operator", r.Operator))
			continue
		}
		requirement, err := labels.NewRequirement(r.Key, operator, r.Values)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		out = append(out, *requirement)
	}
	return out, failed
}

func fieldRequirements(s *authorizationv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if s.RawSelector != "" {
		selector, err := fields.ParseSelector(s.RawSelector)
		if err != nil {
			return nil, err
		}
		return selector.Requirements(), nil
	}
	operators := map[metav1.FieldSelectorOperator]selection.Operator{
		metav1.FieldSelectorOpIn: selection.Equals, metav1.FieldSelectorOpNotIn: selection.NotEquals,
	}
	var out fields.Requirements
	var failed error
	for _, r := range s.Requirements {
		operator, ok := operators[r.Operator]
		switch {
		case !ok:
			failed = errors.Join(failed, fmt.Errorf("field selectors do not support the operator %q", r.Operator))
		case len(r.Values) != 1:
			failed = errors.Join(failed, fmt.Errorf("field selectors do not support %d values", len(r.Values)))
		default:
			out = append(out, fields.Requirement{Field: r.Key, Operator: operator, Value: r.Values[0]})
		}
	}
	return out, failed
}
