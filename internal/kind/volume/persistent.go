package volume

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
)

// ValidatePersistentSpec checks the spec of the persistent volume called name, but for its node
// affinity, which needs the rules of node selectors.
func ValidatePersistentSpec(s *corev1.PersistentVolumeSpec, name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(at.Child("accessModes"), ""))
	}
	errs = append(errs, ValidateModes(s.AccessModes, at.Child("accessModes"))...)
	errs = append(errs, validateCapacity(s.Capacity, at.Child("capacity"))...)
	if s.PersistentVolumeReclaimPolicy != "" {
		errs = append(errs, check.Among(at.Child("persistentVolumeReclaimPolicy"), s.PersistentVolumeReclaimPolicy,
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	}
	c := chooser{at: at}
	persistentSource(&c, s, name)
	errs = append(errs, c.done()...)
	if s.HostPath != nil && path.Clean(s.HostPath.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
	}
	if s.StorageClassName != "" {
		errs = append(errs, check.Subdomain(at.Child("storageClassName"), s.StorageClassName)...)
	}
	errs = append(errs, ValidateMode(s.VolumeMode, at.Child("volumeMode"))...)
	if s.VolumeAttributesClassName != nil {
		errs = append(errs, field.Forbidden(at.Child("volumeAttributesClassName"), noAttributes))
	}
	if len(s.MountOptions) > 0 && (s.HostPath != nil || s.Local != nil) {
		errs = append(errs, field.Forbidden(at.Child("mountOptions"), "may not specify mount options for this volume type"))
	}
	return errs
}

// validateCapacity: a volume has storage, a positive amount, and nothing else.
func validateCapacity(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	size, ok := list[corev1.ResourceStorage]
	if !ok || len(list) > 1 {
		errs = append(errs, field.NotSupported(at, list, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	errs = append(errs, ValidateCapacity(list, at)...)
	if ok {
		errs = append(errs, check.PositiveQuantity(at.Key(string(corev1.ResourceStorage)), size)...)
	}
	return errs
}

func persistentSource(c *chooser, s *corev1.PersistentVolumeSpec, name string) {
	c.source(s.HostPath != nil, "hostPath", func(at *field.Path) field.ErrorList { return validateHostPath(s.HostPath, at) })
	c.source(s.Local != nil, "local", func(at *field.Path) field.ErrorList {
		errs := check.Required(at.Child("path"), s.Local.Path)
		errs = append(errs, check.NoBacksteps(at.Child("path"), s.Local.Path)...)
		if s.NodeAffinity == nil {
			errs = append(errs, field.Required(c.at.Child("nodeAffinity"), "Local volume requires node affinity"))
		}
		return errs
	})
	c.source(s.NFS != nil, "nfs", func(at *field.Path) field.ErrorList { return nfs(s.NFS, at) })
	c.source(s.CSI != nil, "csi", func(at *field.Path) field.ErrorList { return persistentCSI(s.CSI, at) })
	c.source(s.GCEPersistentDisk != nil, "gcePersistentDisk", func(*field.Path) field.ErrorList {
		return gceDisk(s.GCEPersistentDisk, c.at.Child("persistentDisk"))
	})
	c.source(s.AWSElasticBlockStore != nil, "awsElasticBlockStore", func(at *field.Path) field.ErrorList {
		return partitioned("volumeID", s.AWSElasticBlockStore.VolumeID, s.AWSElasticBlockStore.Partition, at)
	})
	c.source(s.Glusterfs != nil, "glusterfs", func(at *field.Path) field.ErrorList {
		errs := check.Required(at.Child("endpoints"), s.Glusterfs.EndpointsName)
		errs = append(errs, check.Required(at.Child("path"), s.Glusterfs.Path)...)
		if ns := s.Glusterfs.EndpointsNamespace; ns != nil {
			errs = append(errs, check.Name(at.Child("endpointsNamespace"), *ns, validation.ValidateNamespaceName)...)
		}
		return errs
	})
	c.source(s.Flocker != nil, "flocker", func(at *field.Path) field.ErrorList { return flocker(s.Flocker, at) })
	c.source(s.RBD != nil, "rbd", func(at *field.Path) field.ErrorList { return rbd(s.RBD.CephMonitors, s.RBD.RBDImage, at) })
	c.source(s.Quobyte != nil, "quobyte", func(at *field.Path) field.ErrorList { return quobyte(s.Quobyte, at) })
	c.source(s.CephFS != nil, "cephfs", func(at *field.Path) field.ErrorList { return monitors(s.CephFS.Monitors, at) })
	c.source(s.ISCSI != nil, "iscsi", func(at *field.Path) field.ErrorList {
		i := s.ISCSI
		errs := iscsi(iscsiFields{i.TargetPortal, i.IQN, i.Lun, i.InitiatorName, (i.DiscoveryCHAPAuth || i.SessionCHAPAuth) && i.SecretRef == nil}, at)
		if i.InitiatorName != nil && len(name+":"+i.TargetPortal) > 64 {
			errs = append(errs, field.Invalid(at.Child("targetportal"), i.TargetPortal, portalTooLong))
		}
		if i.SecretRef != nil {
			errs = append(errs, check.Required(at.Child("secretRef", "name"), i.SecretRef.Name)...)
		}
		return errs
	})
	c.source(s.Cinder != nil, "cinder", func(at *field.Path) field.ErrorList {
		return append(check.Required(at.Child("volumeID"), s.Cinder.VolumeID), namedSecret(s.Cinder.SecretRef, at.Child("secretRef"))...)
	})
	c.source(s.FC != nil, "fc", func(at *field.Path) field.ErrorList { return fibreChannel(s.FC, at) })
	c.source(s.FlexVolume != nil, "flexVolume", func(at *field.Path) field.ErrorList { return flex(s.FlexVolume.Driver, s.FlexVolume.Options, at) })
	c.source(s.AzureFile != nil, "azureFile", func(at *field.Path) field.ErrorList {
		errs := check.Required(at.Child("secretName"), s.AzureFile.SecretName)
		errs = append(errs, check.Required(at.Child("shareName"), s.AzureFile.ShareName)...)
		if ns := s.AzureFile.SecretNamespace; ns != nil {
			errs = append(errs, check.Required(at.Child("secretNamespace"), *ns)...)
		}
		return errs
	})
	c.source(s.VsphereVolume != nil, "vsphereVolume", func(at *field.Path) field.ErrorList {
		return check.Required(at.Child("volumePath"), s.VsphereVolume.VolumePath)
	})
	c.source(s.PhotonPersistentDisk != nil, "photonPersistentDisk", func(at *field.Path) field.ErrorList {
		return check.Required(at.Child("pdID"), s.PhotonPersistentDisk.PdID)
	})
	c.source(s.PortworxVolume != nil, "portworxVolume", func(at *field.Path) field.ErrorList {
		return check.Required(at.Child("volumeID"), s.PortworxVolume.VolumeID)
	})
	c.source(s.AzureDisk != nil, "azureDisk", func(at *field.Path) field.ErrorList { return azureDisk(s.AzureDisk, at) })
	c.source(s.ScaleIO != nil, "scaleIO", func(at *field.Path) field.ErrorList {
		return scaleIO(s.ScaleIO.Gateway, s.ScaleIO.System, s.ScaleIO.VolumeName, at)
	})
	c.source(s.StorageOS != nil, "storageos", func(at *field.Path) field.ErrorList {
		return storageOS(s.StorageOS.VolumeName, s.StorageOS.VolumeNamespace, at)
	})
}

func namedSecret(ref *corev1.SecretReference, at *field.Path) field.ErrorList {
	if ref == nil {
		return nil
	}
	return append(check.Required(at.Child("name"), ref.Name), check.Required(at.Child("namespace"), ref.Namespace)...)
}

func persistentCSI(s *corev1.CSIPersistentVolumeSource, at *field.Path) field.ErrorList {
	errs := DriverName(s.Driver, at.Child("driver"))
	errs = append(errs, check.Required(at.Child("volumeHandle"), s.VolumeHandle)...)
	for _, r := range [...]struct {
		name string
		ref  *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", s.ControllerPublishSecretRef}, {"controllerExpandSecretRef", s.ControllerExpandSecretRef},
		{"nodePublishSecretRef", s.NodePublishSecretRef}, {"nodeExpandSecretRef", s.NodeExpandSecretRef},
	} {
		if r.ref == nil {
			continue
		}
		at := at.Child(r.name)
		if r.ref.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, check.Subdomain(at.Child("name"), r.ref.Name)...)
		}
		if r.ref.Namespace == "" {
			errs = append(errs, field.Required(at.Child("namespace"), ""))
		} else {
			errs = append(errs, check.Label(at.Child("namespace"), r.ref.Namespace)...)
		}
	}
	return errs
}
