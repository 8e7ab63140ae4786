package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Whiteout file names of the OCI image specification, "Representing changes".
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// extraction is one archive on its way below root. Every path is resolved by
// the kernel with root as "/", so that neither "..", absolute links nor links
// made by the archive itself lead out.
type extraction struct {
	root int
	room *room
	// parent caches the directory of the last entry: archives come in order.
	parent     int
	parentPath string
	// made are the paths of this archive, which an opaque marker must spare.
	made map[string]bool
	// dirs get their times last, when nothing is written into them any more.
	dirs []dirTime
}

type dirTime struct {
	path string
	time time.Time
}

// extract applies a layer archive to the directory root, within the room there is for it.
func extract(root string, r io.Reader, space *room) error {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", root, err)
	}
	x := &extraction{root: fd, room: space, parent: -1, made: map[string]bool{}}
	defer x.close()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return x.setDirTimes()
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		if err := x.entry(h, tr); err != nil {
			return fmt.Errorf("extract %q: %w", h.Name, err)
		}
	}
}

func (x *extraction) close() {
	x.forgetParent()
	unix.Close(x.root)
}

func (x *extraction) forgetParent() {
	if x.parent >= 0 {
		unix.Close(x.parent)
	}
	x.parent, x.parentPath = -1, ""
}

func (x *extraction) entry(h *tar.Header, body io.Reader) error {
	name := path.Clean("/" + h.Name)
	if name == "/" {
		return x.rootEntry(h)
	}
	dir, base := path.Dir(name), path.Base(name)
	fd, err := x.dir(dir)
	if err != nil {
		return err
	}
	if base == whiteoutOpaque {
		return x.emptyDir(fd, dir)
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		if hidden == "" || hidden == "." || hidden == ".." {
			return errors.New("whiteout of nothing")
		}
		return removeAllAt(fd, hidden)
	}
	x.made[name] = true
	if err := x.makeRoom(fd, base, h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return x.link(h, fd, base)
	}
	if err := x.room.entry(); err != nil {
		return err
	}
	if err := x.create(h, fd, base, body); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		x.dirs = append(x.dirs, dirTime{name, h.ModTime})
	}
	return applyMetadata(h, fd, base)
}

// rootEntry takes over mode and owner of the root directory itself.
func (x *extraction) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return errors.New("the root is not a directory")
	}
	self := fmt.Sprintf("/proc/self/fd/%d", x.root)
	if err := unix.Chown(self, h.Uid, h.Gid); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if err := unix.Chmod(self, uint32(h.Mode&0o7777)); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	x.dirs = append(x.dirs, dirTime{"/", h.ModTime})
	return nil
}

// dir opens a directory below root, making what is missing of it.
func (x *extraction) dir(p string) (int, error) {
	if x.parent >= 0 && x.parentPath == p {
		return x.parent, nil
	}
	fd, err := x.open(p)
	if errors.Is(err, unix.ENOENT) && p != "/" {
		up, err := x.dir(path.Dir(p))
		if err != nil {
			return -1, err
		}
		if err := unix.Mkdirat(up, path.Base(p), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, fmt.Errorf("mkdir %s: %w", p, err)
		}
		x.made[p] = true
		fd, err = x.open(p)
		if errors.Is(err, unix.ENOENT) {
			// It is there and leads nowhere.
			return -1, fmt.Errorf("the directory %s is a symbolic link to what the image does not have", p)
		}
		if err != nil {
			return -1, fmt.Errorf("open %s: %w", p, err)
		}
	} else if err != nil {
		return -1, fmt.Errorf("open %s: %w", p, err)
	}
	x.forgetParent()
	x.parent, x.parentPath = fd, p
	return fd, nil
}

