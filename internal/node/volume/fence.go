package volume

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
)

// ErrInUse says that a directory was not fenced because something is mounted in it already: a fence would hide that. It
// is fenced when the node starts with none of its pods mounted.
var ErrInUse = errors.New("something is mounted in it already")

// Fence mounts a directory of volumes onto itself with nosuid and nodev, and makes it if it is missing: a set-user-ID
// program or a device that a pod leaves in its volume is none to the node's own users, who go by the host's paths.
// Containers get mounts of their own, with the flags that the runtime gives them: inside nothing changes. A directory
// that has a fence, or lies on a file system mounted with both, is left as it is. Agents may fence one directory at the
// same time.
func Fence(path string) error {
	dir, err := filetree.MakeDir(path, 0o755)
	if err != nil {
		return fmt.Errorf("fence %s: %w", path, err)
	}
	defer dir.Close()
	unlock, err := dir.Lock()
	if err != nil {
		return fmt.Errorf("fence %s: %w", path, err)
	}
	defer unlock()
	// The path again, not the descriptor: another agent may have mounted its fence over it while we waited.
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return fmt.Errorf("fence %s: %w", path, err)
	}
	if fs.Flags&unix.ST_NOSUID != 0 && fs.Flags&unix.ST_NODEV != 0 {
		return nil
	}
	points, err := filetree.MountsBelow(path)
	if err != nil {
		return fmt.Errorf("fence %s: %w", path, err)
	}
	if len(points) > 0 {
		return fmt.Errorf("fence %s: %w", path, ErrInUse)
	}
	if err := bindFenced(path, fs.Flags); err != nil {
		return fmt.Errorf("fence %s: %w", path, err)
	}
	return nil
}

// bindFenced mounts path onto itself. Flags are those of the file system there now (statfs(2)): what it forbids stays
// forbidden. How it keeps access times is kept by itself (mount(2), MS_REMOUNT).
func bindFenced(path string, flags int64) error {
	if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	fence := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_NOSUID | unix.MS_NODEV)
	if flags&unix.ST_RDONLY != 0 {
		fence |= unix.MS_RDONLY
	}
	if flags&unix.ST_NOEXEC != 0 {
		fence |= unix.MS_NOEXEC
	}
	err := unix.Mount("", path, "", fence, "")
	if err == nil {
		err = ownPeers(path)
	}
	if err != nil {
		return errors.Join(err, unix.Unmount(path, unix.UMOUNT_NOFOLLOW))
	}
	return nil
}

// ownPeers takes the mount at path out of the peer group of the one that it lies on, so that what is mounted in it is not
// mounted beneath it as well. Where that one is shared (mount_namespaces(7)) it is shared too, for volumes that
// propagate mounts need a shared one.
func ownPeers(path string) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		return err
	}
	infos, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return uint64(m.ID) != st.Mnt_id, false })
	if err != nil {
		return err
	}
	shared := len(infos) > 0 && strings.Contains(infos[0].Optional, "shared:")
	if err := unix.Mount("", path, "", unix.MS_PRIVATE, ""); err != nil || !shared {
		return err
	}
	return unix.Mount("", path, "", unix.MS_SHARED, "")
}
