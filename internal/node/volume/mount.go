package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
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
		if sub != "" {
			path, err := m.subPath(pod, src, vm.Name, c.Name, i, sub)
			if err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", vm.Name, c.Name, err)
			}
			src.path = path
		}
		at := vm.MountPath
		if !filepath.IsAbs(at) {
			at = "/" + at
		}
		out = append(out, container.Mount{
			ContainerPath: at, HostPath: src.path, ReadOnly: vm.ReadOnly || src.readOnly, Propagation: vm.MountPropagation,
			Recursive: vm.RecursiveReadOnly != nil && *vm.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled && vm.ReadOnly,
		})
	}
	return out, nil
}

// subPath pins one path inside a volume by a bind mount in the pod's directory: a symlink swapped
// in later cannot lead the container elsewhere (CVE-2017-1002101).
func (m *Manager) subPath(pod *corev1.Pod, src source, volume, ctr string, index int, sub string) (string, error) {
	if filepath.IsAbs(sub) || strings.Contains("/"+sub+"/", "/../") {
		return "", fmt.Errorf("subPath %q must be relative and must not contain \"..\"", sub)
	}
	inside, err := pathrs.OpenInRoot(src.path, sub)
	if errors.Is(err, fs.ErrNotExist) && !src.readOnly {
		if err := m.makeSub(pod, src.path, sub); err != nil {
			return "", err
		}
		inside, err = pathrs.OpenInRoot(src.path, sub)
	}
	if err != nil {
		return "", err
	}
	defer inside.Close()
	info, err := inside.Stat()
	if err != nil {
		return "", err
	}
	target := filepath.Join(m.PodDir(pod.UID), "subpaths", volume, ctr, strconv.Itoa(index))
	if err := filetree.UnmountBelow(target); err != nil {
		return "", err
	}
	if err := makeTarget(target, info.IsDir()); err != nil {
		return "", err
	}
	from := "/proc/self/fd/" + strconv.Itoa(int(inside.Fd()))
	if err := unix.Mount(from, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind %s: %w", target, err)
	}
	return target, nil
}

// makeSub makes a missing sub-path with the volume's own mode and group.
func (m *Manager) makeSub(pod *corev1.Pod, root, sub string) error {
	info, err := os.Stat(root)
	if err != nil {
		return err
	}
	if err := pathrs.MkdirAll(root, sub, info.Mode().Perm()|0o700); err != nil {
		return err
	}
	dir, err := pathrs.OpenInRoot(root, sub)
	if err != nil {
		return err
	}
	defer dir.Close()
	mode := info.Mode().Perm()
	own := "/proc/self/fd/" + strconv.Itoa(int(dir.Fd()))
	if group := fsGroup(pod); group != nil {
		if err := os.Chown(own, -1, int(*group)); err != nil {
			return err
		}
	}
	return os.Chmod(own, mode|info.Mode()&os.ModeSetgid)
}

func makeTarget(path string, dir bool) error {
	if err := filetree.Remove(path); err != nil {
		return err
	}
	if dir {
		return os.MkdirAll(path, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

func isMountPoint(path string) (bool, error) {
	points, err := filetree.MountsBelow(path)
	if err != nil {
		return false, err
	}
	resolved := path
	if r, err := filepath.EvalSymlinks(path); err == nil {
		resolved = r
	}
	for _, p := range points {
		if p == resolved {
			return true, nil
		}
	}
	return false, nil
}
