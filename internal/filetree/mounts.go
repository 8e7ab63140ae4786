package filetree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// MountsBelow returns the mount points at or below a directory in the order in which they can be unmounted: what lies
// on a mount comes before it. Links in the directory's own path are resolved; a directory that does not exist has none.
// A mount that lies on one of its directories but is seen by another path only (the filesystem is mounted twice) counts
// too, for it keeps that directory from being removed: its mount point is then not below the directory's path.
func MountsBelow(dir string) ([]string, error) {
	below, err := mountsBelow(dir)
	if err != nil {
		return nil, err
	}
	points := make([]string, 0, len(below))
	for _, m := range below {
		points = append(points, m.point)
	}
	return points, nil
}

func mountsBelow(dir string) ([]mount, error) {
	table, at, err := whereIs(dir)
	if table == nil || err != nil {
		return nil, err
	}
	return table.unmounting(table.below(at)), nil
}

// whereIs returns the mounts and where a directory is among them; none for a directory that does not exist.
func whereIs(dir string) (*mountTable, spot, error) {
	fd, err := retry(func() (int, error) { return unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0) })
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, spot{}, nil
	}
	if err != nil {
		return nil, spot{}, fmt.Errorf("read mounts: %w", &os.PathError{Op: "open", Path: dir, Err: err})
	}
	defer unix.Close(fd)
	at, err := spotOf(fd)
	if err != nil {
		return nil, spot{}, fmt.Errorf("read mounts of %s: %w", dir, err)
	}
	table, err := readMounts()
	return table, at, err
}

// UnmountBelow unmounts everything at or below a directory, looks again, and fails with a MountError if anything is
// left: what is removed afterwards is the directory's own. Mounts in use are detached (MNT_DETACH).
//
// An unmounting in a shared mount is repeated in its peers (mount_namespaces(7)): a directory of the host's that was
// bound with what is mounted in it would lose those mounts too. So shared mounts are made private before anything is
// unmounted in them. One that cannot be, for another covers all of it, stays if it has peers elsewhere.
func UnmountBelow(dir string) error { return unmount(dir, (*mountTable).below) }

// UnmountInside is UnmountBelow for a directory in which others may have mounted something of theirs: what is mounted
// at the directory itself stays, such as a disk. Only a mount of the directory on itself, which hides and shows
// nothing else, goes.
func UnmountInside(dir string) error { return unmount(dir, (*mountTable).inside) }

// unmount unmounts what which selects, again and again, for a mount may have hidden another.
func unmount(dir string, which func(*mountTable, spot) []mount) error {
	for {
		table, at, err := whereIs(dir)
		if table == nil || err != nil {
			return err
		}
		found := table.unmounting(which(table, at))
		if len(found) == 0 {
			return nil
		}
		some, err := table.unmountReachable(found)
		if err != nil {
			return err
		}
		if !some {
			return &MountError{Path: found[0].point}
		}
	}
}

// unmountReachable unmounts those that nothing lies on and nothing hides, and says whether there were any.
func (t *mountTable) unmountReachable(mounts []mount) (some bool, err error) {
	left, lieOn := map[int]mount{}, map[int]int{}
	for _, m := range mounts {
		left[m.id] = m
		lieOn[m.parent]++
	}
	for _, m := range mounts {
		if lieOn[m.id] > 0 {
			continue
		}
		if parent, ours := left[m.parent]; ours && parent.peers != "" {
			alone, err := t.separate(parent, m, left)
			if err != nil {
				return some, err
			}
			if !alone {
				continue
			}
			parent.peers = ""
			left[parent.id] = parent
		}
		done, err := atMount(m, func(path string, _ int) error {
			err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.EBUSY) {
				err = unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			}
			return err
		})
		if err != nil {
			return some, fmt.Errorf("unmount %s: %w", m.point, err)
		}
		if done {
			some = true
			lieOn[m.parent]--
		}
	}
	return some, nil
}

// separate keeps the unmounting of a mount that lies on another from being repeated elsewhere, and says whether it can.
func (t *mountTable) separate(parent, m mount, ours map[int]mount) (bool, error) {
	if parent.point == m.point { // it cannot be reached
		for _, peer := range t.mounts {
			if _, ok := ours[peer.id]; !ok && peer.peers == parent.peers {
				return false, nil
			}
		}
		return true, nil
	}
	done, err := atMount(parent, func(_ string, fd int) error {
		return unix.Mount("", "/proc/self/fd/"+strconv.Itoa(fd), "", unix.MS_PRIVATE, "")
	})
	if err != nil {
		return false, fmt.Errorf("make the mount %s private: %w", parent.point, err)
	}
	return done, nil
}

// atMount acts on a mount if its path still leads to it: path names it for umount2(2), and fd its root directory. No
// link on the way is followed, for a pod can put one where a directory was, and nothing that hides the mount is taken
// for it. A mount that went meanwhile is no error.
func atMount(m mount, act func(path string, fd int) error) (bool, error) {
	dir, err := openPlain(filepath.Dir(m.point))
	if err != nil {
		return false, ignoreGone(err)
	}
	defer unix.Close(dir)
	name := filepath.Base(m.point)
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return false, ignoreGone(err)
	}
	id, err := mountID(fd)
	if err == nil && id == strconv.Itoa(m.id) {
		err = act("/proc/self/fd/"+strconv.Itoa(dir)+"/"+name, fd)
	} else if err == nil {
		err = unix.ENOENT
	}
	unix.Close(fd)
	return err == nil, ignoreGone(err)
}

// ignoreGone drops the errors that say that a path does not lead to a mount (any more).
func ignoreGone(err error) error {
	for _, gone := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EINVAL} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}

// mountAt returns the mount point that is an entry of a directory, under the name by which it can be unmounted.
func mountAt(dir int, name string) (point string, ok bool) {
	at, err := spotOf(dir)
	if err != nil {
		return "", false
	}
	table, err := readMounts()
	if err != nil {
		return "", false
	}
	path := filepath.Join(at.path, name)
	here, known := table.byID(at.mount)
	entry, inside := here.in(path)
	for _, m := range table.mounts {
		if m.point == path {
			return m.point, true
		}
		if lies, _, ok := table.under(m); ok && known && inside && lies == entry {
			point = m.point
		}
	}
	return point, point != ""
}
