package filetree

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxLevels is how deep a tree may be nested to be walked. No path names a file that lies deeper (PATH_MAX is 4096
// bytes): only a program that means to do so makes such a tree.
const maxLevels = 2048

// ErrTooDeep is returned for a tree that is nested deeper than any path can name.
var ErrTooDeep = fmt.Errorf("directories are nested more than %d levels deep", maxLevels)

// ErrSkip returned by a visit leaves out what is below the entry.
var ErrSkip = errors.New("skip this directory")

// Entry is one file of a tree, held by a descriptor: what is read and changed through it is that very file, whatever
// its name leads to by now. It is valid during the visit only.
type Entry struct {
	// Path is relative to the root of the walk, which is ".". It is for messages: it may be out of date.
	Path string
	// Stat was read from the descriptor.
	Stat unix.Stat_t
	fd   int
}

// IsDir says whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsLink says whether the entry is a symbolic link.
func (e *Entry) IsLink() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFLNK }

// Chown changes the owner and the group of the entry itself; -1 leaves one as it is.
func (e *Entry) Chown(uid, gid int) error {
	if err := unix.Fchownat(e.fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "chown", Path: e.Path, Err: err}
	}
	return nil
}

// Chmod changes the permissions of the entry itself (the lower twelve bits of mode). A symbolic link has none.
func (e *Entry) Chmod(mode uint32) error {
	if e.IsLink() {
		return &os.PathError{Op: "chmod", Path: e.Path, Err: unix.EOPNOTSUPP}
	}
	err := unix.Fchmodat(e.fd, "", mode, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		// Before fchmodat2 (Linux 6.6) the link in /proc leads to the file that the descriptor holds, and to no other.
		err = unix.Chmod("/proc/self/fd/"+strconv.Itoa(e.fd), mode)
	}
	if err != nil {
		return &os.PathError{Op: "chmod", Path: e.Path, Err: err}
	}
	return nil
}

// Walk visits a tree from its root down. The path of the root is the caller's own and may contain links; below it no
// link is followed and no mount point is crossed, and what is mounted there is not visited. Files that go meanwhile are
// left out. An error of a visit, ErrSkip apart, ends the walk.
func Walk(root string, visit func(*Entry) error) error {
	fd, err := retry(func() (int, error) { return unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0) })
	if err != nil {
		return &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // only names the file
	return walk(fd, ".", 0, visit)
}

// walk visits the file that fd names and, if it is a directory, what is in it.
func walk(fd int, path string, level int, visit func(*Entry) error) error {
	e := Entry{Path: path, fd: fd}
	if err := unix.Fstat(fd, &e.Stat); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if err := visit(&e); errors.Is(err, ErrSkip) {
		return nil
	} else if err != nil {
		return err
	}
	if !e.IsDir() {
		return nil
	}
	if level >= maxLevels {
		return ErrTooDeep
	}
	in, err := retry(func() (int, error) {
		return unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(in), path)
	defer f.Close()
	for {
		names, err := f.Readdirnames(namesAtOnce)
		for _, name := range names {
			if err := walkEntry(in, name, filepath.Join(path, name), level+1, visit); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || err == nil && len(names) == 0 {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "read", Path: path, Err: err}
		}
	}
}

func walkEntry(dir int, name, path string, level int, visit func(*Entry) error) error {
	fd, err := step(dir, name, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EXDEV):
		return nil
	case err != nil:
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // only names the file
	return walk(fd, path, level, visit)
}
