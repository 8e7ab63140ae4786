package container

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// addMounts writes the mounts: the kernel's file systems, the sandbox's
// files, then the container's own, which win over both at the same path.
func addMounts(s *specs.Spec, in Input) error {
	privileged := in.Config.GetLinux().GetSecurityContext().GetPrivileged()
	own := map[string]bool{}
	for _, m := range in.Config.GetMounts() {
		own[filepath.Clean(m.GetContainerPath())] = true
	}
	for _, m := range slices.Concat(kernelMounts(privileged), cgroupMounts(in, privileged), sandboxMounts(in)) {
		if !own[m.Destination] {
			s.Mounts = append(s.Mounts, m)
		}
	}
	mounts := append([]*cri.Mount(nil), in.Config.GetMounts()...)
	// A mount below another one comes after it, whatever the order they were given in.
	sort.SliceStable(mounts, func(i, j int) bool {
		return depth(mounts[i].GetContainerPath()) < depth(mounts[j].GetContainerPath())
	})
	for _, m := range mounts {
		mount, err := ownMount(m, in)
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.GetContainerPath(), err)
		}
		s.Mounts = append(s.Mounts, mount)
		if m.GetPropagation() == cri.MountPropagation_PROPAGATION_BIDIRECTIONAL {
			s.Linux.RootfsPropagation = "rshared"
		}
	}
	return nil
}

func depth(p string) int {
	p = filepath.Clean(p)
	if p == "/" {
		return 0
	}
	return strings.Count(p, "/")
}

func kernelMounts(privileged bool) []specs.Mount {
	ro := "ro"
	if privileged {
		ro = "rw"
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", ro}},
	}
}

// cgroupMounts shows the container its own limits. On v1 only the controllers
// that programs size themselves by are mounted: each mount costs time in every
// start, and nobody reads the others.
func cgroupMounts(in Input, privileged bool) []specs.Mount {
	ro := "ro"
	if privileged {
		ro = "rw"
	}
	flags := []string{"nosuid", "noexec", "nodev", "relatime", ro}
	if in.Cgroup2 {
		return []specs.Mount{{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: flags}}
	}
	list := []specs.Mount{{Destination: "/sys/fs/cgroup", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "nodev", "mode=755"}}}
	for _, c := range in.Controllers {
		list = append(list, specs.Mount{
			Destination: "/sys/fs/cgroup/" + filepath.Base(c), Type: "bind", Source: c + in.CgroupPath,
			Options: append([]string{"bind", "rprivate"}, flags...),
		})
	}
	return list
}

// sandboxMounts are the files every container of a pod shares. The container
// may not write them when its root is read-only.
func sandboxMounts(in Input) []specs.Mount {
	ro := "rw"
	if in.Config.GetLinux().GetSecurityContext().GetReadonlyRootfs() {
		ro = "ro"
	}
	var list []specs.Mount
	bind := func(source, to string, opts ...string) {
		if source != "" {
			list = append(list, specs.Mount{Destination: to, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate"}, opts...)})
		}
	}
	bind(in.HostnameFile, "/etc/hostname", ro)
	bind(in.Hosts, "/etc/hosts", ro)
	bind(in.ResolvConf, "/etc/resolv.conf", ro)
	bind(in.Shm, "/dev/shm", "rw")
	for _, to := range slices.Sorted(maps.Keys(in.Volumes)) {
		bind(in.Volumes[to], to, "rw")
	}
	return list
}

func ownMount(m *cri.Mount, in Input) (specs.Mount, error) {
	to := m.GetContainerPath()
	if !filepath.IsAbs(to) {
		to = "/" + to
	}
	source := m.GetHostPath()
	if m.GetImage().GetImage() != "" {
		source = in.ImageMounts[m.GetContainerPath()]
	}
	if source == "" {
		return specs.Mount{}, errors.New("no source path given")
	}
	source, err := resolveSource(source)
	if err != nil {
		return specs.Mount{}, err
	}
	opts := []string{"rbind"}
	if len(m.GetUidMappings()) > 0 {
		opts = append(opts, "ridmap") // by the user namespace that the container joins
	}
	switch m.GetPropagation() {
	case cri.MountPropagation_PROPAGATION_PRIVATE:
		opts = append(opts, "rprivate")
	case cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		opts = append(opts, "rslave")
	case cri.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		if err := sharedMount(source); err != nil {
			return specs.Mount{}, err
		}
		opts = append(opts, "rshared")
	}
	switch {
	case m.GetRecursiveReadOnly():
		opts = append(opts, "rro")
	case m.GetImage().GetImage() != "":
		// API doc of ImageVolumeSource: read-only, and nothing in it can be executed.
		opts = append(opts, "ro", "noexec", "nosuid", "nodev")
	case m.GetReadonly():
		opts = append(opts, "ro")
	default:
		opts = append(opts, "rw")
	}
	return specs.Mount{Destination: filepath.Clean(to), Type: "bind", Source: source, Options: append(opts, m.GetMountOptions()...)}, nil
}

// resolveSource follows links in a mount's source, and makes the directory
// when it is not there, as Docker has always done and containerd does.
func resolveSource(source string) (string, error) {
	real, err := filepath.EvalSymlinks(source)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(source, 0o755); err != nil {
			return "", err
		}
		return source, nil
	}
	return real, err
}

// sharedMount checks that a bidirectional mount's source lies on a shared
// mount: otherwise nothing could propagate, and the kernel would not say so.
func sharedMount(source string) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, source, 0, unix.STATX_MNT_ID, &st); err != nil {
		return err
	}
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	id := fmt.Sprintf("%d ", st.Mnt_id)
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, id) {
			head, _, _ := strings.Cut(line, " - ")
			if strings.Contains(head, " shared:") {
				return nil
			}
			break
		}
	}
	return fmt.Errorf("path %q is mounted on a mount that is not shared: mountPropagation Bidirectional needs one (mount --make-rshared)", source)
}
