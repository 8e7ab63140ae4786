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
)

// Names of what Mount makes below a container's directory.
const (
	Rootfs = "rootfs"
	upper  = "upper"
	work   = "work"
)

// Mount mounts the layers, uppermost first, at dir/rootfs, with dir/upper for
// what the container writes. What an earlier mount left in dir/upper is still there.
func Mount(dir string, layers []string) (string, error) {
	root := filepath.Join(dir, Rootfs)
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
	if err := sameMode(filepath.Join(dir, upper), layers); err != nil {
		return "", fmt.Errorf("prepare root file system: %w", err)
	}
	if err := mountLayers(root, filepath.Join(dir, upper), w, layers); err != nil {
		return "", fmt.Errorf("mount root file system: %w", err)
	}
	return root, nil
}

// sameMode gives the upper directory the mode and owner of the image's root,
// because in an overlay the uppermost directory's count.
func sameMode(dir string, layers []string) error {
	if len(layers) == 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(layers[0], &st); err != nil {
		return err
	}
	if err := os.Chown(dir, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(dir, st.Mode&0o7777)
}

// mountLayers mounts at root. The mount is volatile, where the kernel knows that
// (Linux 5.10): a container's root is not kept over a crash of the machine, so
// nothing is gained by syncing it.
func mountLayers(root, upperdir, workdir string, layers []string) error {
	if len(layers) == 0 {
		// An image with no layers has an empty root.
		return unix.Mount(upperdir, root, "", unix.MS_BIND, "")
	}
	stack := overlay.Stack{Lower: layers, Upper: upperdir, Work: workdir, Options: []string{"volatile"}}
	err := stack.Mount(root)
	if errors.Is(err, unix.EINVAL) {
		stack.Options = nil
		err = stack.Mount(root)
	}
	return err
}

// Unmount removes the mount of a container's root, if there is one. What the
// container wrote stays below dir.
func Unmount(dir string) error {
	err := unix.Unmount(filepath.Join(dir, Rootfs), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
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
