package podspec

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
)

func (c *checker) mounts(ctr *corev1.Container, at *field.Path) {
	if len(ctr.VolumeMounts) == 0 {
		return
	}
	at = at.Child("volumeMounts")
	for i := range ctr.VolumeMounts {
		m, here := &ctr.VolumeMounts[i], at.Index(i)
		v := c.volumes[m.Name]
		if m.Name == "" {
			c.bad(field.Required(here.Child("name"), ""))
		}
		if v == nil {
			c.bad(field.NotFound(here.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			c.bad(field.Required(here.Child("mountPath"), ""))
		}
		for j := range i {
			if ctr.VolumeMounts[j].MountPath == m.MountPath {
				c.bad(field.Invalid(here.Child("mountPath"), m.MountPath, "must be unique"))
				break
			}
		}
		for j := range ctr.VolumeDevices {
			if ctr.VolumeDevices[j].Name == m.Name {
				c.bad(field.Invalid(here.Child("name"), m.Name, "must not already exist in volumeDevices"))
			}
			if ctr.VolumeDevices[j].DevicePath == m.MountPath {
				c.bad(field.Invalid(here.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices"))
			}
		}
		// Upstream reports the rest of a mount against the list, not against its element.
		c.subPaths(m, at)
		c.mountModes(m, ctr, at)
	}
}

func (c *checker) subPaths(m *corev1.VolumeMount, at *field.Path) {
	if m.SubPath != "" {
		c.add(check.LocalPath(at.Child("subPath"), m.SubPath))
	}
	if m.SubPathExpr == "" {
		return
	}
	if m.SubPath != "" {
		c.bad(field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
	}
	c.add(check.LocalPath(at.Child("subPathExpr"), m.SubPathExpr))
}

func (c *checker) mountModes(m *corev1.VolumeMount, ctr *corev1.Container, at *field.Path) {
	if p := m.MountPropagation; p != nil {
		at := at.Child("mountPropagation")
		c.add(check.Among(at, *p, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone))
		if *p == corev1.MountPropagationBidirectional && !privileged(ctr) {
			c.bad(field.Forbidden(at, "Bidirectional mount propagation is available only to privileged containers"))
		}
	}
	if m.RecursiveReadOnly == nil {
		return
	}
	at = at.Child("recursiveReadOnly")
	c.add(check.Among(at, *m.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible))
	switch *m.RecursiveReadOnly {
	case corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible:
		if !m.ReadOnly {
			c.bad(field.Forbidden(at, "may only be specified when readOnly is true"))
		}
		if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
			c.bad(field.Forbidden(at, "may only be specified when mountPropagation is None or not specified"))
		}
	}
}

func privileged(ctr *corev1.Container) bool {
	sc := ctr.SecurityContext
	return sc != nil && sc.Privileged != nil && *sc.Privileged
}

func (c *checker) devices(ctr *corev1.Container, at *field.Path) {
	if len(ctr.VolumeDevices) == 0 {
		return
	}
	at = at.Child("volumeDevices")
	for i := range ctr.VolumeDevices {
		d, at := &ctr.VolumeDevices[i], at.Index(i)
		if d.Name == "" {
			c.bad(field.Required(at.Child("name"), ""))
		}
		for j := range i {
			if ctr.VolumeDevices[j].Name == d.Name && d.Name != "" {
				c.bad(field.Invalid(at.Child("name"), d.Name, "must be unique"))
			}
			if ctr.VolumeDevices[j].DevicePath == d.DevicePath {
				c.bad(field.Invalid(at.Child("devicePath"), d.DevicePath, "must be unique"))
			}
		}
		switch v := c.volumes[d.Name]; {
		case v == nil:
			c.bad(field.NotFound(at.Child("name"), d.Name))
		case v.PersistentVolumeClaim == nil && v.Ephemeral == nil:
			c.bad(field.Invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		}
		if d.DevicePath == "" {
			c.bad(field.Required(at.Child("devicePath"), ""))
		} else if len(check.NoBacksteps(at, d.DevicePath)) > 0 {
			c.bad(field.Invalid(at.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')"))
		}
		if slices.ContainsFunc(ctr.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == d.Name }) {
			c.bad(field.Invalid(at.Child("name"), d.Name, "must not already exist in volumeMounts"))
		}
		if slices.ContainsFunc(ctr.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == d.DevicePath }) {
			c.bad(field.Invalid(at.Child("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts"))
		}
	}
}
