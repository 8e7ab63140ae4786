package filetree

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// MountsBelow returns the mount points at or below a directory in the order in which they can be unmounted: the latest
// first. Links in the directory's own path are resolved; a directory that does not exist has none.
func MountsBelow(dir string) ([]string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	inside := strings.TrimSuffix(dir, "/") + "/"
	infos, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Mountpoint != dir && !strings.HasPrefix(m.Mountpoint, inside), false
	})
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	points := make([]string, 0, len(infos))
	for i := len(infos) - 1; i >= 0; i-- {
		points = append(points, infos[i].Mountpoint)
	}
	return points, nil
}

// UnmountBelow unmounts everything at or below a directory, looks again, and fails if anything is left: what is removed
// afterwards is the directory's own. Mounts in use are detached (MNT_DETACH).
func UnmountBelow(dir string) error {
	points, err := MountsBelow(dir)
	if err != nil {
		return err
	}
	for _, p := range points {
		err := unix.Unmount(p, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
		// EINVAL: it is no mount point any more, for it went with another.
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	if len(points) == 0 {
		return nil
	}
	left, err := MountsBelow(dir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return &MountError{Path: left[0]}
	}
	return nil
}
