package container

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/node/cri"
	"coracle/internal/node/podsync"
)

// Mount is a volume or a file of the node's as one container sees it.
type Mount struct {
	// ContainerPath is absolute; HostPath exists.
	ContainerPath string
	HostPath      string
	// Image is mounted instead of HostPath, or ImageSubPath in it (KEP-4639).
	Image        string
	ImageSubPath string
	// Is says which file HostPath led to when it was checked; the zero value leaves that open.
	Is          Identity
	ReadOnly    bool
	Propagation *corev1.MountPropagationMode
	Recursive   bool // read-only all the way down
}

// Identity says which file it is (inode(7)), whatever its name.
type Identity struct {
	Device, Inode uint64
}

// String is the form in which the runtime is told.
func (i Identity) String() string { return fmt.Sprintf("%d:%d", i.Device, i.Inode) }

// Options are what a container's configuration takes besides its spec.
type Options struct {
	Step         podsync.StartContainer
	Environment  *Environment
	ImageUser    ImageUser
	ImageRef     string
	Mounts       []Mount
	QOS          corev1.PodQOSClass
	Memory       int64 // of the node, bytes
	SeccompStore string
	// Users are those of the sandbox, where the pod has its own. Its files are shown to them under the ids that they have on disk.
	Users *runtimeapi.UserNamespace
}

// Container returns the configuration of one attempt at a container. An error is the user's to
// mend: a reference that leads nowhere, a policy the image breaks.
func Container(ctx context.Context, pod *corev1.Pod, c *corev1.Container, o Options) (*runtimeapi.ContainerConfig, error) {
	if err := VerifyNonRoot(pod, c, o.ImageUser); err != nil {
		return nil, err
	}
	envs, err := o.Environment.Env(ctx, pod, c)
	if err != nil {
		return nil, err
	}
	known := make(map[string]string, len(envs))
	for _, kv := range envs {
		known[kv.Key] = string(kv.Value)
	}
	lookup := func(name string) (string, bool) {
		v, ok := known[name]
		return v, ok
	}
	labels := identity(pod)
	labels[cri.ContainerName] = c.Name
	as := security(pod, c, o.ImageUser, o.SeccompStore)
	mapUsers(as.NamespaceOptions, o.Users)
	return &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: o.Step.Attempt},
		Image:       &runtimeapi.ImageSpec{Image: o.ImageRef, UserSpecifiedImage: c.Image},
		Command:     expandAll(c.Command, lookup),
		Args:        expandAll(c.Args, lookup),
		WorkingDir:  c.WorkingDir,
		Envs:        envs,
		Mounts:      criMounts(o.Mounts, o.Users),
		Labels:      labels,
		Annotations: annotations(c, o),
		LogPath:     LogPath(c.Name, o.Step.Attempt),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		StopSignal:  stopSignal(c),
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources:       Resources(pod, c, o.Memory, o.QOS),
			SecurityContext: as,
		},
	}, nil
}

func annotations(c *corev1.Container, o Options) map[string]string {
	out := map[string]string{
		cri.ContainerHash:     podsync.Hash(c),
		cri.RestartCount:      strconv.FormatUint(uint64(o.Step.Attempt), 10),
		cri.TerminationPath:   c.TerminationMessagePath,
		cri.TerminationPolicy: string(c.TerminationMessagePolicy),
		cri.Crashes:           strconv.Itoa(o.Step.Crashes),
	}
	sources := map[string]string{}
	for _, m := range o.Mounts {
		if m.Is != (Identity{}) {
			sources[m.ContainerPath] = m.Is.String()
		}
	}
	if len(sources) == 0 {
		return out
	}
	if raw, err := json.Marshal(sources); err == nil { // strings always can be
		out[cri.MountSources] = string(raw)
	}
	return out
}

func stopSignal(c *corev1.Container) runtimeapi.Signal {
	if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+string(*c.Lifecycle.StopSignal)])
}

func expandAll(in []string, lookup func(string) (string, bool)) []string {
	if in == nil {
		return nil
	}
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = Expand(s, lookup)
	}
	return out
}

func criMounts(mounts []Mount, users *runtimeapi.UserNamespace) []*runtimeapi.Mount {
	out := make([]*runtimeapi.Mount, 0, len(mounts))
	for _, m := range mounts {
		mount := &runtimeapi.Mount{
			ContainerPath: m.ContainerPath, HostPath: m.HostPath, Readonly: m.ReadOnly,
			RecursiveReadOnly: m.Recursive, Propagation: propagation(m.Propagation),
		}
		if m.Image == "" {
			mount.UidMappings, mount.GidMappings = users.GetUids(), users.GetGids()
		} else {
			mount.Image, mount.ImageSubPath = &runtimeapi.ImageSpec{Image: m.Image, UserSpecifiedImage: m.Image}, m.ImageSubPath
		}
		out = append(out, mount)
	}
	return out
}

func propagation(mode *corev1.MountPropagationMode) runtimeapi.MountPropagation {
	if mode == nil {
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	}
	switch *mode {
	case corev1.MountPropagationHostToContainer:
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case corev1.MountPropagationBidirectional:
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

// Spec returns the container of that name in the pod, init containers included.
func Spec(pod *corev1.Pod, name string) (*corev1.Container, error) {
	if c := find(pod, name); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %s is not in pod %s/%s", name, pod.Namespace, pod.Name)
}
