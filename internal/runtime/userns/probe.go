package userns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
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
	if err := probeMemory(dir, users); err != nil {
		return err
	}
	return further(users)
}

// probeMemory tries a file system in memory, which is mounted for that moment in dir.
func probeMemory(dir string, users *os.File) (err error) {
	at := filepath.Join(dir, fmt.Sprintf("probe-%d", os.Getpid()))
	if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	defer func() { err = errors.Join(err, filetree.Dismantle(at)) }()
	if err := unix.Mount("probe", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=4k,mode=700"); err != nil {
		return fmt.Errorf("mount a file system in memory: %w", err)
	}
	tree, err := Tree(at, users, false)
	if err != nil {
		return err
	}
	return tree.Close()
}
