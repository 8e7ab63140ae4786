package volume

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// alpha is what is said of a field that is alpha in the Kubernetes that this is: its servers drop such a field in silence.
const alpha = "is alpha in Kubernetes v1.37, and no node here acts on it: leave it out"

// noAttributes is what is said of the class of a volume's attributes.
const noAttributes = "no volume here has attributes that a class could change: VolumeAttributesClass is not served"

// unserved refuses the fields of a pod's volume that no node would act on, so that nobody relies on what is not done.
func unserved(v *corev1.Volume, at *field.Path) (errs field.ErrorList) {
	refuse := func(set bool, at *field.Path) {
		if set {
			errs = append(errs, field.Forbidden(at, alpha))
		}
	}
	keys := func(items []corev1.KeyToPath, at *field.Path) {
		for i := range items {
			refuse(items[i].User != nil, at.Child("items").Index(i).Child("user"))
		}
	}
	files := func(items []corev1.DownwardAPIVolumeFile, at *field.Path) {
		for i := range items {
			refuse(items[i].User != nil, at.Child("items").Index(i).Child("user"))
		}
	}
	if s, at := v.EmptyDir, at.Child("emptyDir"); s != nil {
		refuse(s.Mode != nil, at.Child("mode"))
	}
	if s, at := v.Secret, at.Child("secret"); s != nil {
		refuse(s.DefaultUser != nil, at.Child("defaultUser"))
		keys(s.Items, at)
	}
	if s, at := v.ConfigMap, at.Child("configMap"); s != nil {
		refuse(s.DefaultUser != nil, at.Child("defaultUser"))
		keys(s.Items, at)
	}
	if s, at := v.DownwardAPI, at.Child("downwardAPI"); s != nil {
		refuse(s.DefaultUser != nil, at.Child("defaultUser"))
		files(s.Items, at)
	}
	if v.Projected == nil {
		return errs
	}
	at = at.Child("projected")
	refuse(v.Projected.DefaultUser != nil, at.Child("defaultUser"))
	for i := range v.Projected.Sources {
		s, at := &v.Projected.Sources[i], at.Child("sources").Index(i)
		if s.Secret != nil {
			keys(s.Secret.Items, at.Child("secret"))
		}
		if s.ConfigMap != nil {
			keys(s.ConfigMap.Items, at.Child("configMap"))
		}
		if s.DownwardAPI != nil {
			files(s.DownwardAPI.Items, at.Child("downwardAPI"))
		}
		refuse(s.ServiceAccountToken != nil && s.ServiceAccountToken.User != nil, at.Child("serviceAccountToken", "user"))
		refuse(s.ClusterTrustBundle != nil && s.ClusterTrustBundle.User != nil, at.Child("clusterTrustBundle", "user"))
		refuse(s.PodCertificate != nil && s.PodCertificate.User != nil, at.Child("podCertificate", "user"))
	}
	return errs
}
