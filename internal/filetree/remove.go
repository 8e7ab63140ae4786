package filetree

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	// namesAtOnce bounds what is read of a directory at a time: a pod decides how large it is.
	namesAtOnce = 512
	// levelsAtOnce bounds the directories held open at a time. Deeper ones are moved to the top first.
	levelsAtOnce = 256
	// passes is how often a directory is read again that others keep filling.
	passes = 64
)

// Remove removes path and everything below it; a path that does not exist is removed already. A symbolic link is
// removed itself. The first mount point ends it with a MountError: what is mounted there stays whole, and so does what
// was not reached yet.
func Remove(path string) error {
	dir, name, err := parent(path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	r := remover{top: -1}
	return r.remove(dir, name, filepath.Clean(path), 0)
}

// RemoveContents removes everything in a directory and leaves the directory. A symbolic link is refused, and a mount
// point is: what is in that belongs to whoever mounted it.
func RemoveContents(path string) error {
	path = filepath.Clean(path)
	dir, name, err := parent(path)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	fd, err := openDir(dir, name)
	if errors.Is(err, unix.EXDEV) {
		return mounted(dir, name, path)
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	r := remover{top: fd}
	return r.untilEmpty(f, path, 0, func(removed int) (bool, error) { return removed == 0, nil })
}

// Dismantle removes path and everything below it as Remove does, and unmounts first what is mounted there. It is for
// trees in which nobody but the caller mounts.
func Dismantle(path string) error {
	err := Remove(path)
	if mounted := (*MountError)(nil); !errors.As(err, &mounted) {
		return err
	}
	if err := UnmountBelow(path); err != nil {
		return err
	}
	return Remove(path)
}

// remover is one removal.
type remover struct {
	// top is the highest directory that is being emptied: directories that lie too deep are moved into it.
	top   int
	moved int
}

// remove removes one entry of a directory. Path is for errors.
func (r *remover) remove(dir int, name, path string, depth int) error {
	_, err := retry(func() (int, error) { return 0, unix.Unlinkat(dir, name, 0) })
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EBUSY):
		return busy(dir, name, path)
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM): // EPERM is POSIX's answer for a directory
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	fd, notDir := openDir(dir, name)
	switch {
	case errors.Is(notDir, unix.ENOENT):
		return nil
	case errors.Is(notDir, unix.EXDEV):
		return mounted(dir, name, path)
	case errors.Is(notDir, unix.ENOTDIR), errors.Is(notDir, unix.ELOOP):
		return &os.PathError{Op: "remove", Path: path, Err: err} // a file that may not be removed
	case notDir != nil:
		return &os.PathError{Op: "open", Path: path, Err: notDir}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if r.top < 0 {
		r.top = fd
		defer func() { r.top = -1 }()
	}
	return r.empty(f, dir, name, path, depth)
}

// empty removes what is in a directory, and then the directory.
func (r *remover) empty(f *os.File, dir int, name, path string, depth int) error {
	return r.untilEmpty(f, path, depth, func(int) (bool, error) {
		_, err := retry(func() (int, error) { return 0, unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return true, nil
		case errors.Is(err, unix.EBUSY):
			return false, busy(dir, name, path)
		case !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST): // EEXIST is another word for it (rmdir(2))
			return false, &os.PathError{Op: "remove", Path: path, Err: err}
		}
		return false, nil
	})
}

// untilEmpty removes what is in a directory again and again until done says so. It gives up where others fill the
// directory as fast; what it moved there itself is not counted.
func (r *remover) untilEmpty(f *os.File, path string, depth int, done func(removed int) (bool, error)) error {
	for tries := 0; tries < passes; tries++ {
		before := r.moved
		removed, err := r.pass(f, path, depth)
		if err != nil {
			return err
		}
		if end, err := done(removed); end || err != nil {
			return err
		}
		if r.moved > before {
			tries = 0
		}
	}
	return fmt.Errorf("remove what is in %s: others keep filling it", path)
}

// pass removes the entries that one reading of a directory shows, and says how many.
func (r *remover) pass(f *os.File, path string, depth int) (removed int, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, &os.PathError{Op: "read", Path: path, Err: err}
	}
	for {
		names, err := f.Readdirnames(namesAtOnce)
		for _, name := range names {
			if err := r.entry(int(f.Fd()), name, filepath.Join(path, name), depth+1); err != nil {
				return removed, err
			}
			removed++
		}
		if errors.Is(err, io.EOF) || err == nil && len(names) == 0 {
			return removed, nil
		}
		if err != nil {
			return removed, &os.PathError{Op: "read", Path: path, Err: err}
		}
	}
}

// entry removes an entry or, where it lies too deep to be reached with few descriptors, moves it to the top.
func (r *remover) entry(dir int, name, path string, depth int) error {
	if depth <= levelsAtOnce {
		return r.remove(dir, name, path, depth)
	}
	for {
		r.moved++
		err := unix.Renameat2(dir, name, r.top, fmt.Sprintf(".removed-%d", r.moved), unix.RENAME_NOREPLACE)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EBUSY):
			return busy(dir, name, path)
		case !errors.Is(err, unix.EEXIST):
			return &os.PathError{Op: "move", Path: path, Err: err}
		}
	}
}

// busy is the error for an entry that the kernel holds on to, in nearly every case because it is a mount point.
func busy(dir int, name, path string) error {
	if point, ok := mountAt(dir, name); ok {
		return &MountError{Path: point}
	}
	return &os.PathError{Op: "remove", Path: path, Err: unix.EBUSY}
}

// mounted is the error for an entry that is known to be a mount point.
func mounted(dir int, name, path string) error {
	if point, ok := mountAt(dir, name); ok {
		path = point
	}
	return &MountError{Path: path}
}
