package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// fill mounts and makes all that can be from outside, and says what is left to the process.
func fill(t *tree, cfg *configs.Config, p *Process, stdio Stdio) (*scene, error) {
	s := &scene{sealed: cfg.Readonlyfs}
	for _, m := range cfg.Mounts {
		if err := t.mount(m); err != nil {
			return nil, err
		}
		switch {
		case m.Device == "proc":
			s.proc.wanted, s.proc.flags, s.proc.data = true, m.Flags, m.Data
		case m.Device == "tmpfs" && m.Flags&unix.MS_RDONLY != 0:
			s.remounts = append(s.remounts, remount{m.Destination, m.Flags})
		}
	}
	if err := t.devices(cfg.Devices); err != nil {
		return nil, err
	}
	if p.Cwd != "" && p.Cwd != "/" {
		fd, err := t.open(p.Cwd, unix.O_PATH, 0)
		if errors.Is(err, unix.ENOENT) && !strings.HasPrefix(filepath.Clean(p.Cwd), "/proc/") {
			fd, err = t.make(p.Cwd, false)
		}
		if err == nil {
			unix.Close(fd)
		} else if !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("mkdir %s: %w", p.Cwd, err)
		}
	}
	env, err := environment(p.Env, func() string { return t.home(p.UID) })
	if err != nil {
		return nil, err
	}
	p.Env = env
	if err := t.cover(s, cfg); err != nil {
		return nil, err
	}
	if stdio.Console != nil {
		s.terminal = &terminal{socket: startFDs, master: rootFD, slave: oldFD, console: startFDs + 1}
	}
	s.null, s.owned, err = stdio.divide(p.UID)
	return s, err
}

// divide says which standard descriptors lead to the node's /dev/null, and which are to become the user's. The user's
// number is the node's.
func (s Stdio) divide(uid uint32) (null, owned []int, err error) {
	if s.Console != nil { // the kernel gives a terminal to who opens it
		return nil, []int{0, 1, 2}, nil
	}
	for fd, f := range s.Files {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return nil, nil, fmt.Errorf("standard descriptor %d: %w", fd, err)
		}
		switch {
		case isNull(&st):
			null = append(null, fd)
		case st.Uid != uid:
			owned = append(owned, fd)
		}
	}
	return null, owned, nil
}

func isNull(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// cover finds what is to be read-only and hidden, and is there. What lies below /proc is the same for all processes:
// it is looked for in the node's own.
func (t *tree) cover(s *scene, cfg *configs.Config) error {
	for _, path := range cfg.ReadonlyPaths {
		flags, ok, err := t.flagsAt(s, path)
		if err != nil {
			return fmt.Errorf("can't make %q read-only: %w", path, err)
		}
		if ok {
			s.readonly = append(s.readonly, readonlyPath{path, flags & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)})
		}
	}
	if len(cfg.MaskPaths) == 0 {
		return nil
	}
	if err := t.checkNull(); err != nil {
		return fmt.Errorf("can't mask paths: %w", err)
	}
	seen := map[string]bool{}
	for _, path := range cfg.MaskPaths {
		clean := filepath.Clean(path)
		if seen[clean] {
			continue
		}
		seen[clean] = true
		st, ok, err := t.stat(path)
		if err != nil {
			return fmt.Errorf("can't mask path %q: %w", path, err)
		}
		if ok {
			s.masked = append(s.masked, maskedPath{path, st.Mode&unix.S_IFMT == unix.S_IFDIR})
		}
	}
	return nil
}

func (t *tree) checkNull() error {
	st, ok, err := t.stat("/dev/null")
	if err == nil && (!ok || !isNull(&st)) {
		err = errors.New("container's /dev/null is invalid")
	}
	return err
}

// ofProc says whether a path is the process's own /proc's.
func ofProc(path string) bool { return strings.HasPrefix(filepath.Clean(path), "/proc/") }

func (t *tree) stat(path string) (st unix.Stat_t, ok bool, err error) {
	if ofProc(path) {
		err = unix.Stat(filepath.Clean(path), &st)
	} else {
		var fd int
		if fd, err = t.open(path, unix.O_PATH, 0); err == nil {
			err = unix.Fstat(fd, &st)
			unix.Close(fd)
		}
	}
	if errors.Is(err, unix.ENOENT) {
		return st, false, nil
	}
	return st, err == nil, err
}

func (t *tree) flagsAt(s *scene, path string) (flags int, ok bool, err error) {
	if _, ok, err = t.stat(path); err != nil || !ok {
		return 0, false, err
	}
	if ofProc(path) {
		return s.proc.flags, true, nil
	}
	fd, err := t.open(path, unix.O_PATH, 0)
	if err != nil {
		return 0, false, err
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return 0, false, err
	}
	return int(fs.Flags), true, nil
}

// environment is complete: each name once, with its last value, and HOME.
func environment(given []string, homeDir func() string) ([]string, error) {
	last := map[string]int{}
	for i, kv := range given {
		name, _, ok := strings.Cut(kv, "=")
		switch {
		case !ok || name == "":
			return nil, fmt.Errorf("invalid environment variable %q: it must be NAME=VALUE", kv)
		case strings.ContainsRune(kv, 0):
			return nil, fmt.Errorf("invalid environment variable %q: contains nul byte (\\x00)", name)
		}
		last[name] = i
	}
	var env []string
	home := false
	for i, kv := range given {
		name, value, _ := strings.Cut(kv, "=")
		if last[name] != i || name == "HOME" && value == "" {
			continue
		}
		home = home || name == "HOME"
		env = append(env, kv)
	}
	if !home {
		env = append(env, "HOME="+homeDir())
	}
	return env, nil
}

// home is a user's home directory, by the container's /etc/passwd.
func (t *tree) home(uid uint32) string {
	fd, err := t.open("/etc/passwd", unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "/"
	}
	f := os.NewFile(uintptr(fd), "passwd")
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "/"
	}
	return HomeIn(f, uid)
}

// HomeIn is a user's home directory by the text of an /etc/passwd; / for a user that it does not name.
func HomeIn(passwd io.Reader, uid uint32) string {
	found, err := user.ParsePasswdFilter(passwd, func(u user.User) bool { return u.Uid == int(uid) })
	if err != nil || len(found) == 0 {
		return "/"
	}
	return found[0].Home
}
