package volume

import (
	"net"
	"path"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"coracle/internal/kind/check"
)

// The sources below belong to storage systems that no node of ours mounts by itself. A manifest
// that names one is checked as upstream checks it, so that it fails here or waits on the node
// for the same reason as elsewhere.

// podDrivers checks the sources of foreign storage systems inside a pod.
func podDrivers(c *chooser, v *corev1.VolumeSource, name string) {
	c.source(v.GCEPersistentDisk != nil, "gcePersistentDisk", func(*field.Path) field.ErrorList {
		return gceDisk(v.GCEPersistentDisk, c.at.Child("persistentDisk"))
	})
	c.source(v.AWSElasticBlockStore != nil, "awsElasticBlockStore", func(at *field.Path) field.ErrorList {
		return partitioned("volumeID", v.AWSElasticBlockStore.VolumeID, v.AWSElasticBlockStore.Partition, at)
	})
	c.source(v.NFS != nil, "nfs", func(at *field.Path) field.ErrorList { return nfs(v.NFS, at) })
	c.source(v.ISCSI != nil, "iscsi", func(at *field.Path) field.ErrorList {
		s := v.ISCSI
		errs := iscsi(iscsiFields{s.TargetPortal, s.IQN, s.Lun, s.InitiatorName, (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil}, at)
		if s.InitiatorName != nil && len(name+":"+s.TargetPortal) > 64 {
			errs = append(errs, field.Invalid(c.at.Child("name"), name, portalTooLong))
		}
		return errs
	})
	c.source(v.Glusterfs != nil, "glusterfs", func(at *field.Path) field.ErrorList {
		return append(check.Required(at.Child("endpoints"), v.Glusterfs.EndpointsName), check.Required(at.Child("path"), v.Glusterfs.Path)...)
	})
	c.source(v.Flocker != nil, "flocker", func(at *field.Path) field.ErrorList { return flocker(v.Flocker, at) })
	c.source(v.RBD != nil, "rbd", func(at *field.Path) field.ErrorList { return rbd(v.RBD.CephMonitors, v.RBD.RBDImage, at) })
	c.source(v.Cinder != nil, "cinder", func(at *field.Path) field.ErrorList {
		errs := check.Required(at.Child("volumeID"), v.Cinder.VolumeID)
		return append(errs, localSecret(v.Cinder.SecretRef, at)...)
	})
	c.source(v.CephFS != nil, "cephfs", func(at *field.Path) field.ErrorList { return monitors(v.CephFS.Monitors, at) })
	c.source(v.Quobyte != nil, "quobyte", func(at *field.Path) field.ErrorList { return quobyte(v.Quobyte, at) })
	c.source(v.FC != nil, "fc", func(at *field.Path) field.ErrorList { return fibreChannel(v.FC, at) })
	c.source(v.FlexVolume != nil, "flexVolume", func(at *field.Path) field.ErrorList { return flex(v.FlexVolume.Driver, v.FlexVolume.Options, at) })
	c.source(v.AzureFile != nil, "azureFile", func(at *field.Path) field.ErrorList {
		return append(check.Required(at.Child("secretName"), v.AzureFile.SecretName), check.Required(at.Child("shareName"), v.AzureFile.ShareName)...)
	})
	c.source(v.VsphereVolume != nil, "vsphereVolume", func(at *field.Path) field.ErrorList {
		return check.Required(at.Child("volumePath"), v.VsphereVolume.VolumePath)
	})
	c.source(v.PhotonPersistentDisk != nil, "photonPersistentDisk", func(at *field.Path) field.ErrorList {
		return check.Required(at.Child("pdID"), v.PhotonPersistentDisk.PdID)
	})
	c.source(v.PortworxVolume != nil, "portworxVolume", func(at *field.Path) field.ErrorList {
		return check.Required(at.Child("volumeID"), v.PortworxVolume.VolumeID)
	})
	c.source(v.AzureDisk != nil, "azureDisk", func(at *field.Path) field.ErrorList { return azureDisk(v.AzureDisk, at) })
	c.source(v.StorageOS != nil, "storageos", func(at *field.Path) field.ErrorList {
		errs := storageOS(v.StorageOS.VolumeName, v.StorageOS.VolumeNamespace, at)
		return append(errs, localSecret(v.StorageOS.SecretRef, at)...)
	})
	c.source(v.ScaleIO != nil, "scaleIO", func(at *field.Path) field.ErrorList {
		return scaleIO(v.ScaleIO.Gateway, v.ScaleIO.System, v.ScaleIO.VolumeName, at)
	})
}

const portalTooLong = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."

func gceDisk(d *corev1.GCEPersistentDiskVolumeSource, at *field.Path) field.ErrorList {
	return partitioned("pdName", d.PDName, d.Partition, at)
}

func partitioned(name, value string, partition int32, at *field.Path) field.ErrorList {
	errs := check.Required(at.Child(name), value)
	if partition < 0 || partition > 255 {
		errs = append(errs, field.Invalid(at.Child("partition"), partition, utilvalidation.InclusiveRangeError(1, 255)))
	}
	return errs
}

func nfs(n *corev1.NFSVolumeSource, at *field.Path) field.ErrorList {
	errs := check.Required(at.Child("server"), n.Server)
	errs = append(errs, check.Required(at.Child("path"), n.Path)...)
	if !path.IsAbs(n.Path) {
		errs = append(errs, field.Invalid(at.Child("path"), n.Path, "must be an absolute path"))
	}
	return errs
}

type iscsiFields struct {
	portal, iqn   string
	lun           int32
	initiator     *string
	missingSecret bool
}

var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

func iscsi(s iscsiFields, at *field.Path) field.ErrorList {
	errs := check.Required(at.Child("targetPortal"), s.portal)
	if s.iqn == "" {
		errs = append(errs, field.Required(at.Child("iqn"), ""))
	} else {
		errs = append(errs, iscsiName(at.Child("iqn"), s.iqn)...)
	}
	if s.lun < 0 || s.lun > 255 {
		errs = append(errs, field.Invalid(at.Child("lun"), s.lun, utilvalidation.InclusiveRangeError(0, 255)))
	}
	if s.missingSecret {
		errs = append(errs, field.Required(at.Child("secretRef"), ""))
	}
	if s.initiator != nil {
		errs = append(errs, iscsiName(at.Child("initiatorname"), *s.initiator)...)
	}
	return errs
}

func iscsiName(at *field.Path, name string) field.ErrorList {
	for prefix, form := range iscsiNames {
		if strings.HasPrefix(name, prefix) {
			if !form.MatchString(name) {
				return field.ErrorList{field.Invalid(at, name, "must be valid format")}
			}
			return nil
		}
	}
	return field.ErrorList{field.Invalid(at, name, "must be valid format starting with iqn, eui, or naa")}
}

func flocker(f *corev1.FlockerVolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch byName, byUUID := f.DatasetName != "", f.DatasetUUID != ""; {
	case !byName && !byUUID:
		errs = append(errs, field.Required(at, "one of datasetName and datasetUUID is required"))
	case byName && byUUID:
		errs = append(errs, field.Invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	if strings.Contains(f.DatasetName, "/") {
		errs = append(errs, field.Invalid(at.Child("datasetName"), f.DatasetName, "must not contain '/'"))
	}
	return errs
}

func monitors(list []string, at *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(at.Child("monitors"), "")}
	}
	return nil
}

func rbd(list []string, image string, at *field.Path) field.ErrorList {
	return append(monitors(list, at), check.Required(at.Child("image"), image)...)
}

func localSecret(ref *corev1.LocalObjectReference, at *field.Path) field.ErrorList {
	if ref == nil {
		return nil
	}
	return check.Required(at.Child("secretRef", "name"), ref.Name)
}

func quobyte(q *corev1.QuobyteVolumeSource, at *field.Path) field.ErrorList {
	const form = "must be a host:port pair or multiple pairs separated by commas"
	var errs field.ErrorList
	switch {
	case q.Registry == "":
		errs = append(errs, field.Required(at.Child("registry"), form))
	case len(q.Tenant) > 64:
		errs = append(errs, field.Required(at.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	default:
		for pair := range strings.SplitSeq(q.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				errs = append(errs, field.Invalid(at.Child("registry"), q.Registry, form))
			}
		}
	}
	return append(errs, check.Required(at.Child("volume"), q.Volume)...)
}

func fibreChannel(f *corev1.FCVolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch names, ids := len(f.TargetWWNs) > 0, len(f.WWIDs) > 0; {
	case !names && !ids:
		errs = append(errs, field.Required(at.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"))
	case names && ids:
		errs = append(errs, field.Invalid(at.Child("targetWWNs"), f.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	}
	if len(f.TargetWWNs) == 0 {
		return errs
	}
	if f.Lun == nil {
		return append(errs, field.Required(at.Child("lun"), "lun is required if targetWWNs is specified"))
	}
	if *f.Lun < 0 || *f.Lun > 255 {
		errs = append(errs, field.Invalid(at.Child("lun"), f.Lun, utilvalidation.InclusiveRangeError(0, 255)))
	}
	return errs
}

func flex(driver string, options map[string]string, at *field.Path) field.ErrorList {
	errs := check.Required(at.Child("driver"), driver)
	for key := range options {
		prefix, _, _ := strings.Cut(key, "/")
		domain := "." + strings.ToLower(prefix)
		if strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			errs = append(errs, field.Invalid(at.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved"))
		}
	}
	return errs
}

func azureDisk(d *corev1.AzureDiskVolumeSource, at *field.Path) field.ErrorList {
	errs := check.Required(at.Child("diskName"), d.DiskName)
	errs = append(errs, check.Required(at.Child("diskURI"), d.DataDiskURI)...)
	if d.CachingMode != nil {
		errs = append(errs, check.Among(at.Child("cachingMode"), *d.CachingMode,
			corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	}
	if d.Kind == nil {
		return errs
	}
	errs = append(errs, check.Among(at.Child("kind"), *d.Kind, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)...)
	prefix, form := "https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	if *d.Kind == corev1.AzureManagedDisk {
		prefix, form = "/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	}
	if !strings.HasPrefix(d.DataDiskURI, prefix) {
		errs = append(errs, field.NotSupported(at.Child("diskURI"), d.DataDiskURI, []string{form}))
	}
	return errs
}

func storageOS(name, namespace string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(at.Child("volumeName"), ""))
	} else {
		errs = append(errs, check.Label(at.Child("volumeName"), name)...)
	}
	if namespace != "" {
		errs = append(errs, check.Label(at.Child("volumeNamespace"), namespace)...)
	}
	return errs
}

func scaleIO(gateway, system, volume string, at *field.Path) field.ErrorList {
	errs := check.Required(at.Child("gateway"), gateway)
	errs = append(errs, check.Required(at.Child("system"), system)...)
	return append(errs, check.Required(at.Child("volumeName"), volume)...)
}

// DriverName checks the name of a CSI driver.
func DriverName(name string, at *field.Path) field.ErrorList {
	errs := check.Required(at, name)
	if len(name) > 63 {
		errs = append(errs, field.TooLong(at, "", 63))
	}
	return append(errs, check.Says(at, name, utilvalidation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}
