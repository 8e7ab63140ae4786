package filetree

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// manyLinks is how many links one path may lead through (ELOOP, path_resolution(7)).
const manyLinks = 40

// CreateFile makes an empty file with exactly this mode, whatever the umask. The path is the caller's own: where it is a
// link to nothing yet, the file is made where it leads, as open(2) with O_CREAT would. What is there already is left
// as it is, and never opened: it may be a FIFO, and opening that would wait.
func CreateFile(path string, mode uint32) error {
	for range manyLinks {
		err := createOnce(path, mode)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		d, name, err := above(path)
		if err != nil {
			return err
		}
		e, err := d.Entry(name)
		d.Close()
		if errors.Is(err, unix.EXDEV) || err == nil && !e.IsLink() {
			e.closeIf()
			return nil
		}
		if err != nil {
			return err
		}
		to, err := e.Readlink()
		e.Close()
		if err != nil {
			return err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return &os.PathError{Op: "create", Path: path, Err: unix.ELOOP}
}

func (e *Entry) closeIf() {
	if e != nil {
		e.Close()
	}
}

func createOnce(path string, mode uint32) error {
	d, name, err := above(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Write(name, nil, mode, -1)
}

func above(path string) (*Dir, string, error) {
	path = filepath.Clean(path)
	d, err := OpenDir(filepath.Dir(path))
	return d, filepath.Base(path), err
}

// OpenFile opens a regular file for reading. The last steps names of its path are taken one by one, so that none leads
// through a link or onto another mount, and anything but a regular file gives a KindError; the directory above them is
// the caller's own.
func OpenFile(path string, steps int) (*os.File, error) {
	e, err := entryBelow(path, steps)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	return e.Open(unix.O_RDONLY)
}

// ReadFile returns the beginning of a regular file, at most limit bytes. The directory that holds it is the caller's
// own; the file itself may be others', who can make it neither a link nor something that blocks.
func ReadFile(path string, limit int64) ([]byte, error) {
	e, err := entryBelow(path, 1)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	return e.Read(limit)
}

func entryBelow(path string, steps int) (*Entry, error) {
	top, below := filepath.Clean(path), ""
	for range steps {
		top, below = filepath.Dir(top), filepath.Join(filepath.Base(top), below)
	}
	d, err := OpenDir(top)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Entry(below)
}

// IsMountPoint says whether something is mounted at a path, which is the caller's own.
func IsMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	_, err := retry(func() (int, error) {
		return 0, unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err == nil && st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	if err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	points, err := MountsBelow(path) // before Linux 5.8
	if err != nil {
		return false, err
	}
	resolved, err := filepath.EvalSymlinks(path)
	return err == nil && len(points) > 0 && points[len(points)-1] == resolved, err
}
