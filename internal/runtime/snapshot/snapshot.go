// Package snapshot gives a container its root file system: an overlay of the
// image's unpacked layers and a directory of the container's own.
//
// It owns the mount and the container's upper directory, and refuses to know
// images or containers: it is given directories.
package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
	"coracle/internal/runtime/overlay"
	"coracle/internal/runtime/userns"
)

// Names of what Mount makes below a container's directory.
const (
	Rootfs = "rootfs"
	upper  = "upper"
	work   = "work"
)

// Users are those of the pod whose root file system is mounted, when they are not the node's.
type Users struct {
	// Namespace is the pod's user namespace.
	Namespace *os.File
	// IDs are what its users and groups are on the node.
	IDs userns.Mapping
}

// Mount mounts the layers, uppermost first, at dir/rootfs, with dir/upper for
// what the container writes. What an earlier mount left in dir/upper is still there.
func Mount(dir string, layers []string) (string, error) {
	return MountAt(filepath.Join(dir, Rootfs), dir, layers, nil)
}

// MountAt is Mount at another directory. With users, the image's files are theirs, by the ids that they have in the image;
// what they write is on disk what they are on the node.
func MountAt(root, dir string, layers []string, users *Users) (string, error) {
	for _, d := range []string{root, filepath.Join(dir, upper)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", fmt.Errorf("prepare root file system: %w", err)
		}
	}
	// A volatile overlay that was not unmounted cleanly refuses its old work directory.
	w := filepath.Join(dir, work)
	if err := filetree.Remove(w); err != nil {
		return "", fmt.Errorf("prepare root file system: %w", err)
	}
	if err := os.Mkdir(w, 0o711); err != nil {
		return "", fmt.Errorf("prepare root file system: %w", err)
	}
	if err := sameMode(filepath.Join(dir, upper), layers, users); err != nil {
		return "", fmt.Errorf("prepare root file system: %w", err)
	}
	if err := mountLayers(root, filepath.Join(dir, upper), w, layers, users); err != nil {
		return "", fmt.Errorf("mount root file system: %w", err)
	}
	return root, nil
}

// sameMode gives the upper directory the mode and owner of the image's root,
// because in an overlay the uppermost directory's count.
func sameMode(dir string, layers []string, users *Users) error {
	st := unix.Stat_t{Mode: 0o755}
	if len(layers) > 0 {
		if err := unix.Stat(layers[0], &st); err != nil {
			return err
		}
	}
	uid, gid := st.Uid, st.Gid
	if users != nil {
		uid, gid = users.IDs.Root()
		if id, ok := users.IDs.Users.Host(st.Uid); ok {
			uid = id
		}
		if id, ok := users.IDs.Groups.Host(st.Gid); ok {
			gid = id
		}
	}
	if err := os.Chown(dir, int(uid), int(gid)); err != nil {
		return err
	}
	return unix.Chmod(dir, st.Mode&0o7777)
}

// mountLayers mounts at root. The mount is volatile, where the kernel knows that
// (Linux 5.10): a container's root is not kept over a crash of the machine, so
// nothing is gained by syncing it.
func mountLayers(root, upperdir, workdir string, layers []string, users *Users) error {
	if len(layers) == 0 {
		// An image with no layers has an empty root.
		return unix.Mount(upperdir, root, "", unix.MS_BIND, "")
	}
	stack := overlay.Stack{Lower: layers, Upper: upperdir, Work: workdir, Options: []string{"volatile"}}
	if users != nil {
		stack.Users = users.Namespace
	}
	err := stack.Mount(root)
	if errors.Is(err, unix.EINVAL) {
		stack.Options = nil
		err = stack.Mount(root)
	}
	return err
}

// Unmount removes the mount of a container's root, if there is one. What the
// container wrote stays below dir.
func Unmount(dir string) error { return UnmountAt(filepath.Join(dir, Rootfs)) }

// UnmountAt removes what MountAt mounted at root, if there is anything.
func UnmountAt(root string) error {
	err := unix.Unmount(root, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount root file system: %w", err)
	}
	return nil
}

// Usage counts the bytes and inodes a container has written to its root. Meanwhile the container writes on. What it nests
// too deep to be looked at is not counted.
func Usage(dir string) (bytes, inodes uint64) {
	seen := map[uint64]bool{}
	_ = filetree.Survey(filepath.Join(dir, upper), func(e *filetree.Entry) error {
		if e.Stat.Nlink > 1 && !e.IsDir() {
			if seen[e.Stat.Ino] {
				return nil
			}
			seen[e.Stat.Ino] = true
		}
		bytes += uint64(e.Stat.Blocks) * 512
		inodes++
		return nil
	})
	return bytes, inodes
}