func (x *extraction) open(p string) (int, error) {
	for {
		fd, err := unix.Openat2(x.root, strings.TrimPrefix(p, "/")+"/.", &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// makeRoom removes what an entry replaces; a directory stays a directory.
func (x *extraction) makeRoom(fd int, base string, h *tar.Header) error {
	var st unix.Stat_t
	err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR && h.Typeflag == tar.TypeDir {
		return nil
	}
	return removeAllAt(fd, base)
}

// link makes a hard link; its target is a path below root, resolved there.
func (x *extraction) link(h *tar.Header, fd int, base string) error {
	target := path.Clean("/" + h.Linkname)
	from, err := x.open(path.Dir(target))
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	defer unix.Close(from)
	if err := unix.Linkat(from, path.Base(target), fd, base, 0); err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	return nil
}

func (x *extraction) create(h *tar.Header, fd int, base string, body io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		if err := unix.Mkdirat(fd, base, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("mkdir: %w", err)
		}
		return nil
	case tar.TypeReg:
		return writeFile(fd, base, body, x.room)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, fd, base); err != nil {
			return fmt.Errorf("symlink: %w", err)
		}
		return nil
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		mode := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
		if err := unix.Mknodat(fd, base, mode|0o600, int(dev)); err != nil {
			return fmt.Errorf("mknod: %w", err)
		}
		return nil
	}
	return fmt.Errorf("entry type %q is not supported", h.Typeflag)
}

func writeFile(fd int, base string, body io.Reader, space *room) error {
	n, err := unix.Openat(fd, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	f := os.NewFile(uintptr(n), base)
	_, err = io.Copy(space.limit(f), body)
	return errors.Join(err, f.Close())
}

// applyMetadata sets owner, mode, extended attributes and time. The owner
// comes first, because chown clears set-user-ID bits and capabilities.
func applyMetadata(h *tar.Header, fd int, base string) error {
	if err := unix.Fchownat(fd, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if h.Typeflag != tar.TypeSymlink {
		// Safe to follow: base was just made by us and is no link.
		if err := unix.Fchmodat(fd, base, uint32(h.Mode&0o7777), 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || strings.HasPrefix(attr, "trusted.overlay.") {
			continue
		}
		err := unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", fd, base), attr, []byte(value), 0)
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !(errors.Is(err, unix.EPERM) && strings.HasPrefix(attr, "user.")) {
			return fmt.Errorf("set attribute %s: %w", attr, err)
		}
	}
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	return setTime(fd, base, h.ModTime)
}

func setTime(fd int, base string, t time.Time) error {
	if t.Unix() < 0 {
		t = time.Unix(0, 0)
	}
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	if err := unix.UtimesNanoAt(fd, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

func (x *extraction) setDirTimes() error {
	for i := len(x.dirs) - 1; i >= 0; i-- {
		d := x.dirs[i]
		fd, err := x.open(d.path)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue // a later entry replaced it
		}
		if err != nil {
			return fmt.Errorf("open %s: %w", d.path, err)
		}
		err = setTime(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d/.", fd), d.time)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("%s: %w", d.path, err)
		}
	}
	return nil
}

// emptyDir carries out an opaque marker: what lower layers had in the
// directory goes, what this archive has put there stays.
func (x *extraction) emptyDir(fd int, dir string) error {
	names, err := readDirAt(fd)
	if err != nil {
		return fmt.Errorf("empty directory: %w", err)
	}
	for _, n := range names {
		if x.made[path.Join(dir, n)] {
			continue
		}
		if err := removeAllAt(fd, n); err != nil {
			return err
		}
	}
	return nil
}

func readDirAt(fd int) ([]string, error) {
	n, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(n), "dir")
	defer f.Close()
	return f.Readdirnames(-1)
}

// removeAllAt removes an entry and what is below it without following links.
func removeAllAt(fd int, base string) error {
	err := unix.Unlinkat(fd, base, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("remove %s: %w", base, err)
	}
	sub, err := unix.Openat(fd, base, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("remove %s: %w", base, err)
	}
	defer unix.Close(sub)
	names, err := readDirAt(sub)
	if err != nil {
		return fmt.Errorf("remove %s: %w", base, err)
	}
	for _, n := range names {
		if err := removeAllAt(sub, n); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(fd, base, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", base, err)
	}
	return nil
}
