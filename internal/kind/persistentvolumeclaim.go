package kind

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/amount"
	"coracle/internal/kind/check"
	"coracle/internal/kind/volume"
	"coracle/internal/resource"
)

var persistentVolumeClaims = Kind{
	Resource: resource.PersistentVolumeClaims, Singular: "persistentvolumeclaim", ShortNames: []string{"pvc"},
	New:     func() runtime.Object { return &corev1.PersistentVolumeClaim{} },
	NewList: func() runtime.Object { return &corev1.PersistentVolumeClaimList{} },
	Default: func(o runtime.Object) { defaultClaim(o.(*corev1.PersistentVolumeClaim)) },
	Strategy: newStrategy(resource.PersistentVolumeClaims, rules[*corev1.PersistentVolumeClaim]{
		prepareCreate: func(c *corev1.PersistentVolumeClaim) {
			c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
			normalizeDataSources(&c.Spec)
		},
		prepareUpdate: func(c, old *corev1.PersistentVolumeClaim) {
			c.Status = old.Status
			normalizeDataSources(&c.Spec)
		},
		validate:       validateClaim,
		validateUpdate: validateClaimUpdate,
		resets:         []string{"status"},
	}),
	Status: newStrategy(resource.PersistentVolumeClaims, rules[*corev1.PersistentVolumeClaim]{
		prepareUpdate:  func(c, old *corev1.PersistentVolumeClaim) { c.Spec = old.Spec },
		validateUpdate: validateClaimStatus,
		resets:         []string{"spec"},
	}),
	Columns: newTable(claimRow, nameColumn(),
		col("Status", "string", "Whether it has its volume."),
		col("Volume", "string", "The volume it has."),
		col("Capacity", "string", "Size of that volume."),
		col("Access Modes", "string", "How it may be mounted: RWO, ROX, RWX, RWOP."),
		col("StorageClass", "string", "Class that provides the volume."),
		col("VolumeAttributesClass", "string", "Attributes class it asks for."),
		ageColumn(),
		wide("VolumeMode", "string", "Filesystem, or Block for a raw device.")),
	GetAttrs:         attrsOf(resource.PersistentVolumeClaims, selectable[*corev1.PersistentVolumeClaim]{}),
	SelectableFields: metaFields(resource.PersistentVolumeClaims),
}

func defaultClaim(c *corev1.PersistentVolumeClaim) {
	if c.Status.Phase == "" {
		c.Status.Phase = corev1.ClaimPending
	}
	volume.DefaultClaimSpec(&c.Spec)
	amount.Round(c.Spec.Resources.Requests)
	amount.Round(c.Spec.Resources.Limits)
}

// normalizeDataSources fills in whichever of dataSource and dataSourceRef was left out (KEP-2919,
// KEP-3294: a reference into another namespace has no old form).
func normalizeDataSources(s *corev1.PersistentVolumeClaimSpec) {
	switch d, ref := s.DataSource, s.DataSourceRef; {
	case d != nil && ref == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: d.APIGroup, Kind: d.Kind, Name: d.Name}
	case ref != nil && d == nil && ptr.Deref(ref.Namespace, "") == "":
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
	}
}

func validateClaim(c *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := validMeta(&c.ObjectMeta, true, validation.NameIsDNSSubdomain)
	return append(errs, volume.ValidateClaimSpec(&c.Spec, specPath)...)
}

// validateClaimUpdate: of a claim's spec only these change: the volume, once; the class, from
// none; and, while bound, the size and the attributes class.
func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := validateClaim(c)
	now, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		was.VolumeName = now.VolumeName
	}
	beta, annotated := old.Annotations[corev1.BetaStorageClassAnnotation]
	if was.StorageClassName == nil && now.StorageClassName != nil && (!annotated || beta == *now.StorageClassName) {
		now.StorageClassName = nil
	} else if value := c.Annotations[corev1.BetaStorageClassAnnotation]; value != beta {
		errs = append(errs, field.Invalid(metadataPath.Child("annotations", corev1.BetaStorageClassAnnotation), value, check.Immutable))
	}
	if c.Status.Phase == corev1.ClaimBound {
		if now.Resources.Requests != nil {
			now.Resources.Requests[corev1.ResourceStorage] = was.Resources.Requests[corev1.ResourceStorage]
		}
		if now.VolumeAttributesClassName != nil {
			now.VolumeAttributesClassName = was.VolumeAttributesClassName
		}
	}
	if !equality.Semantic.DeepEqual(now, was) {
		errs = append(errs, field.Forbidden(specPath, fmt.Sprintf(
			"spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", diff.Diff(was, now))))
	}
	return append(errs, validateClaimChange(c, old)...)
}

func validateClaimChange(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	size, before := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	// A claim may shrink only to give up a growth that failed, and never to what it has.
	if have := old.Status.Capacity[corev1.ResourceStorage]; size.Cmp(before) < 0 && size.Cmp(have) <= 0 {
		errs = append(errs, field.Forbidden(specPath.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, check.Unchanged(field.NewPath("volumeMode"), c.Spec.VolumeMode, old.Spec.VolumeMode)...)
	if old.Spec.VolumeAttributesClassName != nil {
		at := specPath.Child("volumeAttributesClassName")
		switch class := c.Spec.VolumeAttributesClassName; {
		case class == nil:
			errs = append(errs, field.Forbidden(at, "update from non-nil value to nil is forbidden"))
		case *class == "" && *old.Spec.VolumeAttributesClassName != "":
			errs = append(errs, field.Forbidden(at, "update from non-nil value to an empty string is forbidden"))
		}
	}
	return errs
}

func validateClaimStatus(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := check.Required(field.NewPath("resourceVersion"), c.ResourceVersion)
	errs = append(errs, volume.ValidateCapacity(c.Status.Capacity, statusPath.Child("capacity"))...)
	for name, status := range c.Status.AllocatedResourceStatuses {
		at := statusPath.Child("allocatedResourceStatus")
		errs = append(errs, validateClaimResource(name, at)...)
		switch status {
		case corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
			corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible:
		default:
			errs = append(errs, field.NotSupported(at, name, []corev1.ClaimResourceStatus{
				corev1.PersistentVolumeClaimControllerResizeInfeasible, corev1.PersistentVolumeClaimControllerResizeInProgress,
				corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizePending}))
		}
	}
	for name := range c.Status.AllocatedResources {
		errs = append(errs, validateClaimResource(name, statusPath.Child("allocatedResources"))...)
	}
	return append(errs, volume.ValidateCapacity(c.Status.AllocatedResources, statusPath.Child("allocatedResources"))...)
}

func validateClaimResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := check.Qualified(at, string(name))
	if len(errs) == 0 && amount.Native(name) && name != corev1.ResourceStorage {
		errs = append(errs, field.NotSupported(at, name, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	return errs
}

func claimRow(c *corev1.PersistentVolumeClaim, now time.Time) []any {
	phase := string(c.Status.Phase)
	if c.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	size, modes := "", ""
	if c.Spec.VolumeName != "" {
		capacity := c.Status.Capacity[corev1.ResourceStorage]
		size, modes = capacity.String(), accessModes(c.Status.AccessModes)
	}
	class := ptr.Deref(c.Spec.StorageClassName, "")
	if beta, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		class = beta
	}
	return []any{c.Name, phase, c.Spec.VolumeName, size, modes, class, ptr.Deref(c.Spec.VolumeAttributesClassName, unset),
		age(c.CreationTimestamp, now), string(ptr.Deref(c.Spec.VolumeMode, unset))}
}
