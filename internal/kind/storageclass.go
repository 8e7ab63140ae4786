package kind

import (
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"coracle/internal/kind/check"
	"coracle/internal/resource"
)

var storageClasses = Kind{
	Resource: resource.StorageClasses, Singular: "storageclass", ShortNames: []string{"sc"},
	New:     func() runtime.Object { return &storagev1.StorageClass{} },
	NewList: func() runtime.Object { return &storagev1.StorageClassList{} },
	Default: func(o runtime.Object) { defaultStorageClass(o.(*storagev1.StorageClass)) },
	Strategy: newStrategy(resource.StorageClasses, rules[*storagev1.StorageClass]{
		validate:       validateStorageClass,
		validateUpdate: validateStorageClassUpdate,
	}),
	Columns: newTable(storageClassRow, nameColumn(),
		col("Provisioner", "string", "Who makes its volumes."),
		col("ReclaimPolicy", "string", "What becomes of a volume when its claim goes."),
		col("VolumeBindingMode", "string", "Whether a volume is made at once or for the first pod."),
		col("AllowVolumeExpansion", "boolean", "Whether claims may grow."),
		ageColumn()),
	GetAttrs:         attrsOf(resource.StorageClasses, selectable[*storagev1.StorageClass]{}),
	SelectableFields: metaFields(resource.StorageClasses),
}

func defaultStorageClass(c *storagev1.StorageClass) {
	if c.ReclaimPolicy == nil {
		c.ReclaimPolicy = ptr.To(corev1.PersistentVolumeReclaimDelete)
	}
	if c.VolumeBindingMode == nil {
		c.VolumeBindingMode = ptr.To(storagev1.VolumeBindingImmediate)
	}
}

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	errs := validMeta(&c.ObjectMeta, false, validation.NameIsDNSSubdomain)
	errs = append(errs, check.Required(field.NewPath("provisioner"), c.Provisioner)...)
	if c.Provisioner != "" {
		for _, e := range check.Qualified(field.NewPath("provisioner"), strings.ToLower(c.Provisioner)) {
			errs = append(errs, field.Invalid(field.NewPath("provisioner"), c.Provisioner, e.Detail))
		}
	}
	errs = append(errs, validateParameters(c.Parameters, field.NewPath("parameters"))...)
	if c.ReclaimPolicy != nil && *c.ReclaimPolicy != "" {
		errs = append(errs, check.Among(field.NewPath("reclaimPolicy"), *c.ReclaimPolicy,
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	if c.VolumeBindingMode == nil {
		errs = append(errs, field.Required(field.NewPath("volumeBindingMode"), ""))
	} else {
		errs = append(errs, check.Among(field.NewPath("volumeBindingMode"), *c.VolumeBindingMode,
			storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	return append(errs, validateTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

// The most that a provisioner can be told (storage/v1).
const (
	maxParameters     = 512
	maxParameterBytes = 256 * 1024
)

func validateParameters(params map[string]string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(params) > maxParameters {
		errs = append(errs, field.TooLong(at, "Provisioner Parameters exceeded max allowed", maxParameters))
		return errs
	}
	total := 0
	for key, value := range params {
		if key == "" {
			errs = append(errs, field.Invalid(at, key, "field can not be empty."))
		}
		total += len(key) + len(value)
	}
	if total > maxParameterBytes {
		errs = append(errs, field.TooLong(at, "", maxParameterBytes))
	}
	return errs
}

func validateTopologies(terms []corev1.TopologySelectorTerm, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, term := range terms {
		keys := map[string]bool{}
		for j, e := range term.MatchLabelExpressions {
			at := at.Index(i).Child("matchLabelExpressions").Index(j)
			if len(e.Values) == 0 {
				errs = append(errs, field.Required(at.Child("values"), ""))
			}
			values := map[string]bool{}
			for k, v := range e.Values {
				if values[v] {
					errs = append(errs, field.Duplicate(at.Child("values").Index(k), v))
				}
				values[v] = true
			}
			errs = append(errs, metav1validation.ValidateLabelName(e.Key, at.Child("key"))...)
			if keys[e.Key] {
				errs = append(errs, field.Duplicate(at.Child("key"), e.Key))
			}
			keys[e.Key] = true
		}
		for j := range i {
			if equality.Semantic.DeepEqual(terms[j], term) {
				errs = append(errs, field.Duplicate(at.Index(i).Child("matchLabelExpressions"), ""))
				break
			}
		}
	}
	return errs
}

func validateStorageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	var errs field.ErrorList
	if !equality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
		errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
	}
	if c.Provisioner != old.Provisioner {
		errs = append(errs, field.Forbidden(field.NewPath("provisioner"), "updates to provisioner are forbidden."))
	}
	if !ptr.Equal(c.ReclaimPolicy, old.ReclaimPolicy) {
		errs = append(errs, field.Forbidden(field.NewPath("reclaimPolicy"), "updates to reclaimPolicy are forbidden."))
	}
	return append(errs, check.Unchanged(field.NewPath("volumeBindingMode"), c.VolumeBindingMode, old.VolumeBindingMode)...)
}

func storageClassRow(c *storagev1.StorageClass, now time.Time) []any {
	name := c.Name
	if isDefaultClass(c) {
		name += " (default)"
	}
	return []any{name, c.Provisioner, string(ptr.Deref(c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)),
		string(ptr.Deref(c.VolumeBindingMode, storagev1.VolumeBindingImmediate)), ptr.Deref(c.AllowVolumeExpansion, false), age(c.CreationTimestamp, now)}
}

func isDefaultClass(c *storagev1.StorageClass) bool {
	for _, key := range []string{"storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"} {
		if yes, _ := strconv.ParseBool(c.Annotations[key]); yes {
			return true
		}
	}
	return false
}
