package filetree

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// createTries is how often Append looks for a file that others remove and make meanwhile.
const createTries = 16

// Dir is a directory held by a descriptor. Its methods take the names of what is in it, one step at a time (or several,
// divided by slashes, where it says so): no step leads through a link or onto another mount, so whoever may write in
// the directory cannot lead them out of it.
type Dir struct {
	f *os.File
}

// OpenDir opens a directory. The path is the caller's own and may contain links.
func OpenDir(path string) (*Dir, error) {
	f, err := os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &Dir{f}, nil
}

// MakeDir opens a directory, and makes it with exactly this mode, whatever the umask, if it is missing; those above it
// get 0755. One that exists is left as it is. The path is the caller's own.
func MakeDir(path string, mode uint32) (*Dir, error) {
	d, err := OpenDir(path)
	if !errors.Is(err, os.ErrNotExist) {
		return d, err
	}
	path = filepath.Clean(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	above, err := OpenDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer above.Close()
	d, err = above.Make(filepath.Base(path), mode)
	if errors.Is(err, unix.EXDEV) { // made meanwhile, and mounted over, by somebody else
		return OpenDir(path)
	}
	return d, err
}

// Close gives the descriptor back.
func (d *Dir) Close() { d.f.Close() }

func (d *Dir) fd() int { return int(d.f.Fd()) }

func (d *Dir) at(name string) string { return filepath.Join(d.f.Name(), name) }

func (d *Dir) fail(op, name string, err error) error {
	return &os.PathError{Op: op, Path: d.at(name), Err: err}
}

// Entry finds what a name, or several divided by slashes, stands for: a link is found itself.
func (d *Dir) Entry(name string) (*Entry, error) {
	at := d.fd()
	path := d.f.Name()
	steps := strings.Split(name, "/")
	for i, s := range steps {
		flags := unix.O_PATH
		if i < len(steps)-1 {
			flags |= unix.O_DIRECTORY
		}
		next, err := step(at, s, flags)
		if at != d.fd() {
			unix.Close(at) // only names the directory
		}
		path = filepath.Join(path, s)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		at = next
	}
	return newEntry(at, path)
}

// Dir opens a directory in this one.
func (d *Dir) Dir(name string) (*Dir, error) {
	fd, err := openDir(d.fd(), name)
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	return &Dir{os.NewFile(uintptr(fd), d.at(name))}, nil
}

// Make opens a directory in this one, and makes it as MakeNew does if it is missing.
func (d *Dir) Make(name string, mode uint32) (*Dir, error) {
	in, err := d.MakeNew(name, mode)
	if errors.Is(err, unix.EEXIST) {
		return d.Dir(name)
	}
	return in, err
}

// MakeNew makes a directory in this one with exactly this mode, whatever the umask. A name that is taken is refused.
func (d *Dir) MakeNew(name string, mode uint32) (*Dir, error) {
	if err := unix.Mkdirat(d.fd(), name, mode&0o777); err != nil {
		return nil, d.fail("mkdir", name, err)
	}
	in, err := d.Dir(name)
	if err != nil {
		return nil, err
	}
	if err := unix.Fchmod(in.fd(), mode); err != nil {
		in.Close()
		return nil, d.fail("chmod", name, err)
	}
	return in, nil
}

// Lock waits until no other process holds the directory's lock (flock(2)), and takes it.
func (d *Dir) Lock() (unlock func(), err error) {
	_, err = retry(func() (int, error) { return 0, unix.Flock(d.fd(), unix.LOCK_EX) })
	if err != nil {
		return nil, d.fail("lock", "", err)
	}
	return func() { unix.Flock(d.fd(), unix.LOCK_UN) }, nil //nolint:errcheck // it goes with the descriptor at the latest
}

// Names lists what is in the directory.
func (d *Dir) Names() ([]string, error) {
	if _, err := d.f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return d.f.Readdirnames(-1)
}

// Write makes a new file that holds data. Owner is a user, or -1 for this process's; the mode is exact, whatever the
// umask. A name that is taken is refused.
func (d *Dir) Write(name string, data []byte, mode uint32, owner int) error {
	f, err := d.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && owner >= 0 {
		err = f.Chown(owner, -1)
	}
	if err == nil {
		err = d.chmod(f, name, mode)
	}
	return errors.Join(err, f.Close())
}

// Create makes a new file, for its owner and group to read, and opens it for writing. A name that is taken is refused.
func (d *Dir) Create(name string) (*os.File, error) { return d.create(name, unix.O_WRONLY) }

// Overwrite makes a file hold data, in place: who has the file open or mounted sees it change. A file that is missing
// is made. The mode is exact, whatever the umask.
func (d *Dir) Overwrite(name string, data []byte, mode uint32) error {
	f, err := d.Append(name)
	if err != nil {
		return err
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = d.chmod(f, name, mode)
	}
	return errors.Join(err, f.Close())
}

func (d *Dir) chmod(f *os.File, name string, mode uint32) error {
	if err := unix.Fchmod(int(f.Fd()), mode); err != nil {
		return d.fail("chmod", name, err)
	}
	return nil
}

// Append opens a regular file for writing at its end, and makes it, for its owner and group to read, if it is missing.
// Anything else of that name gives a KindError.
func (d *Dir) Append(name string) (*os.File, error) {
	for range createTries {
		e, err := d.Entry(name)
		if errors.Is(err, unix.ENOENT) {
			f, err := d.create(name, unix.O_WRONLY|unix.O_APPEND)
			if errors.Is(err, unix.EEXIST) {
				continue
			}
			return f, err
		}
		if err != nil {
			return nil, err
		}
		f, err := e.Open(unix.O_WRONLY | unix.O_APPEND)
		e.Close()
		return f, err
	}
	return nil, fmt.Errorf("open %s: others keep replacing it", d.at(name))
}

func (d *Dir) create(name string, flags int) (*os.File, error) {
	if name == "" || strings.ContainsRune(name, '/') {
		return nil, d.fail("create", name, unix.EINVAL)
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(d.fd(), name, flags|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o640)
	})
	if err != nil {
		return nil, d.fail("create", name, err)
	}
	return os.NewFile(uintptr(fd), d.at(name)), nil
}

// Symlink makes a link of that name.
func (d *Dir) Symlink(target, name string) error {
	if err := unix.Symlinkat(target, d.fd(), name); err != nil {
		return d.fail("symlink", name, err)
	}
	return nil
}

// Rename gives an entry another name in the directory, in the place of what has that name.
func (d *Dir) Rename(from, to string) error {
	if err := unix.Renameat2(d.fd(), from, d.fd(), to, 0); err != nil {
		return d.fail("rename", from, err)
	}
	return nil
}

// RenameNew gives an entry another name in the directory. A name that is taken is refused.
func (d *Dir) RenameNew(from, to string) error {
	if err := unix.Renameat2(d.fd(), from, d.fd(), to, unix.RENAME_NOREPLACE); err != nil {
		return d.fail("rename", from, err)
	}
	return nil
}

// Sync makes the directory's names durable (fsync(2)): what was made, renamed and removed in it.
func (d *Dir) Sync() error { return d.f.Sync() }

// Remove removes an entry of the directory and everything below it, as the function of that name does.
func (d *Dir) Remove(name string) error {
	r := remover{top: -1}
	return r.remove(d.fd(), name, d.at(name), 0)
}

// Survey surveys the directory and what is below it, as the function of that name does.
func (d *Dir) Survey(visit func(*Entry) error) error {
	e, err := duplicate(d.f, d.f.Name())
	if err != nil {
		return err
	}
	return e.Survey(visit)
}
