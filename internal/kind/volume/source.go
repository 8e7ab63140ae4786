// Package volume holds the defaults and the validation of volumes: the sources inside pods, the
// sources of persistent volumes, and the specs of claims.
//
// It owns what pods and the storage kinds share; the kinds themselves are in package kind.
package volume

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
)

// chooser takes the one source of a volume and complains of further ones.
type chooser struct {
	at    *field.Path
	taken int
	errs  field.ErrorList
}

// source checks one source. name is its path element; reported is the element under which a
// second source is refused, where upstream uses another.
func (c *chooser) source(present bool, name string, validate func(at *field.Path) field.ErrorList) {
	if !present {
		return
	}
	if c.taken++; c.taken > 1 {
		c.errs = append(c.errs, field.Forbidden(c.at.Child(name), "may not specify more than 1 volume type"))
		return
	}
	c.errs = append(c.errs, validate(c.at.Child(name))...)
}

func (c *chooser) done() field.ErrorList {
	if c.taken == 0 {
		c.errs = append(c.errs, field.Required(c.at, "must specify a volume type"))
	}
	return c.errs
}

// Validate checks the volumes of a pod or a pod template and returns the valid ones by name.
// pod is nil in a template; its name decides the names of ephemeral claims.
func Validate(volumes []corev1.Volume, pod *metav1.ObjectMeta, at *field.Path) (map[string]*corev1.Volume, field.ErrorList) {
	if len(volumes) == 0 {
		return nil, nil
	}
	var errs field.ErrorList
	named := make(map[string]*corev1.Volume, len(volumes))
	for i := range volumes {
		v, here := &volumes[i], at.Index(i)
		found := append(validateSource(v, pod, here), unserved(v, here)...)
		if v.Name == "" {
			found = append(found, field.Required(here.Child("name"), ""))
		} else if !check.IsLabel(v.Name) {
			found = append(found, check.Label(here.Child("name"), v.Name)...)
		}
		if named[v.Name] != nil {
			found = append(found, field.Duplicate(here.Child("name"), v.Name))
		}
		if len(found) == 0 {
			named[v.Name] = v
		}
		errs = append(errs, found...)
		if v.PersistentVolumeClaim != nil && madeForPod(volumes, pod, v.PersistentVolumeClaim.ClaimName) {
			errs = append(errs, field.Invalid(here.Child("persistentVolumeClaim", "claimName"), v.PersistentVolumeClaim.ClaimName,
				"must not reference a PVC that gets created for an ephemeral volume"))
		}
	}
	return named, errs
}

// madeForPod says whether claim is the name of one that the pod's ephemeral volumes bring along.
func madeForPod(volumes []corev1.Volume, pod *metav1.ObjectMeta, claim string) bool {
	if pod == nil || pod.Name == "" {
		return false
	}
	for i := range volumes {
		if volumes[i].Ephemeral != nil && pod.Name+"-"+volumes[i].Name == claim {
			return true
		}
	}
	return false
}

