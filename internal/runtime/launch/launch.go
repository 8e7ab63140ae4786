package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// Steps are what the caller does meanwhile. An error of theirs ends the start.
type Steps struct {
	// Group makes the container's cgroups, with their limits: before mounts show them.
	Group func() error
	// Enter puts the process into them. It has done nothing yet.
	Enter func(pid int) error
	// Begin is the last moment before the process goes on by itself: all is mounted, below root as the calling thread
	// sees it. When it returns the process must be one that a later runtime would find.
	Begin func(pid int, root string) error
}

// Stdio are the process's standard input and output.
type Stdio struct {
	Files [3]*os.File
	// Console, when set, is a socket. The process then has a new terminal of the container's for all three, whose master is
	// sent over it.
	Console *os.File
}

// numbers are descriptors for a process that is passed so many, before the console's.
func (s Stdio) numbers(passed int) []uintptr {
	files := make([]uintptr, passed)
	for i, f := range s.Files {
		files[i] = f.Fd()
	}
	if s.Console != nil {
		files = append(files, s.Console.Fd())
	}
	return files
}

// Start makes a container's namespaces and its first process, and returns the process's number once it is the command.
// The process is a child of ours, for the caller to reap. When Start fails there is none.
//
// The caller has asked Misfit.
//
// With a console the descriptors of stdio are the process's until it has its terminal.
func Start(id string, cfg *configs.Config, p *Process, stdio Stdio, steps Steps) (pid int, err error) {
	var began *child
	Apart(func() { began, err = build(id, cfg, p, stdio, steps) })
	if err != nil {
		return 0, err
	}
	return began.pid, began.outcome(p)
}

// Apart runs something on a thread of the runtime's that ends with it, and so may be spent in other namespaces. It is not
// the main thread, which takes over the children of each thread that ends.
func Apart(do func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()              // never unlocked: the thread ends with its goroutine
		if unix.Gettid() == unix.Getpid() { // the main thread could not end: it waits, and another is taken
			Apart(do)
			runtime.UnlockOSThread()
			close(done)
			return
		}
		defer close(done)
		do()
	}()
	<-done
}

// build does all that is done from outside, and lets the process go.
func build(id string, cfg *configs.Config, p *Process, stdio Stdio, steps Steps) (_ *child, err error) {
	if err := steps.Group(); err != nil {
		return nil, err
	}
	if err := enter(cfg); err != nil {
		return nil, err
	}
	if err := keyring(id); err != nil {
		return nil, err
	}
	t, err := openTree(cfg)
	if err != nil {
		return nil, err
	}
	defer t.close()
	s, err := fill(t, cfg, p, stdio)
	if err != nil {
		return nil, err
	}
	c, err := t.spawn(cfg, p, s, stdio)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.end()
		}
	}()
	if err := steps.Enter(c.pid); err != nil {
		return nil, err
	}
	if err := settle(c.pid, cfg); err != nil {
		return nil, err
	}
	if err := steps.Begin(c.pid, t.root); err != nil {
		return nil, err
	}
	return c, c.begin()
}

// enter joins the pod's namespaces, and makes a mount namespace. A PID namespace is entered by children only
// (setns(2), pid_namespaces(7)).
func enter(cfg *configs.Config) error {
	for _, ns := range cfg.Namespaces {
		if ns.Path == "" {
			continue
		}
		fd, err := unix.Open(ns.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open namespace %s: %w", ns.Type, err)
		}
		err = unix.Setns(fd, ns.Syscall())
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("join namespace %s: %w", ns.Type, err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	unix.Umask(0) // this thread's: modes are those that are asked for
	return nil
}

// keyring gives the thread, and so its child, a session keyring that is not the runtime's (keyrings(7)).
func keyring(id string) error {
	const search = 0x80000 // for the keyring's user
	ring, err := unix.KeyctlJoinSessionKeyring("_ses." + id)
	if errors.Is(err, unix.ENOSYS) {
		return nil
	}
	var text string
	if err == nil {
		text, err = unix.KeyctlString(unix.KEYCTL_DESCRIBE, ring)
	}
	if err != nil {
		return fmt.Errorf("session keyring: %w", err)
	}
	fields := strings.Split(text, ";") // TYPE;UID;GID;PERM;DESCRIPTION
	if len(fields) < 5 {
		return fmt.Errorf("session keyring: its description is %q", text)
	}
	perm, err := strconv.ParseUint(fields[3], 16, 32)
	if err == nil {
		err = unix.KeyctlSetperm(ring, uint32(perm)|search)
	}
	if err != nil {
		return fmt.Errorf("session keyring: %w", err)
	}
	return nil
}

// child is the process on its way.
type child struct {
	pid   int
	sync  *os.File
	calls []call
}

// spawn starts a process that does a list. Files are its descriptors; that of syncFD is made here.
func spawn(list *builder, files []uintptr, flags uintptr) (*child, error) {
	raw, err := encode(list)
	if err == nil {
		raw, err = executable(raw)
	}
	if err != nil {
		return nil, err
	}
	program, err := sealed("coracle-init", raw)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket to the process: %w", err)
	}
	defer unix.Close(pair[1])
	files[syncFD] = uintptr(pair[1])
	attr := &syscall.ProcAttr{
		Dir: "/", Env: []string{}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true, Cloneflags: flags},
	}
	pid, err := execute(program, attr)
	if err != nil {
		unix.Close(pair[0])
		return nil, fmt.Errorf("start the process: %w", err)
	}
	return &child{pid: pid, sync: os.NewFile(uintptr(pair[0]), "sync"), calls: list.calls}, nil
}

