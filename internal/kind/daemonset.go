package kind

import (
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/check"
	"coracle/internal/kind/podspec"
	"coracle/internal/resource"
)

var daemonSets = Kind{
	Resource: resource.DaemonSets, Singular: "daemonset", ShortNames: []string{"ds"}, Categories: categoryAll,
	New:     func() runtime.Object { return &appsv1.DaemonSet{} },
	NewList: func() runtime.Object { return &appsv1.DaemonSetList{} },
	Default: func(o runtime.Object) { defaultDaemonSet(o.(*appsv1.DaemonSet)) },
	Strategy: newStrategy(resource.DaemonSets, rules[*appsv1.DaemonSet]{
		prepareCreate: func(d *appsv1.DaemonSet) {
			d.Status, d.Generation = appsv1.DaemonSetStatus{}, 1
			setTemplateGeneration(d, max(templateGeneration(d), 1))
		},
		prepareUpdate: func(d, old *appsv1.DaemonSet) {
			d.Status = old.Status
			generation := templateGeneration(old)
			if !equality.Semantic.DeepEqual(&d.Spec.Template, &old.Spec.Template) {
				generation++
			}
			setTemplateGeneration(d, generation)
			bump(d, !equality.Semantic.DeepEqual(&d.Spec, &old.Spec))
		},
		validate: func(d *appsv1.DaemonSet) field.ErrorList {
			return append(validMeta(&d.ObjectMeta, true, validation.NameIsDNSSubdomain), validateDaemonSetSpec(&d.Spec, specPath)...)
		},
		validateUpdate: func(d, old *appsv1.DaemonSet) field.ErrorList {
			errs := validateDaemonSetSpec(&d.Spec, specPath)
			return append(errs, check.Unchanged(specPath.Child("selector"), d.Spec.Selector, old.Spec.Selector)...)
		},
		warn: func(d, old *appsv1.DaemonSet) []string {
			return warnTemplate(d.Name, &d.Spec.Template, old == nil, old != nil && d.Generation != old.Generation)
		},
		resets: []string{"status"},
	}),
	Status: newStrategy(resource.DaemonSets, rules[*appsv1.DaemonSet]{
		prepareUpdate:  func(d, old *appsv1.DaemonSet) { d.Spec = old.Spec },
		validateUpdate: validateDaemonSetStatus,
		resets:         []string{"spec"},
	}),
	Columns: newTable(daemonSetRow, append([]column{
		nameColumn(),
		col("Desired", "integer", "Nodes that should run the daemon."),
		col("Current", "integer", "Nodes that have its pod."),
		col("Ready", "integer", "Nodes whose pod is ready."),
		col("Up-to-date", "integer", "Nodes whose pod is of the newest template."),
		col("Available", "integer", "Nodes whose pod has been ready for minReadySeconds."),
		col("Node Selector", "string", "Labels that a node must have."),
		ageColumn(),
	}, append(containerColumns(), selectorColumn())...)...),
	GetAttrs:         attrsOf(resource.DaemonSets, selectable[*appsv1.DaemonSet]{}),
	SelectableFields: metaFields(resource.DaemonSets),
}

func daemonSetRow(d *appsv1.DaemonSet, now time.Time) []any {
	names, images := containerCells(&d.Spec.Template)
	s := &d.Status
	return []any{d.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady),
		int64(s.UpdatedNumberScheduled), int64(s.NumberAvailable), labels.FormatLabels(d.Spec.Template.Spec.NodeSelector),
		age(d.CreationTimestamp, now), names, images, metav1.FormatLabelSelector(d.Spec.Selector)}
}

// templateGeneration counts the templates a DaemonSet has had. apps/v1 keeps the number, a field
// of the first API versions, in an annotation.
func templateGeneration(d *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	if d.Annotations == nil {
		d.Annotations = make(map[string]string, 1)
	}
	d.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	u := &d.Spec.UpdateStrategy
	if u.Type == "" {
		u.Type = appsv1.RollingUpdateDaemonSetStrategyType
	}
	if u.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if u.RollingUpdate == nil {
			u.RollingUpdate = &appsv1.RollingUpdateDaemonSet{}
		}
		if u.RollingUpdate.MaxUnavailable == nil {
			u.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(1))
		}
		if u.RollingUpdate.MaxSurge == nil {
			u.RollingUpdate.MaxSurge = ptr.To(intstr.FromInt32(0))
		}
	}
	orTen(&d.Spec.RevisionHistoryLimit)
	podspec.DefaultTemplate(&d.Spec.Template.Spec)
}

func validateDaemonSetSpec(s *appsv1.DaemonSetSpec, at *field.Path) field.ErrorList {
	errs := validateSelector(s.Selector, "empty selector is invalid for daemonset", at.Child("selector"))
	errs = append(errs, validateTemplate(&s.Template, s.Selector, "DaemonSet", at)...)
	errs = append(errs, check.NonNegative(at.Child("minReadySeconds"), int64(s.MinReadySeconds))...)
	errs = append(errs, validateDaemonSetStrategy(&s.UpdateStrategy, at.Child("updateStrategy"))...)
	return append(errs, check.NonNegative(at.Child("revisionHistoryLimit"), int64(deref(s.RevisionHistoryLimit)))...)
}

func validateDaemonSetStrategy(s *appsv1.DaemonSetUpdateStrategy, at *field.Path) field.ErrorList {
	rolling := at.Child("rollingUpdate")
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(rolling, "")}
		}
	default:
		return field.ErrorList{field.NotSupported(at, s, []appsv1.DaemonSetUpdateStrategyType{
			appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType})}
	}
	unavailable, surge := s.RollingUpdate.MaxUnavailable, s.RollingUpdate.MaxSurge
	errs := validateShare(unavailable, rolling.Child("maxUnavailable"))
	errs = append(errs, validateShare(surge, rolling.Child("maxSurge"))...)
	errs = append(errs, atMostAll(unavailable, rolling.Child("maxUnavailable"))...)
	errs = append(errs, atMostAll(surge, rolling.Child("maxSurge"))...)
	switch stays, grows := noShare(unavailable), !noShare(surge); {
	case !stays && grows:
		errs = append(errs, field.Invalid(rolling.Child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero"))
	case stays && !grows:
		errs = append(errs, field.Required(rolling.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

func validateDaemonSetStatus(d, old *appsv1.DaemonSet) field.ErrorList {
	s := &d.Status
	var errs field.ErrorList
	for _, f := range [...]struct {
		name  string
		value int64
	}{
		{"currentNumberScheduled", int64(s.CurrentNumberScheduled)}, {"numberMisscheduled", int64(s.NumberMisscheduled)},
		{"desiredNumberScheduled", int64(s.DesiredNumberScheduled)}, {"numberReady", int64(s.NumberReady)},
		{"observedGeneration", s.ObservedGeneration}, {"updatedNumberScheduled", int64(s.UpdatedNumberScheduled)},
		{"numberAvailable", int64(s.NumberAvailable)}, {"numberUnavailable", int64(s.NumberUnavailable)},
	} {
		errs = append(errs, check.NonNegative(statusPath.Child(f.name), f.value)...)
	}
	return append(errs, onlyGrows(s.CollisionCount, old.Status.CollisionCount, statusPath)...)
}
