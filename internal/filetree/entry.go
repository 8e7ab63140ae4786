package filetree

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// Entry is one file of a tree, held by a descriptor that names it and opens nothing (O_PATH): what is read and changed
// through it is that very file, whatever its name leads to by now, and looking at it waits for nobody. The entry that a
// visit gets is valid during the visit only; others are closed by who asked for them.
type Entry struct {
	// Path says where the entry was found. It is for messages: it may be out of date.
	Path string
	// Level is how many directories below the root of a walk the entry lies.
	Level int
	// Stat is what was seen last, of this very file.
	Stat unix.Stat_t
	// fd holds the file; -1 as long as nobody needed it. It is then found by its name in a directory.
	fd   int
	dir  int
	name string
}

// Hold makes sure that a descriptor holds the entry, and reads its state anew. Everything that acts on an entry does so
// by itself. The file that a visit was shown may have gone by now, or have been replaced: that gives os.ErrNotExist.
func (e *Entry) Hold() error {
	if e.fd >= 0 {
		return nil
	}
	if e.name == "" {
		return &os.PathError{Op: "open", Path: e.Path, Err: os.ErrClosed}
	}
	fd, err := step(e.dir, e.name, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: e.Path, Err: err}
	}
	shown := e.Stat
	e.fd = fd
	if err := unix.Fstat(fd, &e.Stat); err != nil {
		return &os.PathError{Op: "stat", Path: e.Path, Err: err}
	}
	if shown.Ino != 0 && (shown.Ino != e.Stat.Ino || shown.Dev != e.Stat.Dev) {
		return &os.PathError{Op: "open", Path: e.Path, Err: unix.ENOENT}
	}
	return nil
}

// At finds the file that a path leads to. The path is the caller's own: links in it are followed, the last one too.
func At(path string) (*Entry, error) {
	fd, err := retry(func() (int, error) { return unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return newEntry(fd, path)
}

// Within finds the file that sub leads to for a process whose root directory is root: links in sub, absolute ones and
// those that climb included, lead to something inside. What is mounted inside belongs to it. The path of root is the
// caller's own.
func Within(root, sub string) (*Entry, error) {
	f, err := pathrs.OpenInRoot(root, sub)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return duplicate(f, filepath.Join(root, sub))
}

// MakeWithin makes the directory sub, and those on the way to it that are missing, where Within would look. Mode is
// subject to the umask. A directory that is there already is left as it is.
func MakeWithin(root, sub string, mode os.FileMode) (*Entry, error) {
	top, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	f, err := pathrs.MkdirAllHandle(top, sub, mode)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return duplicate(f, filepath.Join(root, sub))
}

func duplicate(f *os.File, path string) (*Entry, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return newEntry(fd, path)
}

// newEntry takes over a descriptor.
func newEntry(fd int, path string) (*Entry, error) {
	e := &Entry{Path: path, fd: fd}
	if err := unix.Fstat(fd, &e.Stat); err != nil {
		e.Close()
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return e, nil
}

// Close gives the descriptor back. It may be called again.
func (e *Entry) Close() {
	if e.fd >= 0 {
		unix.Close(e.fd) // nothing was written through it
	}
	e.fd, e.name = -1, ""
}

// IsDir says whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsLink says whether the entry is a symbolic link.
func (e *Entry) IsLink() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFLNK }

// IsRegular says whether the entry is a file with content of its own.
func (e *Entry) IsRegular() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFREG }

// Kind names what the entry is, in the words of inode(7).
func (e *Entry) Kind() string {
	switch e.Stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFREG:
		return "file"
	case unix.S_IFLNK:
		return "symbolic link"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	case unix.S_IFIFO:
		return "FIFO"
	}
	return "file of unknown kind"
}

// IsEmpty says whether the entry is a directory with nothing in it.
func (e *Entry) IsEmpty() (bool, error) {
	if !e.IsDir() {
		return false, nil
	}
	f, err := e.list()
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// list opens a directory for reading what is in it.
func (e *Entry) list() (*os.File, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(e.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: e.Path, Err: err}
	}
	return os.NewFile(uintptr(fd), e.Path), nil
}

// OpenDir opens the entry, if it is a directory, to go on from there.
func (e *Entry) OpenDir() (*Dir, error) {
	f, err := e.list()
	if err != nil {
		return nil, err
	}
	return &Dir{f}, nil
}

// Chown changes the owner and the group of the entry itself; -1 leaves one as it is.
func (e *Entry) Chown(uid, gid int) error {
	if err := e.Hold(); err != nil {
		return err
	}
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
	if err := e.Hold(); err != nil {
		return err
	}
	err := unix.Fchmodat(e.fd, "", mode, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		// Before fchmodat2 (Linux 6.6) the link in /proc leads to the file that the descriptor holds, and to no other.
		err = unix.Chmod(e.inProc(), mode)
	}
	if err != nil {
		return &os.PathError{Op: "chmod", Path: e.Path, Err: err}
	}
	return nil
}

// KindError says that a file is not of the kind that could be used.
type KindError struct {
	// Path is where it was found; Kind is what it is and Want what it should have been, as Entry.Kind names them.
	Path, Kind, Want string
}

func (e *KindError) Error() string {
	return fmt.Sprintf("%s is a %s, not a %s", e.Path, e.Kind, e.Want)
}

// Open opens the entry, if it is a regular file, with the flags of open(2); anything else gives a KindError and is not
// touched: opening a FIFO would wait, opening a device may act on it.
func (e *Entry) Open(flags int) (*os.File, error) {
	if err := e.Hold(); err != nil {
		return nil, err
	}
	if !e.IsRegular() {
		return nil, &KindError{Path: e.Path, Kind: e.Kind(), Want: "file"}
	}
	fd, err := retry(func() (int, error) {
		return unix.Open(e.inProc(), flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: e.Path, Err: err}
	}
	return os.NewFile(uintptr(fd), e.Path), nil
}

// Read returns the beginning of a regular file, at most limit bytes.
func (e *Entry) Read(limit int64) ([]byte, error) {
	f, err := e.Open(unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// Readlink returns what a symbolic link says.
func (e *Entry) Readlink() (string, error) {
	if err := e.Hold(); err != nil {
		return "", err
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(e.fd, "", buf)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: e.Path, Err: err}
	}
	return string(buf[:n]), nil
}

// Where asks the kernel for the path that leads to the entry now, without links.
func (e *Entry) Where() (string, error) { return os.Readlink(e.inProc()) }

// BindTo mounts the entry, with all that is mounted below it, at target, which is the caller's own. What is mounted in the
// entry later shows at target where the entry lies on a shared mount (mount_namespaces(7)); only with back does it show the
// other way round as well, and target then is one more peer of the entry's mount.
func (e *Entry) BindTo(target string, back bool) error {
	err := unix.Mount(e.inProc(), target, "", unix.MS_BIND|unix.MS_REC, "")
	if err != nil || back {
		return e.bindError(target, err)
	}
	if err := unix.Mount("", target, "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return e.bindError(target, errors.Join(err, UnmountBelow(target)))
	}
	return nil
}

func (e *Entry) bindError(target string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("bind %s to %s: %w", e.Path, target, err)
}

// inProc is a path that leads to the file that the descriptor holds, for this process alone (proc_pid_fd(5)).
func (e *Entry) inProc() string { return "/proc/self/fd/" + strconv.Itoa(e.fd) }