// spawn starts the container's first process, which waits.
func (t *tree) spawn(cfg *configs.Config, p *Process, s *scene, stdio Stdio) (*child, error) {
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the node's root: %w", err)
	}
	defer unix.Close(old)
	files := stdio.numbers(startFDs)
	files[rootFD], files[oldFD] = uintptr(t.fd), uintptr(old)
	var flags uintptr
	if private(cfg, configs.NEWPID) {
		flags = unix.CLONE_NEWPID
	}
	c, err := spawn(listOf(p, s), files, flags)
	runtime.KeepAlive(stdio)
	return c, err
}

// begin gives the process the word to begin.
func (c *child) begin() error {
	if _, err := c.sync.Write([]byte{1}); err != nil {
		return fmt.Errorf("let the process begin: %w", err)
	}
	return nil
}

// settle sets what only others can set of the process.
func settle(pid int, cfg *configs.Config) error {
	var all unix.CPUSet
	for i := range len(all) * 64 {
		all.Set(i)
	}
	_ = unix.SchedSetaffinity(pid, &all) // the runtime's own bounds are not the container's, its cgroup's are
	for _, r := range cfg.Rlimits {
		if err := unix.Prlimit(pid, r.Type, &unix.Rlimit{Cur: r.Soft, Max: r.Hard}, nil); err != nil {
			return fmt.Errorf("set rlimit %d: %w", r.Type, err)
		}
	}
	if cfg.OomScoreAdj == nil {
		return nil
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(*cfg.OomScoreAdj)), 0); err != nil {
		return fmt.Errorf("set oom_score_adj: %w", err)
	}
	return nil
}

// outcome waits until the process is the command, or has said why not.
func (c *child) outcome(p *Process) error {
	defer c.sync.Close()
	report := make([]byte, reportSize)
	_, err := io.ReadFull(c.sync, report)
	if errors.Is(err, io.EOF) {
		return nil // closed by execve(2)
	}
	defer c.end()
	if err != nil {
		return fmt.Errorf("hear of the process: %w", err)
	}
	return c.reported(report, p)
}

// reported is the error that a process tells of.
func (c *child) reported(report []byte, p *Process) error {
	at, errno := binary.NativeEndian.Uint64(report), unix.Errno(binary.NativeEndian.Uint64(report[8:]))
	if at >= uint64(len(c.calls)) {
		return fmt.Errorf("the process failed at step %d: %w", at, errno)
	}
	return failure(c.calls[at].what, errno, p)
}

// failure words the end of a start as Go's os/exec does where it is the command's: others read it.
func failure(what string, errno unix.Errno, p *Process) error {
	name := p.Args[0]
	switch {
	case what == searching && (errno == unix.EACCES):
		return fmt.Errorf("exec: %q: %w", name, errno)
	case what == searching:
		return fmt.Errorf("exec: %q: executable file not found in $PATH", name)
	case what == executing:
		return fmt.Errorf("exec %s: %w", name, errno)
	}
	return fmt.Errorf("%s: %w", what, errno)
}

// end kills the process and waits for its end.
func (c *child) end() {
	_ = unix.Kill(c.pid, unix.SIGKILL)
	_ = Reap(c.pid)
	c.sync.Close()
}

// Reap waits for the end of a child of ours, however it was made.
func Reap(pid int) error {
	for {
		if _, err := unix.Wait4(pid, nil, unix.WALL, nil); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
