package kind

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/check"
	"coracle/internal/kind/podspec"
	"coracle/internal/kind/volume"
	"coracle/internal/resource"
)

var statefulSets = Kind{
	Resource: resource.StatefulSets, Singular: "statefulset", ShortNames: []string{"sts"}, Categories: categoryAll,
	New:     func() runtime.Object { return &appsv1.StatefulSet{} },
	NewList: func() runtime.Object { return &appsv1.StatefulSetList{} },
	Default: func(o runtime.Object) { defaultStatefulSet(o.(*appsv1.StatefulSet)) },
	Strategy: newStrategy(resource.StatefulSets, rules[*appsv1.StatefulSet]{
		prepareCreate: func(s *appsv1.StatefulSet) {
			s.Status, s.Generation = appsv1.StatefulSetStatus{}, 1
		},
		prepareUpdate: func(s, old *appsv1.StatefulSet) {
			s.Status = old.Status
			bump(s, !equality.Semantic.DeepEqual(&s.Spec, &old.Spec))
		},
		validate: func(s *appsv1.StatefulSet) field.ErrorList {
			errs := append(validMeta(&s.ObjectMeta, true, validation.NameIsDNSLabel), validateStatefulSetSpec(&s.Spec, specPath)...)
			return append(errs, validateDerivedNames(s)...)
		},
		validateUpdate: validateStatefulSetUpdate,
		warn:           warnStatefulSet,
		resets:         []string{"status"},
	}),
	Status: newStrategy(resource.StatefulSets, rules[*appsv1.StatefulSet]{
		prepareUpdate:  func(s, old *appsv1.StatefulSet) { s.Spec = old.Spec },
		validateUpdate: validateStatefulSetStatus,
		resets:         []string{"spec"},
	}),
	Scale: scaling(
		func(s *appsv1.StatefulSet) (*int32, int32, *metav1.LabelSelector) {
			return s.Spec.Replicas, s.Status.Replicas, s.Spec.Selector
		},
		func(s *appsv1.StatefulSet, n *int32) { s.Spec.Replicas = n }),
	Columns: newTable(func(s *appsv1.StatefulSet, now time.Time) []any {
		names, images := containerCells(&s.Spec.Template)
		return []any{s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, deref(s.Spec.Replicas)), age(s.CreationTimestamp, now), names, images}
	}, append([]column{
		nameColumn(),
		col("Ready", "string", "Ready replicas, of those asked for."),
		ageColumn(),
	}, containerColumns()...)...),
	GetAttrs:         attrsOf(resource.StatefulSets, selectable[*appsv1.StatefulSet]{}),
	SelectableFields: metaFields(resource.StatefulSets),
}

func defaultStatefulSet(set *appsv1.StatefulSet) {
	s := &set.Spec
	orOne(&s.Replicas)
	orTen(&s.RevisionHistoryLimit)
	if s.PodManagementPolicy == "" {
		s.PodManagementPolicy = appsv1.OrderedReadyPodManagement
	}
	if s.UpdateStrategy.Type == "" {
		s.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		if s.UpdateStrategy.RollingUpdate == nil {
			s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{}
		}
	}
	if r := s.UpdateStrategy.RollingUpdate; r != nil && s.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		if r.Partition == nil {
			r.Partition = ptr.To[int32](0)
		}
		if r.MaxUnavailable == nil {
			r.MaxUnavailable = ptr.To(intstr.FromInt32(1))
		}
	}
	if s.PersistentVolumeClaimRetentionPolicy == nil {
		s.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
	}
	retention := s.PersistentVolumeClaimRetentionPolicy
	for _, policy := range []*appsv1.PersistentVolumeClaimRetentionPolicyType{&retention.WhenDeleted, &retention.WhenScaled} {
		if *policy == "" {
			*policy = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
		}
	}
	for i := range s.VolumeClaimTemplates {
		claim := &s.VolumeClaimTemplates[i]
		claim.APIVersion, claim.Kind = "v1", "PersistentVolumeClaim"
		defaultClaim(claim)
	}
	podspec.DefaultTemplate(&s.Template.Spec)
}

func validateStatefulSetSpec(s *appsv1.StatefulSetSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch s.PodManagementPolicy {
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	case "":
		errs = append(errs, field.Required(at.Child("podManagementPolicy"), ""))
	default:
		errs = append(errs, field.Invalid(at.Child("podManagementPolicy"), s.PodManagementPolicy, "must be 'OrderedReady' or 'Parallel'"))
	}
	errs = append(errs, validateStatefulSetStrategy(&s.UpdateStrategy, at.Child("updateStrategy"))...)
	errs = append(errs, validateRetention(s.PersistentVolumeClaimRetentionPolicy, at.Child("persistentVolumeClaimRetentionPolicy"))...)
	errs = append(errs, check.NonNegative(at.Child("replicas"), int64(deref(s.Replicas)))...)
	errs = append(errs, check.NonNegative(at.Child("minReadySeconds"), int64(s.MinReadySeconds))...)
	if s.Ordinals != nil {
		errs = append(errs, check.NonNegative(at.Child("ordinals", "start"), int64(s.Ordinals.Start))...)
	}
	if s.ServiceName != "" {
		errs = append(errs, check.Subdomain(at.Child("serviceName"), s.ServiceName)...)
	}
	errs = append(errs, validateSelector(s.Selector, "empty selector is invalid for statefulset", at.Child("selector"))...)
	for i := range s.VolumeClaimTemplates {
		claim, here := &s.VolumeClaimTemplates[i], at.Child("volumeClaimTemplates").Index(i)
		errs = append(errs, volume.ValidateClaimSpec(&claim.Spec, here.Child("spec"))...)
		for j := range i {
			if s.VolumeClaimTemplates[j].Name == claim.Name {
				errs = append(errs, field.Duplicate(here.Child("metadata", "name"), claim.Name))
				break
			}
		}
	}
	return append(errs, validateTemplate(withClaims(s), s.Selector, "StatefulSet", at)...)
}

