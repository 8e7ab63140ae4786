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
	// fruitless is how often a directory is read again that others keep filling.
	fruitless = 16
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
	defer unix.Close(dir) //nolint:errcheck // only names the directory
	r := remover{path: filepath.Clean(path), top: -1}
	return r.remove(dir, name, r.path, 0)
}

// RemoveContents removes everything in a directory and leaves the directory.
func RemoveContents(path string) error {
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	r := remover{path: filepath.Clean(path), top: fd}
	for range fruitless {
		removed, err := r.pass(f, r.path, 0)
		if err != nil || removed == 0 {
			return err
		}
	}
	return fmt.Errorf("remove what is in %s: others keep filling it", path)
}

// remover is one removal.
type remover struct {
	path string
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
		return &MountError{Path: path}
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM): // EPERM is POSIX's answer for a directory
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	fd, notDir := openDir(dir, name)
	switch {
	case errors.Is(notDir, unix.ENOENT):
		return nil
	case errors.Is(notDir, unix.EXDEV):
		return &MountError{Path: path}
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
	for idle := 0; idle < fruitless; {
		removed, err := r.pass(f, path, depth)
		if err != nil {
			return err
		}
		_, err = retry(func() (int, error) { return 0, unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EBUSY):
			return &MountError{Path: path}
		case !errors.Is(err, unix.ENOTEMPTY):
			return &os.PathError{Op: "remove", Path: path, Err: err}
		}
		if removed == 0 {
			idle++
		}
	}
	return fmt.Errorf("remove %s: others keep filling it", path)
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
			return &MountError{Path: path}
		case !errors.Is(err, unix.EEXIST):
			return &os.PathError{Op: "move", Path: path, Err: err}
		}
	}
}
