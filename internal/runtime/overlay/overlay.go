// Package overlay mounts directories upon one another (overlayfs).
//
// It owns how the kernel is told of the directories: by descriptors, never by
// name, for in overlayfs's options a colon, a comma and a backslash mean
// something (Documentation/filesystems/overlayfs.rst), a value is cut at 255
// bytes and all of them at a page. It makes and removes no directory, and knows
// neither images nor containers.
package overlay

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"coracle/internal/runtime/userns"
)

// Stack is what is mounted.
type Stack struct {
	// Lower are the directories that are only read, the uppermost first: at least one.
	Lower []string
	// Upper gets what is written, and Work, on the same file system, is the
	// kernel's own and empty. Without them nothing can be written.
	Upper, Work string
	// Options are further ones, each NAME or NAME=VALUE.
	Options []string
	// Users, when set, is a user namespace to whose users the files of the lower directories belong, by the ids that they
	// have on disk (idmapped layers, Linux 5.19). What is written has the ids that the writer has on the node.
	Users *os.File
}

// Mount mounts the stack at a directory. The stack's directories may be called anything.
func (s Stack) Mount(at string) error {
	dirs, err := s.open()
	defer dirs.close()
	if err == nil {
		err = dirs.mountNew(at, s.Options)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
			err = dirs.mountOld(at, s.Options)
		}
	}
	if err != nil {
		return fmt.Errorf("mount overlay at %s: %w", at, err)
	}
	return nil
}

// dir is a directory of a stack, by the name of the option that tells of it.
type dir struct {
	option string
	f      *os.File
}

// name is a path that leads to the directory while its descriptor is open.
func (d dir) name() string { return fmt.Sprintf("/proc/self/fd/%d", d.f.Fd()) }

// dirs are the directories of a stack: the lower ones first.
type dirs []dir

const lower = "lowerdir"

func (s Stack) open() (list dirs, err error) {
	add := func(option, path string) {
		if err != nil || path == "" {
			return
		}
		var f *os.File
		if f, err = os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0); err == nil {
			list = append(list, dir{option, f})
		}
	}
	for _, l := range s.Lower {
		if s.Users == nil || err != nil {
			add(lower, l)
			continue
		}
		var f *os.File
		if f, err = userns.Tree(l, s.Users, false); err == nil {
			list = append(list, dir{lower, f})
		}
	}
	add("upperdir", s.Upper)
	add("workdir", s.Work)
	return list, err
}

func (l dirs) close() {
	for _, d := range l {
		d.f.Close()
	}
}

// mountNew mounts through the mount API that takes one lower directory at a time
// (Linux 6.8): by descriptor (6.13), or by the descriptor's name.
func (l dirs) mountNew(at string, options []string) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for _, d := range l {
		option := d.option
		if option == lower {
			option += "+"
		}
		if unix.FsconfigSetFd(fs, option, int(d.f.Fd())) == nil {
			continue
		}
		if err := unix.FsconfigSetString(fs, option, d.name()); err != nil {
			return err
		}
	}
	if err := unix.FsconfigSetString(fs, "source", "overlay"); err != nil {
		return err
	}
	for _, o := range options {
		if name, value, ok := strings.Cut(o, "="); ok {
			err = unix.FsconfigSetString(fs, name, value)
		} else {
			err = unix.FsconfigSetFlag(fs, name)
		}
		if err != nil {
			return err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// mountOld mounts through mount(2), which cuts options at a page without a word.
func (l dirs) mountOld(at string, options []string) error {
	var lowers, rest []string
	for _, d := range l {
		if d.option == lower {
			lowers = append(lowers, d.name())
		} else {
			rest = append(rest, d.option+"="+d.name())
		}
	}
	text := strings.Join(append(append([]string{lower + "=" + strings.Join(lowers, ":")}, rest...), options...), ",")
	if len(text) >= os.Getpagesize() {
		return fmt.Errorf("%d directories are more than this kernel takes (Linux 6.8 and later take 500): %w", len(lowers), unix.E2BIG)
	}
	return unix.Mount("overlay", at, "overlay", 0, text)
}