// withClaims returns the template as the pods will have it: each claim template is a volume, in
// the place of any other of its name.
func withClaims(s *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	if len(s.VolumeClaimTemplates) == 0 {
		return &s.Template
	}
	t := s.Template
	t.Spec.Volumes = slices.DeleteFunc(slices.Clone(t.Spec.Volumes), func(v corev1.Volume) bool {
		return slices.ContainsFunc(s.VolumeClaimTemplates, func(c corev1.PersistentVolumeClaim) bool { return c.Name == v.Name })
	})
	for i := range s.VolumeClaimTemplates {
		name := s.VolumeClaimTemplates[i].Name
		t.Spec.Volumes = append(t.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
	}
	return &t
}

func validateStatefulSetStrategy(s *appsv1.StatefulSetUpdateStrategy, at *field.Path) field.ErrorList {
	rolling := at.Child("rollingUpdate")
	switch s.Type {
	case "":
		return field.ErrorList{field.Required(at, "")}
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Invalid(rolling, s.RollingUpdate, "only allowed for updateStrategy 'RollingUpdate'")}
		}
		return nil
	case appsv1.RollingUpdateStatefulSetStrategyType:
	default:
		return field.ErrorList{field.Invalid(at, s, "must be 'RollingUpdate' or 'OnDelete'")}
	}
	if s.RollingUpdate == nil {
		return nil
	}
	errs := check.NonNegative(rolling.Child("partition"), int64(deref(s.RollingUpdate.Partition)))
	if most := s.RollingUpdate.MaxUnavailable; most != nil {
		at := rolling.Child("maxUnavailable")
		errs = append(errs, validateShare(most, at)...)
		if noShare(most) {
			errs = append(errs, field.Invalid(at, *most, "cannot be 0"))
		}
		errs = append(errs, atMostAll(most, at)...)
	}
	return errs
}

func validateRetention(p *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	for _, f := range [...]struct {
		name   string
		policy appsv1.PersistentVolumeClaimRetentionPolicyType
	}{{"whenDeleted", p.WhenDeleted}, {"whenScaled", p.WhenScaled}} {
		errs = append(errs, check.Among(at.Child(f.name), f.policy,
			appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)...)
	}
	return errs
}

const statefulSetFixed = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', " +
	"'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"

func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	errs := validateStatefulSetSpec(&s.Spec, specPath)
	rest := s.Spec
	rest.Replicas, rest.Ordinals, rest.Template, rest.UpdateStrategy = old.Spec.Replicas, old.Spec.Ordinals, old.Spec.Template, old.Spec.UpdateStrategy
	rest.RevisionHistoryLimit, rest.MinReadySeconds = old.Spec.RevisionHistoryLimit, old.Spec.MinReadySeconds
	rest.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	if onlyGrown(rest.VolumeClaimTemplates, old.Spec.VolumeClaimTemplates) {
		rest.VolumeClaimTemplates = old.Spec.VolumeClaimTemplates
	}
	if !equality.Semantic.DeepEqual(rest, old.Spec) {
		errs = append(errs, field.Forbidden(specPath, statefulSetFixed))
	}
	return errs
}

func validateStatefulSetStatus(set, old *appsv1.StatefulSet) field.ErrorList {
	s := &set.Status
	errs := validateCounts(s.Replicas, statusPath, count{"readyReplicas", s.ReadyReplicas}, count{"currentReplicas", s.CurrentReplicas},
		count{"updatedReplicas", s.UpdatedReplicas}, count{"availableReplicas", s.AvailableReplicas})
	errs = append(errs, check.NonNegative(statusPath.Child("observedGeneration"), s.ObservedGeneration)...)
	errs = append(errs, availableIsReady(s.AvailableReplicas, s.ReadyReplicas, statusPath)...)
	return append(errs, onlyGrows(s.CollisionCount, old.Status.CollisionCount, statusPath)...)
}

func warnStatefulSet(s, old *appsv1.StatefulSet) []string {
	changed := old != nil && s.Generation != old.Generation
	warnings := warnTemplate(s.Name, &s.Spec.Template, old == nil, changed)
	if limit := s.Spec.RevisionHistoryLimit; limit != nil && *limit < 0 && (old == nil || changed) {
		warnings = append(warnings, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return warnings
}
