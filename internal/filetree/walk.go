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
	// MaxLevels is how deep a tree may be nested to be walked. The deepest file that a path can name lies twice as deep
	// (PATH_MAX is 4096 bytes), but only a program that means to do so makes such a tree, and each level takes a
	// descriptor of ours. A visit that returns ErrSkip there goes on beside it.
	MaxLevels = maxLevels
	maxLevels = 1024
	// shallowLevels is how deep walks may go at the same time. Deeper ones take turns: whatever pods nest, the process
	// keeps descriptors for its other work.
	shallowLevels = 128
)

// ErrTooDeep is returned for a tree that is nested deeper than any that somebody made in order to use it.
var ErrTooDeep = fmt.Errorf("directories are nested more than %d levels deep", maxLevels)

// ErrSkip returned by a visit leaves out what is below the entry.
var ErrSkip = errors.New("skip this directory")

// deepWalk is held by the one walk that is deeper than shallowLevels.
var deepWalk = make(chan struct{}, 1)

// Walk visits a tree from its root down, each file held by a descriptor. The path of the root is the caller's own and
// may contain links; below it no link is followed and no mount point is crossed, and what is mounted there is not
// visited. Files that go meanwhile are left out. An error of a visit, ErrSkip apart, ends the walk.
func Walk(root string, visit func(*Entry) error) error {
	e, err := At(root)
	if err != nil {
		return err
	}
	return e.walk(0, walker{visit: visit})
}

// Survey is Walk for visits that leave most files alone: what is not a directory is held by a descriptor only when the
// visit acts on it (Entry.Hold), which saves three system calls a file.
func Survey(root string, visit func(*Entry) error) error {
	e, err := At(root)
	if err != nil {
		return err
	}
	return e.Survey(visit)
}

// Survey surveys the entry and what is below it, and closes the entry.
func (e *Entry) Survey(visit func(*Entry) error) error {
	return e.walk(0, walker{visit: visit, lazy: true})
}

// walker is what a walk does.
type walker struct {
	visit func(*Entry) error
	// lazy leaves files to be held when they are acted on.
	lazy bool
}

// walk visits the entry and, if it is a directory, what is in it. It closes the entry.
func (e *Entry) walk(level int, w walker) error {
	e.Level = level
	if level == 0 {
		e.Path = "."
	}
	err := w.visit(e)
	if err != nil || !e.IsDir() {
		e.Close()
		if errors.Is(err, ErrSkip) {
			return nil
		}
		return err
	}
	switch level {
	case shallowLevels:
		deepWalk <- struct{}{}
		defer func() { <-deepWalk }()
	case maxLevels:
		e.Close()
		return ErrTooDeep
	}
	f, err := e.list()
	e.Close() // one descriptor a level is enough
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(namesAtOnce)
		for _, name := range names {
			if err := w.name(int(f.Fd()), name, filepath.Join(e.Path, name), level+1); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || err == nil && len(names) == 0 {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "read", Path: e.Path, Err: err}
		}
	}
}

// name visits one entry of a directory.
func (w walker) name(dir int, name, path string, level int) error {
	e := &Entry{Path: path, fd: -1, dir: dir, name: name}
	seen := false
	if w.lazy {
		mounted, known, err := look(dir, name, &e.Stat)
		switch {
		case errors.Is(err, unix.ENOENT), err == nil && mounted:
			return nil
		case err != nil:
			return &os.PathError{Op: "stat", Path: path, Err: err}
		}
		seen = known
	}
	if !seen || e.IsDir() {
		err := e.Hold()
		if err != nil {
			e.Close()
		}
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EXDEV):
			return nil
		case err != nil:
			return err
		}
	}
	return e.walk(level, w)
}

// look reads what a name stands for, a link's own state for a link, and whether something is mounted there. It does not
// know on kernels before 5.8.
func look(dir int, name string, into *unix.Stat_t) (mounted, known bool, err error) {
	var st unix.Statx_t
	_, err = retry(func() (int, error) {
		return 0, unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, &st)
	})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return false, false, nil
	}
	if err != nil || st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, false, err
	}
	// The fields differ in size from one architecture to another.
	set(&into.Dev, unix.Mkdev(st.Dev_major, st.Dev_minor))
	set(&into.Ino, st.Ino)
	set(&into.Nlink, uint64(st.Nlink))
	set(&into.Mode, uint64(st.Mode))
	set(&into.Uid, uint64(st.Uid))
	set(&into.Gid, uint64(st.Gid))
	set(&into.Rdev, unix.Mkdev(st.Rdev_major, st.Rdev_minor))
	set(&into.Size, st.Size)
	set(&into.Blksize, uint64(st.Blksize))
	set(&into.Blocks, st.Blocks)
	into.Atim, into.Mtim, into.Ctim = timespec(st.Atime), timespec(st.Mtime), timespec(st.Ctime)
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, true, nil
}

func set[T ~int32 | ~int64 | ~uint32 | ~uint64](to *T, value uint64) { *to = T(value) }

func timespec(t unix.StatxTimestamp) unix.Timespec {
	return unix.NsecToTimespec(t.Sec*1e9 + int64(t.Nsec))
}
