package kind

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/check"
	"coracle/internal/kind/podspec"
	"coracle/internal/resource"
)

var deployments = Kind{
	Resource: resource.Deployments, Singular: "deployment", ShortNames: []string{"deploy"}, Categories: categoryAll,
	New:     func() runtime.Object { return &appsv1.Deployment{} },
	NewList: func() runtime.Object { return &appsv1.DeploymentList{} },
	Default: func(o runtime.Object) { defaultDeployment(o.(*appsv1.Deployment)) },
	Strategy: newStrategy(resource.Deployments, rules[*appsv1.Deployment]{
		prepareCreate: func(d *appsv1.Deployment) {
			d.Status, d.Generation = appsv1.DeploymentStatus{}, 1
		},
		prepareUpdate: func(d, old *appsv1.Deployment) {
			d.Status = old.Status
			// Annotations count too: some of them steer the controller.
			bump(d, !equality.Semantic.DeepEqual(&d.Spec, &old.Spec) || !equality.Semantic.DeepEqual(d.Annotations, old.Annotations))
		},
		validate:       validateDeployment,
		validateUpdate: validateDeploymentUpdate,
		warn: func(d, old *appsv1.Deployment) []string {
			return warnTemplate(d.Name, &d.Spec.Template, old == nil, old != nil && d.Generation != old.Generation)
		},
		resets: []string{"status"},
	}),
	Status: newStrategy(resource.Deployments, rules[*appsv1.Deployment]{
		prepareUpdate:  func(d, old *appsv1.Deployment) { d.Spec, d.Labels = old.Spec, old.Labels },
		validateUpdate: validateDeploymentStatus,
		resets:         []string{"spec", "metadata.labels"},
	}),
	Scale: scaling(
		func(d *appsv1.Deployment) (*int32, int32, *metav1.LabelSelector) {
			return d.Spec.Replicas, d.Status.Replicas, d.Spec.Selector
		},
		func(d *appsv1.Deployment, n *int32) { d.Spec.Replicas = n }),
	Columns: newTable(deploymentRow, append([]column{
		nameColumn(),
		col("Ready", "string", "Ready replicas, of those asked for."),
		col("Up-to-date", "string", "Replicas of the newest template."),
		col("Available", "string", "Replicas that have been ready for minReadySeconds."),
		ageColumn(),
	}, append(containerColumns(), selectorColumn())...)...),
	GetAttrs:         attrsOf(resource.Deployments, selectable[*appsv1.Deployment]{}),
	SelectableFields: metaFields(resource.Deployments),
}

func deploymentRow(d *appsv1.Deployment, now time.Time) []any {
	names, images := containerCells(&d.Spec.Template)
	return []any{d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, deref(d.Spec.Replicas)),
		int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas), age(d.CreationTimestamp, now),
		names, images, metav1.FormatLabelSelector(d.Spec.Selector)}
}

func defaultDeployment(d *appsv1.Deployment) {
	s := &d.Spec
	orOne(&s.Replicas)
	if s.Strategy.Type == "" {
		s.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if s.Strategy.RollingUpdate == nil {
			s.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		quarter(&s.Strategy.RollingUpdate.MaxUnavailable)
		quarter(&s.Strategy.RollingUpdate.MaxSurge)
	}
	orTen(&s.RevisionHistoryLimit)
	if s.ProgressDeadlineSeconds == nil {
		s.ProgressDeadlineSeconds = ptr.To[int32](600)
	}
	podspec.DefaultTemplate(&s.Template.Spec)
}

func quarter(v **intstr.IntOrString) {
	if *v == nil {
		*v = ptr.To(intstr.FromString("25%"))
	}
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	errs := validMeta(&d.ObjectMeta, true, validation.NameIsDNSSubdomain)
	return append(errs, validateDeploymentSpec(&d.Spec, specPath)...)
}

func validateDeploymentSpec(s *appsv1.DeploymentSpec, at *field.Path) field.ErrorList {
	errs := check.NonNegative(at.Child("replicas"), int64(deref(s.Replicas)))
	errs = append(errs, validateSelector(s.Selector, "empty selector is invalid for deployment", at.Child("selector"))...)
	errs = append(errs, validateTemplate(&s.Template, s.Selector, "ReplicaSet", at)...)
	errs = append(errs, validateDeploymentStrategy(&s.Strategy, at.Child("strategy"))...)
	errs = append(errs, check.NonNegative(at.Child("minReadySeconds"), int64(s.MinReadySeconds))...)
	errs = append(errs, check.NonNegative(at.Child("revisionHistoryLimit"), int64(deref(s.RevisionHistoryLimit)))...)
	if p := s.ProgressDeadlineSeconds; p != nil {
		errs = append(errs, check.NonNegative(at.Child("progressDeadlineSeconds"), int64(*p))...)
		if *p <= s.MinReadySeconds {
			errs = append(errs, field.Invalid(at.Child("progressDeadlineSeconds"), *p, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func validateDeploymentStrategy(s *appsv1.DeploymentStrategy, at *field.Path) field.ErrorList {
	rolling := at.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(rolling, "may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(rolling, "this should be defaulted and never be nil")}
		}
	default:
		return field.ErrorList{field.NotSupported(at, s, []appsv1.DeploymentStrategyType{
			appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
	}
	unavailable, surge := s.RollingUpdate.MaxUnavailable, s.RollingUpdate.MaxSurge
	errs := validateShare(unavailable, rolling.Child("maxUnavailable"))
	errs = append(errs, validateShare(surge, rolling.Child("maxSurge"))...)
	if noShare(unavailable) && noShare(surge) {
		errs = append(errs, field.Invalid(rolling.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0"))
	}
	return append(errs, atMostAll(unavailable, rolling.Child("maxUnavailable"))...)
}

func validateDeploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	errs := validateDeploymentSpec(&d.Spec, specPath)
	return append(errs, check.Unchanged(specPath.Child("selector"), d.Spec.Selector, old.Spec.Selector)...)
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	s := &d.Status
	errs := check.NonNegative(statusPath.Child("observedGeneration"), s.ObservedGeneration)
	errs = append(errs, validateCounts(s.Replicas, statusPath, count{"updatedReplicas", s.UpdatedReplicas},
		count{"readyReplicas", s.ReadyReplicas}, count{"availableReplicas", s.AvailableReplicas})...)
	errs = append(errs, check.NonNegative(statusPath.Child("unavailableReplicas"), int64(s.UnavailableReplicas))...)
	errs = append(errs, availableIsReady(s.AvailableReplicas, s.ReadyReplicas, statusPath)...)
	return append(errs, onlyGrows(s.CollisionCount, old.Status.CollisionCount, statusPath)...)
}
