package volume

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/check"
)

// DefaultClaimSpec fills in what a claim's spec left out.
func DefaultClaimSpec(s *corev1.PersistentVolumeClaimSpec) {
	if s.VolumeMode == nil {
		s.VolumeMode = ptr.To(corev1.PersistentVolumeFilesystem)
	}
}

// ValidateModes checks the access modes of a claim or a volume.
func ValidateModes(modes []corev1.PersistentVolumeAccessMode, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	alone, others := false, false
	for _, mode := range modes {
		bad := check.Among(at, mode, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
		errs = append(errs, bad...)
		if mode == corev1.ReadWriteOncePod {
			alone = true
		} else if bad == nil {
			others = true
		}
	}
	if alone && others {
		errs = append(errs, field.Forbidden(at, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

// ValidateClaimSpec checks the spec of a claim, or of a claim template.
func ValidateClaimSpec(s *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(at.Child("accessModes"), "at least 1 access mode is required"))
	}
	if s.Selector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(s.Selector, metav1validation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	}
	errs = append(errs, ValidateModes(s.AccessModes, at.Child("accessModes"))...)
	sizePath := at.Child("resources").Key(string(corev1.ResourceStorage))
	if size, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		errs = append(errs, field.Required(sizePath, ""))
	} else {
		errs = append(errs, check.PositiveQuantity(sizePath, size)...)
	}
	if len(s.Resources.Limits) > 0 {
		errs = append(errs, field.Forbidden(at.Child("resources", "limits"), "nothing holds a volume to an upper bound: leave it out"))
	}
	if s.StorageClassName != nil && *s.StorageClassName != "" {
		errs = append(errs, check.Subdomain(at.Child("storageClassName"), *s.StorageClassName)...)
	}
	errs = append(errs, ValidateMode(s.VolumeMode, at.Child("volumeMode"))...)
	errs = append(errs, validateDataSources(s, at)...)
	if s.VolumeAttributesClassName != nil && *s.VolumeAttributesClassName != "" {
		errs = append(errs, field.Forbidden(at.Child("volumeAttributesClassName"), noAttributes))
	}
	return errs
}

// ValidateMode checks an optional volume mode.
func ValidateMode(mode *corev1.PersistentVolumeMode, at *field.Path) field.ErrorList {
	if mode == nil {
		return nil
	}
	return check.Among(at, *mode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
}

func validateDataSources(s *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if d := s.DataSource; d != nil {
		errs = append(errs, validateDataSource(d.Name, d.Kind, ptr.Deref(d.APIGroup, ""), at.Child("dataSource"))...)
	}
	ref := s.DataSourceRef
	if ref == nil {
		return errs
	}
	errs = append(errs, validateDataSource(ref.Name, ref.Kind, ptr.Deref(ref.APIGroup, ""), at.Child("dataSourceRef"))...)
	foreign := ptr.Deref(ref.Namespace, "")
	if foreign != "" {
		errs = append(errs, field.Forbidden(at.Child("dataSourceRef", "namespace"), alpha))
	}
	switch d := s.DataSource; {
	case d == nil:
	case foreign != "":
		errs = append(errs, field.Invalid(at, at.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified"))
	case d.Name != ref.Name || d.Kind != ref.Kind || !ptr.Equal(d.APIGroup, ref.APIGroup):
		errs = append(errs, field.Invalid(at, at.Child("dataSource"), "must match dataSourceRef"))
	}
	return errs
}

func validateDataSource(name, kind, group string, at *field.Path) field.ErrorList {
	errs := check.Required(at.Child("name"), name)
	errs = append(errs, check.Required(at.Child("kind"), kind)...)
	if group == "" && kind != "PersistentVolumeClaim" {
		errs = append(errs, field.Invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
	}
	if group != "" {
		errs = append(errs, check.Says(at.Child("apiGroup"), group, utilvalidation.IsDNS1123Subdomain(group))...)
	}
	return errs
}

// validateTemplateMeta checks the metadata of an embedded claim template, of which only labels
// and annotations are used.
func validateTemplateMeta(m *metav1.ObjectMeta, at *field.Path) field.ErrorList {
	errs := validation.ValidateAnnotations(m.Annotations, at.Child("annotations"))
	errs = append(errs, metav1validation.ValidateLabels(m.Labels, at.Child("labels"))...)
	for _, f := range [...]struct {
		name string
		set  bool
	}{
		{"name", m.Name != ""}, {"generateName", m.GenerateName != ""}, {"namespace", m.Namespace != ""},
		{"selfLink", m.SelfLink != ""}, {"uID", m.UID != ""}, {"resourceVersion", m.ResourceVersion != ""},
		{"generation", m.Generation != 0}, {"creationTimestamp", !m.CreationTimestamp.IsZero()},
		{"deletionTimestamp", m.DeletionTimestamp != nil}, {"deletionGracePeriodSeconds", m.DeletionGracePeriodSeconds != nil},
		{"ownerReferences", m.OwnerReferences != nil}, {"finalizers", m.Finalizers != nil}, {"managedFields", m.ManagedFields != nil},
	} {
		if f.set {
			errs = append(errs, field.Forbidden(at.Child(f.name), "cannot be set"))
		}
	}
	return errs
}

// ValidateCapacity checks the quantities of a capacity: known, not negative.
func ValidateCapacity(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, quantity := range list {
		if quantity.Value() < 0 {
			errs = append(errs, field.Invalid(at.Key(string(name)), quantity.Value(), "must be a valid resource quantity"))
		}
	}
	return errs
}
