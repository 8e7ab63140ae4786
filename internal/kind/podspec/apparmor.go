package podspec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// profileOf reads the value of an AppArmor annotation, the form before v1.30; nil for what is none.
func profileOf(value string) *corev1.AppArmorProfile {
	switch name, local := strings.CutPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix); {
	case value == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	case value == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case local && name != "":
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	return nil
}

// ObeyAppArmorAnnotations gives containers the profiles that a pod's annotations name for them, where no field does: nodes
// look at the fields alone.
func ObeyAppArmorAnnotations(annotations map[string]string, spec *corev1.PodSpec) {
	for key, value := range annotations {
		name, ok := strings.CutPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
		profile := profileOf(value)
		if !ok || profile == nil {
			continue
		}
		for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
			for i := range list {
				if list[i].Name != name {
					continue
				}
				if list[i].SecurityContext == nil {
					list[i].SecurityContext = &corev1.SecurityContext{}
				}
				if list[i].SecurityContext.AppArmorProfile == nil {
					list[i].SecurityContext.AppArmorProfile = profile
				}
			}
		}
	}
}

// appArmorAnnotation checks an annotation for one container against its form and against the container's own field.
func appArmorAnnotation(name, value string, spec *corev1.PodSpec, at *field.Path) (errs field.ErrorList) {
	profile := profileOf(value)
	if profile == nil && value != "" {
		return field.ErrorList{field.Invalid(at, value, "must be runtime/default, unconfined, or localhost/ and the name of a profile")}
	}
	(&checker{spec: spec}).each(func(c *corev1.Container, _ *field.Path) {
		if c.Name == name && profile != nil && c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil &&
			!equality.Semantic.DeepEqual(c.SecurityContext.AppArmorProfile, profile) {
			errs = append(errs, field.Forbidden(at, "must match the container's securityContext.appArmorProfile"))
		}
	})
	return errs
}
