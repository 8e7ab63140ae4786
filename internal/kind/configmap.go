package kind

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/resource"
)

// maxPayload is the most a ConfigMap or a Secret may hold, in bytes (core/v1 MaxSecretSize).
const maxPayload = 1024 * 1024

var configMaps = Kind{
	Resource: resource.ConfigMaps, Singular: "configmap", ShortNames: []string{"cm"},
	New:     func() runtime.Object { return &corev1.ConfigMap{} },
	NewList: func() runtime.Object { return &corev1.ConfigMapList{} },
	Strategy: newStrategy(resource.ConfigMaps, rules[*corev1.ConfigMap]{
		validate:       validateConfigMap,
		validateUpdate: validateConfigMapUpdate,
	}),
	Columns: newTable(func(c *corev1.ConfigMap, now time.Time) []any {
		return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), age(c.CreationTimestamp, now)}
	}, nameColumn(), col("Data", "string", "Number of keys."), ageColumn()),
	GetAttrs:         attrsOf(resource.ConfigMaps, selectable[*corev1.ConfigMap]{}),
	SelectableFields: metaFields(resource.ConfigMaps),
}

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	errs := validMeta(&c.ObjectMeta, true, validation.NameIsDNSSubdomain)
	size := 0
	for _, key := range slices.Sorted(maps.Keys(c.Data)) {
		value, path := c.Data[key], field.NewPath("data").Key(key)
		errs = append(errs, validKey(key, path)...)
		if _, twice := c.BinaryData[key]; twice {
			errs = append(errs, field.Invalid(path, key, "duplicate of key present in binaryData"))
		}
		size += len(value)
	}
	for _, key := range slices.Sorted(maps.Keys(c.BinaryData)) {
		value := c.BinaryData[key]
		errs = append(errs, validKey(key, field.NewPath("binaryData").Key(key))...)
		size += len(value)
	}
	if size > maxPayload {
		// Upstream reports the size against the empty path.
		errs = append(errs, field.TooLong(field.NewPath(""), "", maxPayload))
	}
	return errs
}

func validateConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	if old.Immutable != nil && *old.Immutable {
		if c.Immutable == nil || !*c.Immutable {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), whenImmutable))
		}
		if !maps.Equal(c.Data, old.Data) {
			errs = append(errs, field.Forbidden(field.NewPath("data"), whenImmutable))
		}
		if !equality.Semantic.DeepEqual(c.BinaryData, old.BinaryData) {
			errs = append(errs, field.Forbidden(field.NewPath("binaryData"), whenImmutable))
		}
	}
	return append(errs, validateConfigMap(c)...)
}

const whenImmutable = "field is immutable when `immutable` is set"

func validKey(key string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range utilvalidation.IsConfigMapKey(key) {
		errs = append(errs, field.Invalid(path, key, msg))
	}
	return errs
}
