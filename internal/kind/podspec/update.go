package podspec

import (
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const updatable = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// ValidateUpdate checks which fields of a pod's spec an update changes: images, the deadline
// downwards, more tolerations, fewer scheduling gates; and, while gated, narrower placement.
func ValidateUpdate(s, old *corev1.PodSpec) field.ErrorList {
	at := field.NewPath("spec")
	var errs field.ErrorList
	if len(s.Containers) != len(old.Containers) {
		return field.ErrorList{field.Forbidden(at.Child("containers"), "pod updates may not add or remove containers")}
	}
	if len(s.InitContainers) != len(old.InitContainers) {
		return field.ErrorList{field.Forbidden(at.Child("initContainers"), "pod updates may not add or remove containers")}
	}
	deadline, stop := validateDeadline(s, old, at.Child("activeDeadlineSeconds"))
	errs = append(errs, deadline...)
	if stop {
		return errs
	}
	errs = append(errs, onlyMoreTolerations(s.Tolerations, old.Tolerations, at.Child("tolerations"))...)
	errs = append(errs, onlyFewerGates(s.SchedulingGates, old.SchedulingGates, at.Child("schedulingGates"))...)
	if equality.Semantic.DeepEqual(s, old) {
		return errs
	}
	rest := s.DeepCopy()
	errs = append(errs, forgive(rest, old, at)...)
	if !equality.Semantic.DeepEqual(rest, old) {
		errs = append(errs, field.Forbidden(at, fmt.Sprintf("pod updates may not change fields other than %s\n%v", updatable, diff.Diff(old, rest))))
	}
	return errs
}

// forgive sets the fields of s that an update may change back to what they were.
func forgive(s, old *corev1.PodSpec, at *field.Path) field.ErrorList {
	for i := range s.Containers {
		s.Containers[i].Image = old.Containers[i].Image
	}
	for i := range s.InitContainers {
		s.InitContainers[i].Image = old.InitContainers[i].Image
	}
	s.ActiveDeadlineSeconds, s.SchedulingGates, s.Tolerations = old.ActiveDeadlineSeconds, old.SchedulingGates, old.Tolerations
	if g, was := s.TerminationGracePeriodSeconds, old.TerminationGracePeriodSeconds; g != nil && was != nil && *was < 0 && *g == 1 {
		s.TerminationGracePeriodSeconds = was
	}
	if len(old.SchedulingGates) == 0 {
		return nil
	}
	return forgivePlacement(s, old, at)
}

// forgivePlacement: a gated pod may be given a narrower choice of nodes (KEP-3838).
func forgivePlacement(s, old *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for key, value := range old.NodeSelector {
		if now, kept := s.NodeSelector[key]; !kept || now != value {
			errs = append(errs, field.Invalid(at.Child("nodeSelector"), s.NodeSelector,
				"only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
			break
		}
	}
	s.NodeSelector = old.NodeSelector
	was, now := nodeAffinity(old), nodeAffinity(s)
	if equality.Semantic.DeepEqual(was, now) {
		return errs
	}
	errs = append(errs, onlyNarrower(now, was, at.Child("affinity", "nodeAffinity"))...)
	if s.Affinity == nil {
		s.Affinity = &corev1.Affinity{}
	}
	s.Affinity.NodeAffinity = was
	if old.Affinity == nil && *s.Affinity == (corev1.Affinity{}) {
		s.Affinity = nil
	}
	return errs
}

func nodeAffinity(s *corev1.PodSpec) *corev1.NodeAffinity {
	if s.Affinity == nil {
		return nil
	}
	return s.Affinity.NodeAffinity
}

func requiredTerms(a *corev1.NodeAffinity) []corev1.NodeSelectorTerm {
	if a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	return a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
}

func onlyNarrower(now, was *corev1.NodeAffinity, at *field.Path) field.ErrorList {
	at = at.Child(required, "nodeSelectorTerms")
	before, after := requiredTerms(was), requiredTerms(now)
	if len(before) == 0 {
		return nil
	}
	if len(before) != len(after) {
		return field.ErrorList{field.Invalid(at, after, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	var errs field.ErrorList
	for i := range before {
		empty := len(before[i].MatchExpressions)+len(before[i].MatchFields) == 0
		grown := empty && len(after[i].MatchExpressions)+len(after[i].MatchFields) > 0
		if grown || !beginsWith(after[i].MatchExpressions, before[i].MatchExpressions) || !beginsWith(after[i].MatchFields, before[i].MatchFields) {
			errs = append(errs, field.Invalid(at.Index(i), after[i], "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

func beginsWith(list, prefix []corev1.NodeSelectorRequirement) bool {
	return len(list) >= len(prefix) && (len(prefix) == 0 || equality.Semantic.DeepEqual(list[:len(prefix)], prefix))
}

func validateDeadline(s, old *corev1.PodSpec, at *field.Path) (errs field.ErrorList, stop bool) {
	now, was := s.ActiveDeadlineSeconds, old.ActiveDeadlineSeconds
	switch {
	case now == nil && was == nil:
		return nil, false
	case now == nil:
		return field.ErrorList{field.Invalid(at, now, "must not update from a positive integer to nil value")}, false
	case *now < 0 || *now > math.MaxInt32:
		return field.ErrorList{field.Invalid(at, *now, utilvalidation.InclusiveRangeError(0, math.MaxInt32))}, true
	case was != nil && *was < *now:
		return field.ErrorList{field.Invalid(at, *now, "must be less than or equal to previous value")}, true
	}
	return nil, false
}

func onlyMoreTolerations(now, was []corev1.Toleration, at *field.Path) field.ErrorList {
	for _, old := range was {
		kept := slices.ContainsFunc(now, func(t corev1.Toleration) bool {
			// How long a taint is tolerated may change.
			t.TolerationSeconds, old.TolerationSeconds = nil, nil
			return t == old
		})
		if !kept {
			return field.ErrorList{field.Forbidden(at, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}

func onlyFewerGates(now, was []corev1.PodSchedulingGate, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, gate := range now {
		if !slices.Contains(was, gate) {
			errs = append(errs, field.Forbidden(at.Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", gate.Name)))
		}
	}
	return errs
}

// ValidateAnnotationUpdate checks that the annotations fixed at creation stay.
func ValidateAnnotationUpdate(now, was map[string]string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	fixed := func(key string) string {
		switch {
		case key == corev1.MirrorPodAnnotationKey:
			return "mirror pod annotation"
		case strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix):
			return "AppArmor annotations"
		}
		return ""
	}
	for key, value := range was {
		if what := fixed(key); what != "" {
			if v, kept := now[key]; !kept || v != value {
				errs = append(errs, field.Forbidden(at.Key(key), "may not remove or update "+what))
			}
		}
	}
	for key := range now {
		if what := fixed(key); what != "" {
			if _, had := was[key]; !had {
				errs = append(errs, field.Forbidden(at.Key(key), "may not add "+what))
			}
		}
	}
	return errs
}