func validateSource(v *corev1.Volume, pod *metav1.ObjectMeta, at *field.Path) field.ErrorList {
	// The two sources that nearly every pod has take the short way.
	if only := (corev1.VolumeSource{Projected: v.Projected}); v.Projected != nil && v.VolumeSource == only {
		return validateProjected(v.Projected, at.Child("projected"))
	}
	c := chooser{at: at}
	c.source(v.EmptyDir != nil, "emptyDir", func(at *field.Path) field.ErrorList {
		if size := v.EmptyDir.SizeLimit; size != nil && size.Sign() < 0 {
			return field.ErrorList{field.Forbidden(at.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")}
		}
		return nil
	})
	c.source(v.HostPath != nil, "hostPath", func(at *field.Path) field.ErrorList { return validateHostPath(v.HostPath, at) })
	c.source(v.GitRepo != nil, "gitRepo", func(at *field.Path) field.ErrorList {
		return append(check.Required(at.Child("repository"), v.GitRepo.Repository),
			check.LocalPath(at.Child("directory"), v.GitRepo.Directory)...)
	})
	c.source(v.Secret != nil, "secret", func(at *field.Path) field.ErrorList {
		errs := check.Required(at.Child("secretName"), v.Secret.SecretName)
		errs = append(errs, check.FileMode(at.Child("defaultMode"), v.Secret.DefaultMode)...)
		return append(errs, validateItems(v.Secret.Items, at.Child("items"))...)
	})
	c.source(v.PersistentVolumeClaim != nil, "persistentVolumeClaim", func(at *field.Path) field.ErrorList {
		return check.Required(at.Child("claimName"), v.PersistentVolumeClaim.ClaimName)
	})
	c.source(v.DownwardAPI != nil, "downwardAPI", func(at *field.Path) field.ErrorList {
		errs := check.FileMode(at.Child("defaultMode"), v.DownwardAPI.DefaultMode)
		for i := range v.DownwardAPI.Items {
			errs = append(errs, validateDownwardFile(&v.DownwardAPI.Items[i], at)...)
		}
		return errs
	})
	c.source(v.ConfigMap != nil, "configMap", func(at *field.Path) field.ErrorList {
		errs := check.Required(at.Child("name"), v.ConfigMap.Name)
		errs = append(errs, check.FileMode(at.Child("defaultMode"), v.ConfigMap.DefaultMode)...)
		return append(errs, validateItems(v.ConfigMap.Items, at.Child("items"))...)
	})
	c.source(v.Projected != nil, "projected", func(at *field.Path) field.ErrorList { return validateProjected(v.Projected, at) })
	podDrivers(&c, &v.VolumeSource, v.Name)
	c.source(v.CSI != nil, "csi", func(at *field.Path) field.ErrorList {
		errs := DriverName(v.CSI.Driver, at.Child("driver"))
		if ref := v.CSI.NodePublishSecretRef; ref != nil {
			if ref.Name == "" {
				errs = append(errs, field.Required(at.Child("nodePublishSecretRef", "name"), ""))
			} else {
				errs = append(errs, check.Subdomain(at.Child("name"), ref.Name)...)
			}
		}
		return errs
	})
	c.source(v.Ephemeral != nil, "ephemeral", func(at *field.Path) field.ErrorList { return validateEphemeral(v, pod, c.at, at) })
	c.source(v.Image != nil, "image", func(at *field.Path) field.ErrorList {
		errs := check.Required(at.Child("reference"), v.Image.Reference)
		return append(errs, check.OneOf(at.Child("pullPolicy"), v.Image.PullPolicy,
			corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	})
	return c.done()
}

func validateEphemeral(v *corev1.Volume, pod *metav1.ObjectMeta, volumePath, at *field.Path) field.ErrorList {
	if v.Ephemeral.VolumeClaimTemplate == nil {
		return field.ErrorList{field.Required(at.Child("volumeClaimTemplate"), "")}
	}
	t, at := v.Ephemeral.VolumeClaimTemplate, at.Child("volumeClaimTemplate")
	errs := validateTemplateMeta(&t.ObjectMeta, at.Child("metadata"))
	errs = append(errs, ValidateClaimSpec(&t.Spec, at.Child("spec"))...)
	if pod != nil && pod.Name != "" && v.Name != "" {
		claim := pod.Name + "-" + v.Name
		for _, msg := range validation.NameIsDNSSubdomain(claim, false) {
			errs = append(errs, field.Invalid(volumePath.Child("name"), v.Name, fmt.Sprintf("PVC name %q: %v", claim, msg)))
		}
	}
	return errs
}

func validateHostPath(h *corev1.HostPathVolumeSource, at *field.Path) field.ErrorList {
	if h.Path == "" {
		return field.ErrorList{field.Required(at.Child("path"), "")}
	}
	errs := check.NoBacksteps(at.Child("path"), h.Path)
	if h.Type != nil {
		errs = append(errs, check.Among(at.Child("type"), *h.Type, corev1.HostPathUnset, corev1.HostPathBlockDev,
			corev1.HostPathCharDev, corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate, corev1.HostPathFile,
			corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
	}
	return errs
}

func validateItems(items []corev1.KeyToPath, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range items {
		errs = append(errs, validateItem(&items[i], at.Index(i))...)
	}
	return errs
}

func validateItem(item *corev1.KeyToPath, at *field.Path) field.ErrorList {
	errs := check.Required(at.Child("key"), item.Key)
	errs = append(errs, check.Required(at.Child("path"), item.Path)...)
	errs = append(errs, check.LocalName(at.Child("path"), item.Path)...)
	return append(errs, check.FileMode(at.Child("mode"), item.Mode)...)
}
