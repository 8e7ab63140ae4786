package userns

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrCannot says that a file system cannot show its files to the users of a pod.
var ErrCannot = errors.New("cannot be shown to users of the pod's own (idmapped mounts, mount_setattr(2)): " +
	"keep the files on another file system, or leave hostUsers out")

// Tree opens what is at path as a mount of its own, not yet mounted anywhere, in which files belong to the users of a
// namespace who have the ids that they have on disk; with all mounts below it, when it is recursive. It fails with
// ErrCannot, and names the mount, where a file system does not know how.
func Tree(path string, users *os.File, recursive bool) (*os.File, error) {
	clone, attr := uint(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC), uint(unix.AT_EMPTY_PATH)
	if recursive {
		clone |= unix.AT_RECURSIVE
		attr |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, clone)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	err = unix.MountSetattr(fd, "", attr, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Fd())})
	if err == nil {
		return os.NewFile(uintptr(fd), path), nil
	}
	unix.Close(fd)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return nil, &os.PathError{Op: "mount_setattr", Path: path, Err: err}
	}
	at, kind := culprit(path, users, recursive)
	return nil, fmt.Errorf("the file system at %s (%s) %w", at, kind, ErrCannot)
}

// culprit finds the mount at or below path that cannot be mapped, and the name of its file system.
func culprit(path string, users *os.File, recursive bool) (at, kind string) {
	mounts := below(path)
	if !recursive {
		mounts = mounts[:1]
	}
	for _, m := range mounts[1:] {
		tree, err := Tree(m.at, users, false)
		if err != nil {
			return m.at, m.kind
		}
		tree.Close()
	}
	return path, mounts[0].kind
}

type mount struct{ at, kind string }

// below lists the mount that path lies on, as path, and those below it.
func below(path string) []mount {
	list := []mount{{at: path, kind: "unknown"}}
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return list
	}
	var st unix.Statx_t
	_ = unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st)
	on := fmt.Sprint(st.Mnt_id)
	for line := range strings.Lines(string(raw)) {
		head, tail, _ := strings.Cut(line, " - ")
		fields, kind := strings.Fields(head), strings.Fields(tail)
		if len(fields) < 5 || len(kind) < 1 {
			continue
		}
		if fields[0] == on {
			list[0].kind = kind[0]
		}
		if at := unescape.Replace(fields[4]); strings.HasPrefix(at, strings.TrimSuffix(path, "/")+"/") {
			list = append(list, mount{at, kind[0]})
		}
	}
	return list
}

// unescape reads mountinfo's names (proc_pid_mountinfo(5)).
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
