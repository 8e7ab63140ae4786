package filetree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MountError says that something is mounted where a tree was to be removed.
type MountError struct {
	// Path is the mount point.
	Path string
}

func (e *MountError) Error() string {
	at := e.Path
	if quoted := strconv.Quote(at); quoted != `"`+at+`"` {
		at = quoted
	}
	return fmt.Sprintf("something is mounted at %s; unmount it first: umount %s", at, shellWord(e.Path))
}

// shellWord writes a word so that a POSIX shell reads it as it is.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@,", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// step opens one entry of a directory. It follows no symbolic link, crosses no mount point and blocks on nothing: the
// descriptor only names the entry (O_PATH) unless flags ask for more. A mount point gives unix.EXDEV.
func step(dir int, name string, flags int) (int, error) {
	if name == "" || name == ".." || strings.ContainsRune(name, '/') {
		return -1, unix.EINVAL
	}
	if flags == 0 {
		flags = unix.O_PATH
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := retry(func() (int, error) { return unix.Openat2(dir, name, &how) })
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return stepByMountID(dir, name, flags)
	}
	return fd, err
}

// stepByMountID is step for kernels before 5.6, and for sandboxes whose system call filter refuses openat2.
func stepByMountID(dir int, name string, flags int) (int, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, err
	}
	above, err := mountID(dir)
	if err == nil {
		var below string
		if below, err = mountID(fd); err == nil && above != below {
			err = unix.EXDEV
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// mountID is the number of the mount that a descriptor lies in (proc_pid_fdinfo(5)).
func mountID(fd int) (string, error) {
	raw, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(raw)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id), nil
		}
	}
	return "", errors.New("the kernel tells no mount of a descriptor")
}

// openDir opens a directory below another for reading; like step it stops at links and mount points.
func openDir(dir int, name string) (int, error) {
	return step(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
}

// openPlain names a directory by an absolute path that may not contain links. Mount points on the way are crossed.
func openPlain(path string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	how := unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := retry(func() (int, error) { return unix.Openat2(unix.AT_FDCWD, path, &how) })
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return fd, err
	}
	return openPlainByName(path)
}

// openPlainByName is openPlain where there is no openat2.
func openPlainByName(path string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Open("/", flags, 0)
	if err != nil {
		return -1, err
	}
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if name == "" {
			continue
		}
		next, err := retry(func() (int, error) { return unix.Openat(fd, name, flags, 0) })
		unix.Close(fd)
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

// parent opens the directory that holds path. The path leading there is the caller's own and may contain links.
func parent(path string) (fd int, name string, err error) {
	path = filepath.Clean(path)
	name = filepath.Base(path)
	if name == "." || name == ".." || name == "/" {
		return -1, "", &os.PathError{Op: "open", Path: path, Err: unix.EINVAL}
	}
	fd, err = retry(func() (int, error) {
		return unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, "", &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	return fd, name, nil
}

// retry repeats a system call that a signal interrupted.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		out, err := call()
		if !errors.Is(err, unix.EINTR) {
			return out, err
		}
	}
}
