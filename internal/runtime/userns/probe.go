package userns

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Probe finds out whether pods on this machine can have users of their own: a user namespace can be made, the file systems
// of dir and of memory (tmpfs, Linux 6.3) can show their files to its users, and whatever else is asked of it with such a
// namespace. The error says what is missing.
func Probe(dir string, further func(users *os.File) error) error {
	h, err := Hold(&Mapping{IDs{1 << 16, 1 << 16}, IDs{1 << 16, 1 << 16}}, 0)
	if err != nil {
		return fmt.Errorf("this kernel makes no user namespaces here (sysctl user.max_user_namespaces, user_namespaces(7)): %w", err)
	}
	defer h.End()
	users, err := h.Open("user")
	if err != nil {
		return fmt.Errorf("look at a user namespace: %w", err)
	}
	defer users.Close()
	tree, err := Tree(dir, users, false)
	if err != nil {
		return err
	}
	tree.Close()
	if err := probeMemory(users); err != nil {
		return err
	}
	return further(users)
}

// probeMemory tries a file system in memory. It is mounted nowhere, so that nothing of it can be left behind.
func probeMemory(users *os.File) error {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("a file system in memory: %w", os.NewSyscallError("fsopen", err))
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "size", "4k"); err != nil {
		return fmt.Errorf("a file system in memory: %w", os.NewSyscallError("fsconfig", err))
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("a file system in memory: %w", os.NewSyscallError("fsconfig", err))
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("a file system in memory: %w", os.NewSyscallError("fsmount", err))
	}
	defer unix.Close(mount)
	shown := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Fd())}
	if err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, shown); err != nil {
		return fmt.Errorf("the file system of memory (tmpfs) %w: %w", ErrCannot, os.NewSyscallError("mount_setattr", err))
	}
	return nil
}
