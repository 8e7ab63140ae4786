package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// tree is the container's file system, while the thread that it is filled by is in its mount namespace. The image
// decides what is in it and the command does not run yet: nothing changes while it is looked at, but its links lead
// anywhere. So each place in it is found by a descriptor, within the root (openat2(2), RESOLVE_IN_ROOT).
type tree struct {
	root string
	fd   int // its root's
	dev  uint64
	ino  uint64
}

// openTree makes the root a mount of its own, which nothing that is mounted below it leaves for the node.
func openTree(cfg *configs.Config) (*tree, error) {
	if err := mount("", "/", "", uintptr(cfg.RootPropagation), ""); err != nil {
		return nil, err
	}
	if err := mount("", cfg.Rootfs, "", unix.MS_SLAVE, ""); err != nil && !errors.Is(err, unix.EINVAL) {
		return nil, err
	}
	if err := mount(cfg.Rootfs, cfg.Rootfs, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return nil, err
	}
	fd, err := unix.Open(cfg.Rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root: %w", err)
	}
	t := &tree{root: cfg.Rootfs, fd: fd}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.close()
		return nil, fmt.Errorf("root: %w", err)
	}
	t.dev, t.ino = st.Dev, st.Ino
	return t, nil
}

func (t *tree) close() { unix.Close(t.fd) }

func mount(source, to, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, to, kind, flags, data); err != nil {
		return fmt.Errorf("mount %q at %s: %w", source, to, err)
	}
	return nil
}

