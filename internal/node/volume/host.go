package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/filetree"
)

// hostPath checks a path of the node against its declared type and makes it where the type says so
// (https://kubernetes.io/docs/concepts/storage/volumes/#hostpath-volume-types). The path is the administrator's: links
// in it are followed. What is there is looked at by a descriptor and never opened, for opening a FIFO or a device may
// wait or act on it.
func hostPath(path string, kind *corev1.HostPathType, mode uint32) (source, error) {
	path = filepath.Clean(path)
	want := corev1.HostPathUnset
	if kind != nil {
		want = *kind
	}
	e, err := filetree.At(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeHostPath(path, want, mode); err == nil {
			e, err = filetree.At(path)
		}
	}
	if err != nil {
		return source{}, fmt.Errorf("hostPath type check failed: %w", err)
	}
	defer e.Close()
	if what := kindOf(want); what != "" && e.Kind() != what {
		return source{}, fmt.Errorf("hostPath type check failed: %s is not a %s", path, what)
	}
	return source{path: path, kind: kindOf(want)}, nil
}

// hostPath is the function of that name, but that the logs of this node's pods are in the place of the machine's.
func (m *Manager) hostPath(path string, kind *corev1.HostPathType) (source, error) {
	at := path
	if own, rest, is := m.cfg.PodLogs.Instead(path); is {
		at = filepath.Join(own, rest)
	}
	src, err := hostPath(at, kind, 0o755)
	if err != nil {
		return source{}, err
	}
	src.host = filepath.Clean(path)
	below := m.cfg.PodLogs.Below(path)
	if len(below) == 0 {
		return src, nil
	}
	if err := m.cfg.Points.Hold(m.cfg.PodLogs.Home); err != nil {
		// Who mounts a directory far above it may well be after something else.
		if filepath.Dir(below[0].Path) == "." {
			return source{}, err
		}
		m.cfg.Log.Warn("a volume of the host shows no logs of pods", "path", path, "err", err)
	}
	return src, nil
}

// makeHostPath makes what is missing where the type says so. Where nothing is asked a missing directory is made, as
// runtimes do.
func makeHostPath(path string, want corev1.HostPathType, mode uint32) error {
	switch want {
	case corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate:
		return makeDir(path, mode)
	case corev1.HostPathFileOrCreate:
		return filetree.CreateFile(path, 0o644)
	}
	return &fs.PathError{Op: "stat", Path: path, Err: unix.ENOENT}
}

// kindOf is what a file of a hostPath type must be, in the words of filetree.Entry.Kind; empty for anything.
func kindOf(want corev1.HostPathType) string {
	switch want {
	case corev1.HostPathUnset:
		return ""
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		return "directory"
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		return "file"
	case corev1.HostPathSocket:
		return "socket"
	case corev1.HostPathCharDev:
		return "character device"
	case corev1.HostPathBlockDev:
		return "block device"
	}
	return string(want)
}

// makeDir makes a directory with exactly this mode, whatever the umask; one that exists is left alone.
func makeDir(path string, mode uint32) error {
	d, err := filetree.MakeDir(path, mode)
	if err != nil {
		return err
	}
	d.Close()
	return nil
}

// emptyDir makes a directory, or a tmpfs, that lives as long as the pod.
func (m *Manager) emptyDir(pod *corev1.Pod, v *corev1.Volume) (source, error) {
	path := m.volumeDir(pod.UID, v.Name)
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
	return source{path: path, kind: "directory"}, nil
}

func (m *Manager) tmpfs(pod *corev1.Pod, v *corev1.Volume, path string) error {
	if is, err := filetree.IsMountPoint(path); is || err != nil {
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
