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
	"strings"

	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
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
	if err := overlay(root, filepath.Join(dir, upper), w, layers); err != nil {
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

// overlay mounts through the mount API that takes one lower directory at a
// time (Linux 6.8), and through mount(2), whose options are limited to a
// page, where that is missing. The mount is volatile: a container's root is
// not kept over a crash of the machine, so nothing is gained by syncing it.
func overlay(root, upperdir, workdir string, layers []string) error {
	if len(layers) == 0 {
		// An image with no layers has an empty root.
		return unix.Mount(upperdir, root, "", unix.MS_BIND, "")
	}
	err := overlayFS(root, upperdir, workdir, layers)
	if err == nil || !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(layers, ":"), upperdir, workdir)
	if err := unix.Mount("overlay", root, "overlay", 0, opts+",volatile"); err == nil {
		return nil
	}
	return unix.Mount("overlay", root, "overlay", 0, opts)
}

func overlayFS(root, upperdir, workdir string, layers []string) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for _, l := range layers {
		if err := unix.FsconfigSetString(fs, "lowerdir+", l); err != nil {
			return err
		}
	}
	for _, kv := range [][2]string{{"upperdir", upperdir}, {"workdir", workdir}, {"source", "overlay"}} {
		if err := unix.FsconfigSetString(fs, kv[0], kv[1]); err != nil {
			return err
		}
	}
	if err := unix.FsconfigSetFlag(fs, "volatile"); err != nil {
		return err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, root, unix.MOVE_MOUNT_F_EMPTY_PATH)
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
