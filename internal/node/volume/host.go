package volume

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// hostPath checks a path of the node against its declared type and makes it where the type says so
// (https://kubernetes.io/docs/concepts/storage/volumes/#hostpath-volume-types).
func hostPath(path string, kind *corev1.HostPathType, mode os.FileMode) (source, error) {
	src := source{path: filepath.Clean(path)}
	want := corev1.HostPathUnset
	if kind != nil {
		want = *kind
	}
	switch want {
	case corev1.HostPathDirectoryOrCreate:
		if err := makeDir(src.path, mode); err != nil {
			return source{}, fmt.Errorf("hostPath type check failed: %w", err)
		}
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(src.path, os.O_RDONLY|os.O_CREATE, 0o644)
		if err != nil {
			return source{}, fmt.Errorf("hostPath type check failed: %w", err)
		}
		if err := f.Close(); err != nil {
			return source{}, err
		}
	case corev1.HostPathUnset:
		// Nothing is asked of it; a missing directory is made, as runtimes do.
		if _, err := os.Stat(src.path); os.IsNotExist(err) {
			if err := makeDir(src.path, mode); err != nil {
				return source{}, err
			}
		}
		return src, nil
	}
	info, err := os.Stat(src.path)
	if err != nil {
		return source{}, fmt.Errorf("hostPath type check failed: %w", err)
	}
	if what, ok := isType(info, want); !ok {
		return source{}, fmt.Errorf("hostPath type check failed: %s is not a %s", src.path, what)
	}
	return src, nil
}

func isType(info os.FileInfo, want corev1.HostPathType) (what string, ok bool) {
	mode := info.Mode()
	switch want {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		return "directory", mode.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		return "file", mode.IsRegular()
	case corev1.HostPathSocket:
		return "socket", mode&os.ModeSocket != 0
	case corev1.HostPathCharDev:
		return "character device", mode&os.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		return "block device", mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0
	}
	return string(want), false
}

// makeDir makes a directory with exactly this mode, whatever the umask; one that exists is left alone.
func makeDir(path string, mode os.FileMode) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// emptyDir makes a directory, or a tmpfs, that lives as long as the pod.
func (m *Manager) emptyDir(pod *corev1.Pod, v *corev1.Volume) (source, error) {
	path := filepath.Join(m.PodDir(pod.UID), "volumes", v.Name)
	if err := makeDir(path, 0o777); err != nil {
		return source{}, err
	}
	switch v.EmptyDir.Medium {
	case corev1.StorageMediumDefault:
	case corev1.StorageMediumMemory:
		if err := m.tmpfs(pod, v, path); err != nil {
			return source{}, err
		}
	default:
		return source{}, fmt.Errorf("emptyDir medium %q is not supported on node %s: use \"\" or Memory", v.EmptyDir.Medium, m.cfg.Node)
	}
	if group := fsGroup(pod); group != nil {
		if err := setGroup(path, *group, ownership{write: true}); err != nil {
			return source{}, err
		}
	}
	return source{path: path}, nil
}

func (m *Manager) tmpfs(pod *corev1.Pod, v *corev1.Volume, path string) error {
	if is, err := isMountPoint(path); is || err != nil {
		return err
	}
	options := "mode=0777"
	if limit := v.EmptyDir.SizeLimit; limit != nil && !limit.IsZero() {
		options += fmt.Sprintf(",size=%d", limit.Value())
	} else if total := memoryLimit(pod); total > 0 {
		options += fmt.Sprintf(",size=%d", total)
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	return nil
}

// memoryLimit is what the pod's containers may use together; 0 when one of them has no limit.
func memoryLimit(pod *corev1.Pod) int64 {
	var total int64
	for i := range pod.Spec.Containers {
		limit := pod.Spec.Containers[i].Resources.Limits[corev1.ResourceMemory]
		if limit.IsZero() {
			return 0
		}
		total += limit.Value()
	}
	return total
}
