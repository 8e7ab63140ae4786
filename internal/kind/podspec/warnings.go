package podspec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// deprecatedNodeLabels are the labels of nodes that have a successor.
var deprecatedNodeLabels = map[string]string{
	corev1.LabelFailureDomainBetaZone:   corev1.LabelTopologyZone,
	corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	corev1.LabelInstanceType:            corev1.LabelInstanceTypeStable,
	"beta.kubernetes.io/os":             corev1.LabelOSStable,
	"beta.kubernetes.io/arch":           corev1.LabelArchStable,
}

// Warnings returns what is valid in a spec but hardly meant. at is the path of the pod or the
// template; nil for a pod.
func Warnings(s *corev1.PodSpec, annotations map[string]string, at *field.Path) []string {
	w := &warner{spec: s, at: at.Child("spec")}
	for _, key := range slices.Sorted(maps.Keys(s.NodeSelector)) {
		if better := deprecatedNodeLabels[key]; better != "" {
			w.add(w.at.Child("nodeSelector").Key(key), "deprecated since v1.14; use %q instead", better)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) {
			w.add(at.Child("metadata", "annotations").Key(key),
				`deprecated since v1.30; use the "appArmorProfile" field instead`)
		}
	}
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		w.add(w.at.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	w.volumes()
	for i := range s.InitContainers {
		w.container(&s.InitContainers[i], w.at.Child("initContainers").Index(i))
	}
	for i := range s.Containers {
		w.container(&s.Containers[i], w.at.Child("containers").Index(i))
	}
	for i, ref := range s.ImagePullSecrets {
		if ref.Name == "" {
			w.add(w.at.Child("imagePullSecrets").Index(i).Child("name"), "invalid empty name %q", "")
		}
	}
	return w.found
}

type warner struct {
	spec  *corev1.PodSpec
	at    *field.Path
	found []string
}

func (w *warner) add(at *field.Path, format string, args ...any) {
	w.found = append(w.found, at.String()+": "+fmt.Sprintf(format, args...))
}

// volumes warns of storage that no version of Kubernetes mounts any more.
func (w *warner) volumes() {
	for i := range w.spec.Volumes {
		v, at := &w.spec.Volumes[i], w.at.Child("volumes").Index(i)
		for _, gone := range [...]struct {
			name, since string
			used        bool
		}{
			{"photonPersistentDisk", "v1.11, non-functional in v1.16+", v.PhotonPersistentDisk != nil},
			{"gitRepo", "v1.11, and disabled by default in v1.33+", v.GitRepo != nil},
			{"scaleIO", "v1.16, non-functional in v1.22+", v.ScaleIO != nil},
			{"flocker", "v1.22, non-functional in v1.25+", v.Flocker != nil},
			{"storageOS", "v1.22, non-functional in v1.25+", v.StorageOS != nil},
			{"quobyte", "v1.22, non-functional in v1.25+", v.Quobyte != nil},
			{"glusterfs", "v1.25, non-functional in v1.26+", v.Glusterfs != nil},
			{"cephfs", "v1.28, non-functional in v1.31+", v.CephFS != nil},
			{"rbd", "v1.28, non-functional in v1.31+", v.RBD != nil},
		} {
			if gone.used {
				w.add(at.Child(gone.name), "deprecated in %s", gone.since)
			}
		}
	}
}

func (w *warner) container(c *corev1.Container, at *field.Path) {
	for name, q := range c.Resources.Limits {
		if (name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage) && q.MilliValue()%1000 != 0 {
			w.add(at.Child("resources", "limits").Key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
		}
	}
	for name, q := range c.Resources.Requests {
		if (name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage) && q.MilliValue()%1000 != 0 {
			w.add(at.Child("resources", "requests").Key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
		}
	}
	for i := range c.Env {
		for j := i - 1; j >= 0; j-- {
			if c.Env[j].Name == c.Env[i].Name && !strings.Contains(c.Env[i].Value, "$("+c.Env[i].Name+")") {
				w.add(at.Child("env").Index(i), "hides previous definition of %q, which may be dropped when using apply", c.Env[i].Name)
				break
			}
		}
	}
	for i, p := range c.Ports {
		for j, q := range c.Ports[:i] {
			if p.ContainerPort == q.ContainerPort && p.Protocol == q.Protocol && p.HostPort == q.HostPort && p.HostIP == q.HostIP {
				w.add(at.Child("ports").Index(i), "duplicate port definition with %s", at.Child("ports").Index(j))
				break
			}
		}
	}
}
