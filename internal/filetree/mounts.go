package filetree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// rounds is how often UnmountBelow looks for what was hidden under the mounts that it took away.
const rounds = 16

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
	defer unix.Close(fd) //nolint:errcheck // only names the directory
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
// The mounts are made private first (mount_namespaces(7)): an unmounting in a shared one would be repeated in the
// places that it was bound from, which are not below the directory.
func UnmountBelow(dir string) error {
	return unmountUntilNone(func() ([]mount, error) { return mountsBelow(dir) })
}

// UnmountInside is UnmountBelow for a directory in which others may have mounted something of theirs: what is mounted at the
// directory itself stays, such as a disk. Only a mount of the directory on itself, which hides and shows nothing else, goes.
func UnmountInside(dir string) error {
	return unmountUntilNone(func() ([]mount, error) {
		table, at, err := whereIs(dir)
		if table == nil || err != nil {
			return nil, err
		}
		return table.unmounting(table.inside(at)), nil
	})
}

// unmountUntilNone unmounts what find finds, again and again, for a mount may have hidden another.
func unmountUntilNone(find func() ([]mount, error)) error {
	for range rounds {
		found, err := find()
		if err != nil || len(found) == 0 {
			return err
		}
		if err := unmountAll(found); err != nil {
			return err
		}
	}
	left, err := find()
	if err != nil || len(left) == 0 {
		return err
	}
	return &MountError{Path: left[0].point}
}

// unmountAll unmounts in the order given.
func unmountAll(mounts []mount) error {
	shared := map[int]mount{}
	for _, m := range mounts {
		shared[m.id] = m
	}
	for _, m := range mounts {
		// The mount below this one is uncovered by now, unless this one covers all of it.
		if parent, ok := shared[m.parent]; ok && parent.point != m.point {
			if err := makePrivate(parent.point); err != nil {
				return err
			}
			delete(shared, parent.id)
		}
		if err := unmount(m.point); err != nil {
			return err
		}
	}
	return nil
}

// unmount unmounts what is mounted at a point last. A point where nothing is mounted any more, for it went with
// another, is no error. No link on the way is followed: a pod can put one where a directory was.
func unmount(point string) error {
	return atPoint(point, func(dir int, name string) error {
		path := "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
		err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
		return nil
	})
}

// makePrivate keeps what happens in a mount from happening elsewhere too.
func makePrivate(point string) error {
	return atPoint(point, func(dir int, name string) error {
		fd, err := retry(func() (int, error) {
			return unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		})
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("make the mount %s private: %w", point, err)
		}
		defer unix.Close(fd) //nolint:errcheck // only names the mount
		err = unix.Mount("", "/proc/self/fd/"+strconv.Itoa(fd), "", unix.MS_PRIVATE, "")
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is no mount point any more
			return fmt.Errorf("make the mount %s private: %w", point, err)
		}
		return nil
	})
}

// atPoint calls do with the directory that holds a mount point, and its name there. A mount point that is gone, or whose
// path leads through a link by now, is left out.
func atPoint(point string, do func(dir int, name string) error) error {
	dir, err := openPlain(filepath.Dir(point))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the mount %s: %w", point, err)
	}
	defer unix.Close(dir) //nolint:errcheck // only names the directory
	return do(dir, filepath.Base(point))
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
