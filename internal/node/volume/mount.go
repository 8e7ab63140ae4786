package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/filetree"
	"coracle/internal/node/container"
)

// Mounts returns what a container of a pod with ready volumes mounts. Expand resolves $(NAME) in
// subPathExpr.
func (m *Manager) Mounts(pod *corev1.Pod, c *corev1.Container, expand func(string) (string, error)) ([]container.Mount, error) {
	m.mu.Lock()
	st := m.pods[pod.UID]
	m.mu.Unlock()
	out := make([]container.Mount, 0, len(c.VolumeMounts))
	var below []container.Mount
	for i, vm := range c.VolumeMounts {
		var src source
		ok := false
		if st != nil {
			m.mu.Lock()
			src, ok = st.paths[vm.Name]
			m.mu.Unlock()
		}
		if !ok {
			return nil, fmt.Errorf("volume %q of mount %s is not ready", vm.Name, vm.MountPath)
		}
		sub := vm.SubPath
		if vm.SubPathExpr != "" {
			var err error
			if sub, err = expand(vm.SubPathExpr); err != nil {
				return nil, err
			}
		}
		if src.image != "" {
			out = append(out, container.Mount{
				ContainerPath: absolute(vm.MountPath), Image: src.image, ImageSubPath: sub, ReadOnly: true, Propagation: vm.MountPropagation,
			})
			continue
		}
		src, sub = m.shown(src, sub)
		inside, err := m.below(c, vm, src, sub)
		if err != nil {
			return nil, fmt.Errorf("volume %q of mount %s: %w", vm.Name, vm.MountPath, err)
		}
		below = append(below, inside...)
		is, err := identify(src)
		if err != nil {
			return nil, fmt.Errorf("volume %q of mount %s: %w", vm.Name, vm.MountPath, err)
		}
		if sub != "" {
			if src.path, is, err = m.subPath(pod, src, vm, c.Name, i, sub); err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", vm.Name, c.Name, err)
			}
		}
		out = append(out, container.Mount{
			ContainerPath: absolute(vm.MountPath), HostPath: src.path, Is: is, ReadOnly: vm.ReadOnly || src.readOnly, Propagation: vm.MountPropagation,
			Recursive: vm.RecursiveReadOnly != nil && *vm.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled && vm.ReadOnly,
		})
	}
	return append(out, below...), nil
}

// shown is the volume, and the sub-path in it, that stand for a sub-path of the host at which logs of pods are shown.
func (m *Manager) shown(src source, sub string) (source, string) {
	if src.host == "" || sub == "" {
		return src, sub
	}
	own, rest, is := m.cfg.PodLogs.Instead(filepath.Join(src.host, sub))
	if !is || filepath.IsAbs(sub) || strings.Contains("/"+sub+"/", "/../") { // the latter is refused yet
		return src, sub
	}
	src.path, src.kind = own, "directory"
	if rest == "." {
		rest = ""
	}
	return src, rest
}

// below are the mounts of what is shown in a volume of the host, unless the container has one of its own there. Where its
// mounts arrive at the host, they would hide the host's own: such a mount shows the host as it is.
func (m *Manager) below(c *corev1.Container, vm corev1.VolumeMount, src source, sub string) ([]container.Mount, error) {
	if src.host == "" || vm.MountPropagation != nil && *vm.MountPropagation == corev1.MountPropagationBidirectional {
		return nil, nil
	}
	var out []container.Mount
	for _, s := range m.cfg.PodLogs.Below(filepath.Join(src.host, sub)) {
		at := filepath.Join(absolute(vm.MountPath), s.Path)
		if slices.ContainsFunc(c.VolumeMounts, func(other corev1.VolumeMount) bool { return filepath.Clean(absolute(other.MountPath)) == at }) {
			continue
		}
		if there, err := isDirectory(filepath.Join(src.path, sub, s.Path)); !there || err != nil {
			if err != nil {
				return nil, err
			}
			continue // the host has no place to mount it on
		}
		is, err := identify(source{path: s.Own, kind: "directory"})
		if err != nil {
			return nil, err
		}
		out = append(out, container.Mount{ContainerPath: at, HostPath: s.Own, Is: is, ReadOnly: vm.ReadOnly || src.readOnly})
	}
	return out, nil
}

