package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
)

// ValidateTolerations checks the tolerations of a pod.
func ValidateTolerations(list []corev1.Toleration, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		t, at := &list[i], at.Index(i)
		if t.Key != "" {
			errs = append(errs, metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
		} else if t.Operator != corev1.TolerationOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), t.Operator,
				"operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if bad := utilvalidation.IsValidLabelValue(t.Value); len(bad) > 0 {
				errs = append(errs, field.Invalid(at.Child("operator"), t.Value, strings.Join(bad, ";")))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				errs = append(errs, field.Invalid(at.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'"))
			}
		default:
			errs = append(errs, field.NotSupported(at.Child("operator"), t.Operator,
				[]corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		if t.Effect != "" {
			errs = append(errs, ValidateTaintEffect(t.Effect, at.Child("effect"))...)
		}
	}
	return errs
}

// ValidateTaintEffect checks the effect of a taint or a toleration.
func ValidateTaintEffect(effect corev1.TaintEffect, at *field.Path) field.ErrorList {
	return check.OneOf(at, effect, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

// ValidateNodeSelector checks a node selector, as node affinity and volumes use it.
func ValidateNodeSelector(s *corev1.NodeSelector, at *field.Path) field.ErrorList {
	at = at.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		return field.ErrorList{field.Required(at, "must have at least one node selector term")}
	}
	var errs field.ErrorList
	for i := range s.NodeSelectorTerms {
		errs = append(errs, validateNodeTerm(&s.NodeSelectorTerms[i], true, at.Index(i))...)
	}
	return errs
}

// validateNodeTerm checks one term; preferences may hold values that no label can have.
func validateNodeTerm(t *corev1.NodeSelectorTerm, strict bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range t.MatchExpressions {
		errs = append(errs, validateNodeExpression(&t.MatchExpressions[i], strict, at.Child("matchExpressions").Index(i))...)
	}
	for i := range t.MatchFields {
		errs = append(errs, validateNodeField(&t.MatchFields[i], at.Child("matchFields").Index(i))...)
	}
	return errs
}

func validateNodeExpression(r *corev1.NodeSelectorRequirement, strict bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(at.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			errs = append(errs, field.Forbidden(at.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			errs = append(errs, field.Required(at.Child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	errs = append(errs, metav1validation.ValidateLabelName(r.Key, at.Child("key"))...)
	if strict {
		for i, v := range r.Values {
			errs = append(errs, check.Says(at.Child("values").Index(i), v, utilvalidation.IsValidLabelValue(v))...)
		}
	}
	return errs
}

func validateNodeField(r *corev1.NodeSelectorRequirement, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) != 1 {
			errs = append(errs, field.Required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	if r.Key != metav1.ObjectNameField {
		return append(errs, field.Invalid(at.Child("key"), r.Key, "not a valid field selector key"))
	}
	for i, v := range r.Values {
		errs = append(errs, check.Subdomain(at.Child("values").Index(i), v)...)
	}
	return errs
}

const (
	required  = "requiredDuringSchedulingIgnoredDuringExecution"
	preferred = "preferredDuringSchedulingIgnoredDuringExecution"
)

func (c *checker) affinity() {
	a := c.spec.Affinity
	if a == nil {
		return
	}
	at := c.at.Child("affinity")
	if n := a.NodeAffinity; n != nil {
		at := at.Child("nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			c.add(ValidateNodeSelector(n.RequiredDuringSchedulingIgnoredDuringExecution, at.Child(required)))
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			term, at := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], at.Child(preferred).Index(i)
			c.weight(term.Weight, at)
			c.add(validateNodeTerm(&term.Preference, false, at.Child("preference")))
		}
	}
	if p := a.PodAffinity; p != nil {
		c.podTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAffinity"))
	}
	if p := a.PodAntiAffinity; p != nil {
		c.podTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAntiAffinity"))
	}
}

func (c *checker) weight(w int32, at *field.Path) {
	if w <= 0 || w > 100 {
		c.bad(field.Invalid(at.Child("weight"), w, "must be in the range 1-100"))
	}
}

func (c *checker) podTerms(must []corev1.PodAffinityTerm, may []corev1.WeightedPodAffinityTerm, at *field.Path) {
	for i := range must {
		c.podTerm(&must[i], at.Child(required).Index(i))
	}
	for i := range may {
		at := at.Child(preferred).Index(i)
		c.weight(may[i].Weight, at)
		c.podTerm(&may[i].PodAffinityTerm, at.Child("podAffinityTerm"))
	}
}

func (c *checker) podTerm(t *corev1.PodAffinityTerm, at *field.Path) {
	var opts metav1validation.LabelSelectorValidationOptions
	c.add(metav1validation.ValidateLabelSelector(t.LabelSelector, opts, at.Child("labelSelector")))
	c.add(metav1validation.ValidateLabelSelector(t.NamespaceSelector, opts, at.Child("namespaceSelector")))
	for _, ns := range t.Namespaces {
		c.add(check.Name(at.Child("namespace"), ns, validation.ValidateNamespaceName))
	}
	c.labelKeys(t.MatchLabelKeys, t.LabelSelector, at.Child("matchLabelKeys"))
	c.labelKeys(t.MismatchLabelKeys, t.LabelSelector, at.Child("mismatchLabelKeys"))
	if t.LabelSelector != nil {
		for _, e := range repeated(t.LabelSelector) {
			if i := slices.Index(t.MatchLabelKeys, e); i >= 0 {
				c.bad(field.Invalid(at.Index(i), e, "exists in both matchLabelKeys and labelSelector"))
			}
		}
	}
	for i, key := range t.MatchLabelKeys {
		if contains(t.MismatchLabelKeys, key) {
			c.bad(field.Invalid(at.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys"))
		}
	}
	if t.TopologyKey == "" {
		c.bad(field.Required(at.Child("topologyKey"), "can not be empty"))
	}
	c.add(metav1validation.ValidateLabelName(t.TopologyKey, at.Child("topologyKey")))
}

// repeated returns the keys of match expressions that the selector had named before: one of the
// two was merged in from matchLabelKeys (KEP-3633).
func repeated(s *metav1.LabelSelector) []string {
	seen := make(map[string]bool, len(s.MatchLabels))
	for key := range s.MatchLabels {
		seen[key] = true
	}
	var out []string
	for _, e := range s.MatchExpressions {
		if seen[e.Key] {
			out = append(out, e.Key)
		}
		seen[e.Key] = true
	}
	return out
}

func (c *checker) labelKeys(keys []string, selector *metav1.LabelSelector, at *field.Path) {
	if len(keys) > 0 && selector == nil {
		c.bad(field.Forbidden(at, "must not be specified when labelSelector is not set"))
		return
	}
	for i, key := range keys {
		c.add(metav1validation.ValidateLabelName(key, at.Index(i)))
	}
}

func (c *checker) topologySpread() {
	list := c.spec.TopologySpreadConstraints
	for i := range list {
		t, at := &list[i], c.at.Child("topologySpreadConstraints").Index(i)
		if t.MaxSkew <= 0 {
			c.bad(field.Invalid(at.Child("maxSkew"), t.MaxSkew, "must be greater than zero"))
		}
		if t.TopologyKey == "" {
			c.bad(field.Required(at.Child("topologyKey"), "can not be empty"))
		}
		c.add(check.Among(at.Child("whenUnsatisfiable"), t.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway))
		for _, later := range list[i+1:] {
			if later.TopologyKey == t.TopologyKey && later.WhenUnsatisfiable == t.WhenUnsatisfiable {
				c.bad(field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", t.TopologyKey, t.WhenUnsatisfiable)))
				break
			}
		}
		c.minDomains(t, at.Child("minDomains"))
		for _, p := range [...]struct {
			name   string
			policy *corev1.NodeInclusionPolicy
		}{{"nodeAffinityPolicy", t.NodeAffinityPolicy}, {"nodeTaintsPolicy", t.NodeTaintsPolicy}} {
			if p.policy != nil {
				c.add(check.Among(at.Child(p.name), *p.policy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore))
			}
		}
		c.spreadKeys(t, at.Child("matchLabelKeys"))
		c.add(metav1validation.ValidateLabelSelector(t.LabelSelector, metav1validation.LabelSelectorValidationOptions{}, at.Child("labelSelector")))
	}
}

func (c *checker) minDomains(t *corev1.TopologySpreadConstraint, at *field.Path) {
	if t.MinDomains == nil {
		return
	}
	if *t.MinDomains <= 0 {
		c.bad(field.Invalid(at, t.MinDomains, "must be greater than zero"))
	}
	if t.WhenUnsatisfiable != corev1.DoNotSchedule {
		c.bad(field.Invalid(at, t.MinDomains, fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, t.WhenUnsatisfiable)))
	}
}

func (c *checker) spreadKeys(t *corev1.TopologySpreadConstraint, at *field.Path) {
	if len(t.MatchLabelKeys) == 0 {
		return
	}
	var named []string
	if t.LabelSelector == nil {
		c.bad(field.Forbidden(at, "must not be specified when labelSelector is not set"))
	} else {
		// A key that the selector names once by an expression of one value may have been merged in.
		named = repeated(t.LabelSelector)
		for key := range t.LabelSelector.MatchLabels {
			named = append(named, key)
		}
		for _, e := range t.LabelSelector.MatchExpressions {
			if e.Operator != metav1.LabelSelectorOpIn || len(e.Values) != 1 {
				named = append(named, e.Key)
			}
		}
	}
	for i, key := range t.MatchLabelKeys {
		c.add(metav1validation.ValidateLabelName(key, at.Index(i)))
		if contains(named, key) {
			c.bad(field.Invalid(at.Index(i), key, "exists in both matchLabelKeys and labelSelector"))
		}
	}
}
