package volume

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

func fsGroup(pod *corev1.Pod) *int64 {
	if s := pod.Spec.SecurityContext; s != nil {
		return s.FSGroup
	}
	return nil
}

// ownership says how a volume is given to a group.
type ownership struct {
	recursive bool
	write     bool
}

// setGroup gives a volume to a group: directories pass it on (setgid), files can be read and,
// where write is set, written by it.
func setGroup(root string, group int64, o ownership) error {
	give := func(path string, info fs.FileInfo) error {
		if err := os.Lchown(path, -1, int(group)); err != nil {
			return err
		}
		if info.Mode()&os.ModeSymlink != 0 {
			return nil
		}
		mode := info.Mode().Perm() | 0o440
		if o.write {
			mode |= 0o660
		}
		special := info.Mode() & (os.ModeSetuid | os.ModeSetgid | os.ModeSticky)
		if info.IsDir() {
			mode |= 0o110
			special |= os.ModeSetgid
		}
		return os.Chmod(path, mode|special)
	}
	if !o.recursive {
		info, err := os.Lstat(root)
		if err != nil {
			return err
		}
		return give(root, info)
	}
	return filepath.Walk(root, func(path string, info fs.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return give(path, info)
	})
}

// rootMatches says whether the change of a volume's group can be left out: the pod asks for
// OnRootMismatch and the root is as it should be.
func rootMatches(pod *corev1.Pod, root string, group int64) bool {
	s := pod.Spec.SecurityContext
	if s == nil || s.FSGroupChangePolicy == nil || *s.FSGroupChangePolicy != corev1.FSGroupChangeOnRootMismatch {
		return false
	}
	info, err := os.Stat(root)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int64(st.Gid) == group && info.Mode()&os.ModeSetgid != 0 && info.Mode().Perm()&0o770 == 0o770
}