func isDirectory(path string) (bool, error) {
	e, err := filetree.At(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer e.Close()
	return e.IsDir(), nil
}

// absolute is a path in a container, which begins at its root.
func absolute(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return "/" + path
}

// mostEnvFile bounds what is read of an env file: an environment has not much more room (execve(2)).
const mostEnvFile = 1 << 20

// EnvFile reads a file of a pod's emptyDir, as variables are read from (KEP-3721). A path out of the volume is refused, as
// is what is no plain file. A file that is not there is fs.ErrNotExist.
func (m *Manager) EnvFile(pod *corev1.Pod, volume, path string) ([]byte, error) {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Name == volume && v.EmptyDir == nil {
			return nil, fmt.Errorf("variables are read from an emptyDir, and volume %q is none", volume)
		}
	}
	m.mu.Lock()
	st := m.pods[pod.UID]
	m.mu.Unlock()
	var src source
	if st != nil {
		m.mu.Lock()
		src = st.paths[volume]
		m.mu.Unlock()
	}
	if src.path == "" {
		return nil, fmt.Errorf("volume %q is not ready", volume)
	}
	e, err := filetree.Within(src.path, path)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	if !e.IsRegular() {
		return nil, fmt.Errorf("it is a %s, and no file", e.Kind())
	}
	if e.Stat.Size > mostEnvFile {
		return nil, fmt.Errorf("it has %d bytes, and at most %d are read", e.Stat.Size, mostEnvFile)
	}
	return e.Read(mostEnvFile)
}

// identify looks once more what lies where a ready volume is, and says which file it is: the runtime, which goes by the
// path again, compares what it mounted. A volume that is gone is left to the runtime, which makes a directory.
func identify(src source) (container.Identity, error) {
	e, err := filetree.At(src.path)
	if errors.Is(err, fs.ErrNotExist) {
		return container.Identity{}, nil
	}
	if err != nil {
		return container.Identity{}, err
	}
	defer e.Close()
	if src.kind != "" && e.Kind() != src.kind {
		return container.Identity{}, fmt.Errorf("%s is not a %s any more", src.path, src.kind)
	}
	return identity(e), nil
}

func identity(e *filetree.Entry) container.Identity {
	return container.Identity{Device: e.Stat.Dev, Inode: e.Stat.Ino}
}

// subPath pins one path inside a volume by a bind mount in the pod's directory: a symlink swapped
// in later cannot lead the container elsewhere (CVE-2017-1002101).
func (m *Manager) subPath(
	pod *corev1.Pod, src source, vm corev1.VolumeMount, ctr string, index int, sub string,
) (string, container.Identity, error) {
	var none container.Identity
	if filepath.IsAbs(sub) || strings.Contains("/"+sub+"/", "/../") {
		return "", none, fmt.Errorf("subPath %q must be relative and must not contain \"..\"", sub)
	}
	inside, err := filetree.Within(src.path, sub)
	if errors.Is(err, fs.ErrNotExist) && !src.readOnly {
		inside, err = makeSub(pod, src.path, sub)
	}
	if err != nil {
		return "", none, err
	}
	defer inside.Close()
	target := filepath.Join(m.PodDir(pod.UID), "subpaths", vm.Name, ctr, strconv.Itoa(index))
	if err := filetree.UnmountBelow(target); err != nil {
		return "", none, err
	}
	if err := makeTarget(target, inside.IsDir()); err != nil {
		return "", none, err
	}
	// What the host mounts in the volume is to show; what happens to the pin stays with it, unless that is asked for.
	back := vm.MountPropagation != nil && *vm.MountPropagation == corev1.MountPropagationBidirectional
	if err := inside.BindTo(target, back); err != nil {
		return "", none, err
	}
	return target, identity(inside), nil
}

// makeSub makes a missing sub-path with the volume's own mode and group.
func makeSub(pod *corev1.Pod, root, sub string) (*filetree.Entry, error) {
	volume, err := filetree.At(root)
	if err != nil {
		return nil, err
	}
	defer volume.Close()
	mode := volume.Stat.Mode & 0o777
	dir, err := filetree.MakeWithin(root, sub, os.FileMode(mode|0o700))
	if err != nil {
		return nil, err
	}
	// Who can write in the volume may have put another directory in the place of the new one. What is in that one stays
	// as well kept as it was.
	if fresh, err := dir.IsEmpty(); err != nil || !fresh || int(dir.Stat.Uid) != os.Geteuid() {
		return dir, err
	}
	if group := fsGroup(pod); group != nil {
		if err := dir.Chown(-1, int(*group)); err != nil {
			dir.Close()
			return nil, err
		}
	}
	if err := dir.Chmod(mode | volume.Stat.Mode&unix.S_ISGID); err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// makeTarget makes what a file or a directory can be mounted on. Pods do not reach it.
func makeTarget(path string, dir bool) error {
	if err := filetree.Remove(path); err != nil {
		return err
	}
	if dir {
		return makeDir(path, 0o750)
	}
	if err := makeDir(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	return filetree.CreateFile(path, 0o640)
}