// open finds a place below the root.
func (t *tree) open(path string, flags uint64, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve}
	rel := strings.TrimPrefix(filepath.Clean("/"+path), "/")
	if rel == "" {
		rel = "."
	}
	for {
		fd, err := unix.Openat2(t.fd, rel, &how)
		// EAGAIN: something was renamed on the way, anywhere on the machine.
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// place finds where something is to be mounted, and makes it if it is missing: an empty file or a directory.
func (t *tree) place(path string, file bool) (int, error) {
	fd, err := t.open(path, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) {
		fd, err = t.make(path, file)
	}
	if err != nil {
		return -1, fmt.Errorf("mount point %s: %w", path, err)
	}
	if err := t.within(fd, path); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// make makes what is missing of a path: most often its last step.
func (t *tree) make(path string, file bool) (int, error) {
	path = filepath.Clean("/" + path)
	if dir, err := t.open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
		fd, err := create(dir, filepath.Base(path), file)
		unix.Close(dir)
		if !errors.Is(err, unix.EEXIST) { // a link that leads nowhere
			return fd, err
		}
	}
	return t.makeAll(path, file)
}

// makeAll makes a path where its links lead to, also those that lead nowhere yet.
func (t *tree) makeAll(path string, file bool) (int, error) {
	full, err := securejoin.SecureJoin(t.root, path)
	if err != nil {
		return -1, err
	}
	rel, err := filepath.Rel(t.root, full)
	if err != nil {
		return -1, err
	}
	at, err := t.open("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	names := strings.Split(rel, "/")
	for i, name := range names {
		next, err := t.step(at, name, filepath.Join(names[:i+1]...), file && i == len(names)-1)
		unix.Close(at)
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// step opens an entry of a directory, which it makes if it is missing. Path is the entry's from the root.
func (t *tree) step(dir int, name, path string, file bool) (int, error) {
	fd, err := t.open(path, unix.O_PATH, 0)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	return create(dir, name, file)
}

// create makes an entry of a directory: an empty file, or a directory.
func create(dir int, name string, file bool) (int, error) {
	if file {
		made, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return -1, err
		}
		unix.Close(made)
	} else if err := unix.Mkdirat(dir, name, 0o755); err != nil {
		return -1, err
	}
	return unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// within makes sure that a link of the image has not led to where nothing may be mounted.
func (t *tree) within(fd int, path string) error {
	real, err := os.Readlink(fdPath(fd))
	if err != nil {
		return fmt.Errorf("mount point %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("mount point %s: %w", path, err)
	}
	proc := filepath.Join(t.root, "proc")
	switch {
	case st.Dev == t.dev && st.Ino == t.ino:
		return fmt.Errorf("mountpoint %q is on the top of rootfs %q", real, t.root)
	case !strings.HasPrefix(real, t.root+"/"):
		return fmt.Errorf("mountpoint %q is outside of rootfs %q", real, t.root)
	case real == proc || strings.HasPrefix(real, proc+"/"):
		return fmt.Errorf("%q cannot be mounted because it is inside /proc", path)
	}
	return nil
}

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// mount mounts one thing. The process's own /proc is left to the process.
func (t *tree) mount(m *configs.Mount) error {
	if err := t.mountIt(m); err != nil {
		return fmt.Errorf("error mounting %q to rootfs at %q: %w", m.Source, m.Destination, err)
	}
	return nil
}

func (t *tree) mountIt(m *configs.Mount) error {
	switch m.Device {
	case "bind":
		return t.bind(m)
	case "proc", "sysfs":
		fd, err := t.ordinary(m.Destination)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if m.Device == "proc" {
			return nil
		}
		return mount(m.Source, fdPath(fd), m.Device, uintptr(m.Flags), m.Data)
	}
	to, flags, data := m.Destination, m.Flags, m.Data
	fd, err := t.open(to, unix.O_PATH, 0)
	existed := err == nil
	if existed {
		unix.Close(fd)
	}
	if fd, err = t.place(to, false); err != nil {
		return err
	}
	defer unix.Close(fd)
	if m.Device == "tmpfs" {
		flags &^= unix.MS_RDONLY // until it is filled: see scene.remounts
		if existed {
			data = t.modeOf(fd, data)
		}
	}
	return mount(m.Source, fdPath(fd), m.Device, uintptr(flags), data)
}

// modeOf has a tmpfs keep the mode of the directory that it covers, unless its options say otherwise.
func (t *tree) modeOf(fd int, data string) string {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return data
	}
	mode := fmt.Sprintf("mode=%04o", st.Mode&0o7777)
	if data == "" {
		return mode
	}
	return mode + "," + data
}

// ordinary is the directory for a file system of the kernel's: not one that a link leads to, which could hide what the
// runtime puts over it.
func (t *tree) ordinary(path string) (int, error) {
	fd, err := t.open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_NO_SYMLINKS)
	if errors.Is(err, unix.ENOENT) {
		if err = unix.Mkdirat(t.fd, strings.TrimPrefix(filepath.Clean(path), "/"), 0o755); err == nil {
			fd, err = t.open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_NO_SYMLINKS)
		}
	}
	if err != nil {
		return -1, fmt.Errorf("it must be mounted on ordinary directory: %w", err)
	}
	return fd, nil
}

// bind shows a file or directory of the node's in the container. It gets its properties before it has a place.
func (t *tree) bind(m *configs.Mount) error {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if m.Flags&unix.MS_REC != 0 {
		flags |= unix.AT_RECURSIVE
	}
	src, err := unix.OpenTree(unix.AT_FDCWD, m.Source, flags)
	if err != nil {
		return fmt.Errorf("open %s: %w", m.Source, err)
	}
	defer unix.Close(src)
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	for _, p := range m.PropagationFlags {
		attr := unix.MountAttr{Propagation: uint64(p &^ unix.MS_REC)}
		if err := setattr(src, &attr, p&unix.MS_REC != 0); err != nil {
			return fmt.Errorf("propagation: %w", err)
		}
	}
	// Flags that nobody asks for stay as the source has them; one that is asked for sets them all.
	if m.Flags&^(unix.MS_BIND|unix.MS_REC|unix.MS_REMOUNT) != 0 || m.ClearedFlags != 0 {
		if err := setattr(src, attributes(m.Flags), false); err != nil {
			return fmt.Errorf("flags: %w", err)
		}
	}
	if m.RecAttr != nil {
		if err := setattr(src, m.RecAttr, true); err != nil {
			return fmt.Errorf("recursive flags: %w", err)
		}
	}
	to, err := t.place(m.Destination, st.Mode&unix.S_IFMT != unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	return unix.MoveMount(src, "", to, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

func setattr(fd int, attr *unix.MountAttr, all bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if all {
		flags |= unix.AT_RECURSIVE
	}
	return unix.MountSetattr(fd, "", flags, attr)
}

// attributes are the flags of mount(2) as mount_setattr(2) takes them, with those cleared that are not among them. How
// times of access are kept stays unless it is said.
func attributes(flags int) *unix.MountAttr {
	attr := &unix.MountAttr{}
	for _, f := range []struct {
		old  int
		attr uint64
	}{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID}, {unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC}, {unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW},
	} {
		if flags&f.old != 0 {
			attr.Attr_set |= f.attr
		} else {
			attr.Attr_clr |= f.attr
		}
	}
	const times = unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME | unix.MS_STRICTATIME
	if flags&times == 0 {
		return attr
	}
	attr.Attr_clr |= unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME
	if flags&unix.MS_NODIRATIME != 0 {
		attr.Attr_clr &^= unix.MOUNT_ATTR_NODIRATIME
		attr.Attr_set |= unix.MOUNT_ATTR_NODIRATIME
	}
	switch { // MOUNT_ATTR_RELATIME is 0
	case flags&unix.MS_STRICTATIME != 0:
		attr.Attr_set |= unix.MOUNT_ATTR_STRICTATIME
	case flags&unix.MS_NOATIME != 0:
		attr.Attr_set |= unix.MOUNT_ATTR_NOATIME
	}
	return attr
}

// devices makes the device nodes, and the links that programs expect in /dev. The thread's umask is 0.
func (t *tree) devices(list []*config.Device) error {
	for _, d := range list {
		if filepath.Clean(d.Path) == "/dev/ptmx" {
			continue
		}
		if err := t.device(d); err != nil {
			return fmt.Errorf("device %s: %w", d.Path, err)
		}
	}
	links := [][2]string{
		{"pts/ptmx", "ptmx"}, {"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
	}
	if _, err := os.Stat("/proc/kcore"); err == nil {
		links = append(links, [2]string{"/proc/kcore", "core"})
	}
	dev, err := t.open("/dev", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("/dev: %w", err)
	}
	defer unix.Close(dev)
	if err := unix.Unlinkat(dev, "ptmx", 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("/dev/ptmx: %w", err)
	}
	for _, l := range links {
		if err := unix.Symlinkat(l[0], dev, l[1]); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("/dev/%s: %w", l[1], err)
		}
	}
	return nil
}

func (t *tree) device(d *config.Device) error {
	mode := uint32(d.FileMode) & 0o7777
	switch d.Type {
	case config.BlockDevice:
		mode |= unix.S_IFBLK
	case config.CharDevice:
		mode |= unix.S_IFCHR
	case config.FifoDevice:
		mode |= unix.S_IFIFO
	default:
		return fmt.Errorf("%c is no type of a device", d.Type)
	}
	number, err := d.Mkdev()
	if err != nil {
		return err
	}
	dir, err := t.place(filepath.Dir(filepath.Clean(d.Path)), false)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	name := filepath.Base(d.Path)
	err = unix.Mknodat(dir, name, mode, int(number))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil || d.Uid == 0 && d.Gid == 0 {
		return err
	}
	return unix.Fchownat(dir, name, int(d.Uid), int(d.Gid), unix.AT_SYMLINK_NOFOLLOW)
}
