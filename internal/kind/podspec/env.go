package podspec

import (
	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
	"coracle/internal/kind/downward"
)

func (c *checker) env(vars []corev1.EnvVar, at *field.Path) {
	if len(vars) == 0 {
		return
	}
	at = at.Child("env")
	for i := range vars {
		v, at := &vars[i], at.Index(i)
		if v.Name == "" {
			c.bad(field.Required(at.Child("name"), ""))
		} else {
			c.add(check.Says(at.Child("name"), v.Name, utilvalidation.IsRelaxedEnvVarName(v.Name)))
		}
		if v.ValueFrom != nil {
			c.envSource(v, at.Child("valueFrom"))
		}
	}
}

func (c *checker) envSource(v *corev1.EnvVar, at *field.Path) {
	from, sources := v.ValueFrom, 0
	if from.FieldRef != nil {
		sources++
		c.add(downward.ValidateField(from.FieldRef, downward.Env, at.Child("fieldRef")))
	}
	if from.ResourceFieldRef != nil {
		sources++
		c.add(downward.ValidateResource(from.ResourceFieldRef, false, at.Child("resourceFieldRef")))
	}
	if from.ConfigMapKeyRef != nil {
		sources++
		c.keyRef(from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key, at.Child("configMapKeyRef"))
	}
	if from.SecretKeyRef != nil {
		sources++
		c.keyRef(from.SecretKeyRef.Name, from.SecretKeyRef.Key, at.Child("secretKeyRef"))
	}
	if from.FileKeyRef != nil {
		sources++
		c.fileRef(from.FileKeyRef, at.Child("fileKeyRef"))
	}
	switch {
	case sources == 0:
		c.bad(field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case v.Value != "":
		c.bad(field.Invalid(at, "", "may not be specified when `value` is not empty"))
	case sources > 1:
		c.bad(field.Invalid(at, "", "may not have more than one field specified at a time"))
	}
}

func (c *checker) keyRef(name, key string, at *field.Path) {
	c.add(check.Subdomain(at.Child("name"), name))
	if key == "" {
		c.bad(field.Required(at.Child("key"), ""))
		return
	}
	c.add(check.Says(at.Child("key"), key, utilvalidation.IsConfigMapKey(key)))
}

// fileRef checks a variable read from a file in an emptyDir (KEP-3721).
func (c *checker) fileRef(f *corev1.FileKeySelector, at *field.Path) {
	if f.Key == "" {
		c.bad(field.Required(at.Child("key"), ""))
	} else {
		c.add(check.Says(at.Child("key"), f.Key, utilvalidation.IsRelaxedEnvVarName(f.Key)))
	}
	if f.VolumeName == "" {
		c.bad(field.Required(at.Child("volumeName"), ""))
	} else {
		c.add(check.Label(at.Child("volumeName"), f.VolumeName))
	}
	if f.Path == "" {
		c.bad(field.Required(at.Child("path"), ""))
	} else {
		c.add(check.LocalName(at.Child("path"), f.Path))
	}
}

func (c *checker) envFrom(sources []corev1.EnvFromSource, at *field.Path) {
	if len(sources) == 0 {
		return
	}
	at = at.Child("envFrom")
	for i := range sources {
		s, here, named := &sources[i], at.Index(i), 0
		if s.Prefix != "" {
			c.add(check.Says(here.Child("prefix"), s.Prefix, utilvalidation.IsRelaxedEnvVarName(s.Prefix)))
		}
		if s.ConfigMapRef != nil {
			named++
			c.objectName(s.ConfigMapRef.Name, here.Child("configMapRef", "name"))
		}
		if s.SecretRef != nil {
			named++
			c.objectName(s.SecretRef.Name, here.Child("secretRef", "name"))
		}
		switch {
		case named == 0:
			c.bad(field.Invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"))
		case named > 1:
			c.bad(field.Invalid(at, "", "may not have more than one field specified at a time"))
		}
	}
}

func (c *checker) objectName(name string, at *field.Path) {
	if name == "" {
		c.bad(field.Required(at, ""))
		return
	}
	c.add(check.Subdomain(at, name))
}
