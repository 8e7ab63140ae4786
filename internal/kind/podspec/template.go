package podspec

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
)

// ValidateTemplate checks a pod template.
func ValidateTemplate(t *corev1.PodTemplateSpec, at *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabels(t.Labels, at.Child("labels"))
	errs = append(errs, validation.ValidateAnnotations(t.Annotations, at.Child("annotations"))...)
	errs = append(errs, ValidateAnnotations(t.Annotations, &t.Spec, at.Child("annotations"))...)
	errs = append(errs, Validate(&t.Spec, nil, at.Child("spec"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(at.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// ValidateWorkloadTemplate checks the template of a controller that keeps its pods running:
// its labels match the selector, and its pods always restart. kind is named in errors.
func ValidateWorkloadTemplate(t *corev1.PodTemplateSpec, matches bool, kind string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !matches {
		errs = append(errs, field.Invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
	errs = append(errs, ValidateTemplate(t, at)...)
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(at.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported"))
	}
	return errs
}

// ValidatePod checks a pod beyond its generic metadata: annotations, spec, and what only pods
// are held to.
func ValidatePod(m *metav1.ObjectMeta, spec *corev1.PodSpec) field.ErrorList {
	at := field.NewPath("spec")
	var errs field.ErrorList
	if len(m.Annotations) > 0 {
		errs = append(errs, ValidateAnnotations(m.Annotations, spec, field.NewPath("metadata", "annotations"))...)
	}
	errs = append(errs, Validate(spec, m, at)...)
	if spec.ServiceAccountName == "" {
		for i, v := range spec.Volumes {
			if v.Projected == nil {
				continue
			}
			for j, source := range v.Projected.Sources {
				if source.ServiceAccountToken != nil {
					errs = append(errs, field.Forbidden(at.Child("volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken"),
						"must not be specified when serviceAccountName is not set"))
				}
			}
		}
	}
	for i := range spec.Containers {
		errs = append(errs, validateImage(&spec.Containers[i], at.Child("containers").Index(i))...)
	}
	for i := range spec.InitContainers {
		errs = append(errs, validateImage(&spec.InitContainers[i], at.Child("initContainers").Index(i))...)
	}
	return errs
}

// validateImage: templates may hold padded image names for historical reasons, pods may not.
func validateImage(c *corev1.Container, at *field.Path) field.ErrorList {
	if len(strings.TrimSpace(c.Image)) != len(c.Image) {
		return field.ErrorList{field.Invalid(at.Child("image"), c.Image, "must not have leading or trailing whitespace")}
	}
	return nil
}

// ValidateAnnotations checks the annotations that Kubernetes itself gives a meaning on pods.
func ValidateAnnotations(annotations map[string]string, spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		switch value := annotations[key]; {
		case key == corev1.MirrorPodAnnotationKey && spec.NodeName == "":
			errs = append(errs, field.Invalid(at.Key(key), value, "must set spec.nodeName if mirror pod annotation is set"))
		case key == corev1.PodDeletionCost && !deletionCost(value):
			errs = append(errs, field.Invalid(at.Key(key), value, "must be a 32bit integer"))
		case strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix):
			name := strings.TrimPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
			if !hasContainer(spec, name) {
				errs = append(errs, field.Invalid(at.Key(key), name, "container not found"))
			}
			errs = append(errs, appArmorAnnotation(name, value, spec, at.Key(key))...)
		case key == corev1.SeccompPodAnnotationKey || strings.HasPrefix(key, corev1.SeccompContainerAnnotationKeyPrefix):
			errs = append(errs, seccompAnnotation(value, at.Child(key))...)
		}
	}
	return errs
}

// deletionCost says whether a pod-deletion-cost is a number without leading plus or zeros.
func deletionCost(value string) bool {
	if strings.HasPrefix(value, "+") || len(value) > 1 && strings.HasPrefix(value, "0") {
		return false
	}
	_, err := strconv.ParseInt(value, 10, 32)
	return err == nil
}

func seccompAnnotation(value string, at *field.Path) field.ErrorList {
	switch value {
	case corev1.SeccompProfileRuntimeDefault, corev1.DeprecatedSeccompProfileDockerDefault, corev1.SeccompProfileNameUnconfined:
		return nil
	}
	if path, local := strings.CutPrefix(value, corev1.SeccompLocalhostProfileNamePrefix); local {
		return check.LocalPath(at, path)
	}
	return field.ErrorList{field.Invalid(at, value, "must be a valid seccomp profile")}
}
