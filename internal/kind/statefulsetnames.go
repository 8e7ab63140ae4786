package kind

import (
	"fmt"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	content "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateDerivedNames refuses a new StatefulSet whose pods or claims could never be made, because of the names and labels
// that they take from it. Kubernetes accepts it, and its controller is refused every pod.
func validateDerivedNames(s *appsv1.StatefulSet) field.ErrorList {
	var errs field.ErrorList
	last := max(0, int(deref(s.Spec.Replicas))-1)
	if s.Spec.Ordinals != nil {
		last += int(s.Spec.Ordinals.Start)
	}
	// A pod's name is its hostname, and the value of the label statefulset.kubernetes.io/pod-name.
	if most := content.DNS1123LabelMaxLength - 1 - len(strconv.Itoa(last)); len(s.Name) > most {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), s.Name, fmt.Sprintf(
			"pods are called NAME-ORDINAL, in at most %d characters: with ordinals up to %d the name may have at most %d, not %d",
			content.DNS1123LabelMaxLength, last, most, len(s.Name))))
	}
	// The service's name is the subdomain of the pods.
	if name := s.Spec.ServiceName; name != "" {
		for _, wrong := range content.IsDNS1123Label(name) {
			errs = append(errs, field.Invalid(specPath.Child("serviceName"), name, "it is the pods' subdomain: "+wrong))
		}
	}
	for i := range s.Spec.VolumeClaimTemplates {
		claim, at := &s.Spec.VolumeClaimTemplates[i], specPath.Child("volumeClaimTemplates").Index(i).Child("metadata")
		errs = append(errs, metavalidation.ValidateLabels(claim.Labels, at.Child("labels"))...)
		errs = append(errs, validation.ValidateAnnotations(claim.Annotations, at.Child("annotations"))...)
	}
	return errs
}
