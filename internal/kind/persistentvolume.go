package kind

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/amount"
	"coracle/internal/kind/check"
	"coracle/internal/kind/podspec"
	"coracle/internal/kind/volume"
	"coracle/internal/resource"
)

var persistentVolumes = Kind{
	Resource: resource.PersistentVolumes, Singular: "persistentvolume", ShortNames: []string{"pv"},
	New:     func() runtime.Object { return &corev1.PersistentVolume{} },
	NewList: func() runtime.Object { return &corev1.PersistentVolumeList{} },
	Default: func(o runtime.Object) { defaultVolume(o.(*corev1.PersistentVolume)) },
	Strategy: newStrategy(resource.PersistentVolumes, rules[*corev1.PersistentVolume]{
		prepareCreate: func(v *corev1.PersistentVolume) {
			now := metav1.NewTime(clock())
			v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: &now}
		},
		prepareUpdate:  func(v, old *corev1.PersistentVolume) { v.Status = old.Status },
		validate:       validateVolume,
		validateUpdate: validateVolumeUpdate,
		resets:         []string{"status"},
	}),
	Status: newStrategy(resource.PersistentVolumes, rules[*corev1.PersistentVolume]{
		prepareUpdate: prepareVolumeStatus,
		validateUpdate: func(v, old *corev1.PersistentVolume) field.ErrorList {
			return check.Required(field.NewPath("resourceVersion"), v.ResourceVersion)
		},
		resets: []string{"spec"},
	}),
	Columns: newTable(volumeRow, nameColumn(),
		col("Capacity", "string", "Size of the volume."),
		col("Access Modes", "string", "How it may be mounted: RWO, ROX, RWX, RWOP."),
		col("Reclaim Policy", "string", "What becomes of it when its claim goes."),
		col("Status", "string", "Whether a claim has it."),
		col("Claim", "string", "The claim that has it."),
		col("StorageClass", "string", "Class it belongs to."),
		col("VolumeAttributesClass", "string", "Attributes class it was last changed to."),
		col("Reason", "string", "Why it is in this status."),
		ageColumn(),
		wide("VolumeMode", "string", "Filesystem, or Block for a raw device.")),
	GetAttrs:         attrsOf(resource.PersistentVolumes, selectable[*corev1.PersistentVolume]{}),
	SelectableFields: metaFields(resource.PersistentVolumes),
}

func defaultVolume(v *corev1.PersistentVolume) {
	if v.Status.Phase == "" {
		v.Status.Phase = corev1.VolumePending
	}
	if v.Spec.PersistentVolumeReclaimPolicy == "" {
		v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	}
	if v.Spec.VolumeMode == nil {
		v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeFilesystem)
	}
	amount.Round(v.Spec.Capacity)
	volume.DefaultPersistent(&v.Spec.PersistentVolumeSource)
}

func validateVolume(v *corev1.PersistentVolume) field.ErrorList {
	errs := validMeta(&v.ObjectMeta, false, validation.NameIsDNSSubdomain)
	errs = append(errs, volume.ValidatePersistentSpec(&v.Spec, v.Name, specPath)...)
	if a := v.Spec.NodeAffinity; a != nil {
		at := specPath.Child("nodeAffinity", "required")
		if a.Required == nil {
			errs = append(errs, field.Required(at, "must specify required node constraints"))
		} else {
			errs = append(errs, podspec.ValidateNodeSelector(a.Required, at)...)
		}
	}
	return errs
}

func validateVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	errs := validateVolume(v)
	source := v.Spec.PersistentVolumeSource
	if was, now := old.Spec.CSI, v.Spec.CSI; was != nil && now != nil && was.ControllerExpandSecretRef == nil && now.ControllerExpandSecretRef != nil {
		// The secret for growing may be added later.
		same := *now
		same.ControllerExpandSecretRef = nil
		source.CSI = &same
	}
	if !equality.Semantic.DeepEqual(source, old.Spec.PersistentVolumeSource) {
		errs = append(errs, field.Forbidden(specPath.Child("persistentvolumesource"),
			fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(old.Spec.PersistentVolumeSource, source))))
	}
	errs = append(errs, check.Unchanged(field.NewPath("volumeMode"), v.Spec.VolumeMode, old.Spec.VolumeMode)...)
	if old.Spec.NodeAffinity != nil && !equality.Semantic.DeepEqual(v.Spec.NodeAffinity, old.Spec.NodeAffinity) {
		errs = append(errs, field.Invalid(field.NewPath("nodeAffinity"), v.Spec.NodeAffinity, check.Immutable+", except for updating from beta label to GA"))
	}
	if old.Spec.VolumeAttributesClassName != nil && v.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(specPath.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

// prepareVolumeStatus keeps the spec and notes when the phase changed (KEP-3762).
func prepareVolumeStatus(v, old *corev1.PersistentVolume) {
	v.Spec = old.Spec
	switch was := old.Status.LastPhaseTransitionTime; {
	case v.Status.Phase == old.Status.Phase:
		if v.Status.LastPhaseTransitionTime == nil {
			v.Status.LastPhaseTransitionTime = was
		}
	case v.Status.LastPhaseTransitionTime == nil || v.Status.LastPhaseTransitionTime.Equal(was):
		now := metav1.NewTime(clock())
		v.Status.LastPhaseTransitionTime = &now
	}
}

func volumeRow(v *corev1.PersistentVolume, now time.Time) []any {
	claim := ""
	if ref := v.Spec.ClaimRef; ref != nil {
		claim = ref.Namespace + "/" + ref.Name
	}
	phase := string(v.Status.Phase)
	if v.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	class := v.Spec.StorageClassName
	if beta, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		class = beta
	}
	size := v.Spec.Capacity[corev1.ResourceStorage]
	return []any{v.Name, size.String(), accessModes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase, claim, class,
		ptr.Deref(v.Spec.VolumeAttributesClassName, unset), v.Status.Reason, age(v.CreationTimestamp, now), string(ptr.Deref(v.Spec.VolumeMode, unset))}
}

// accessModes prints access modes by their initials, each once, in a fixed order.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var out []string
	for _, m := range [...]struct {
		mode corev1.PersistentVolumeAccessMode
		word string
	}{{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"}} {
		for _, have := range modes {
			if have == m.mode {
				out = append(out, m.word)
				break
			}
		}
	}
	return strings.Join(out, ",")
}
