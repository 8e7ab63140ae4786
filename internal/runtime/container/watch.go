package container

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// Process is a handle on a container's process that outlives it: a pidfd.
// Where the kernel can (6.14 and later), the handle is pinned in the file
// system, so that a restarted runtime gets the very process back and, from
// 6.15 on, the exit status of one that died in between.
type Process struct {
	pid int
	f   *os.File
}

// Status is how a process ended.
type Status struct {
	// Code is the exit code, or 128 plus the signal.
	Code int32
	// Signal that killed the process, or 0.
	Signal unix.Signal
	// Lost says that the process ended while no runtime was watching, on a
	// kernel that does not keep the status; Code is then 255.
	Lost bool
	At   time.Time
}

// Open opens a handle on a process that is running or not yet reaped.
func Open(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	return &Process{pid: pid, f: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// Pin mounts the handle at path, which it makes. It fails with an error that
// is errors.ErrUnsupported on kernels before 6.14.
func (p *Process) Pin(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return fmt.Errorf("pin process: %w", err)
	}
	f.Close()
	tree, err := unix.OpenTree(int(p.f.Fd()), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		err = unix.MoveMount(tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
		unix.Close(tree)
	}
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("pin process: %w: %w", errors.ErrUnsupported, err)
	}
	return nil
}

// Pinned opens the handle pinned at path. It fails with os.ErrNotExist when
// none is pinned there.
func Pinned(path string) (*Process, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil, fmt.Errorf("open pinned process: %w", err)
	}
	if st.Type != unix.PID_FS_MAGIC {
		return nil, fmt.Errorf("open pinned process: %w", os.ErrNotExist)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open pinned process: %w", err)
	}
	return &Process{f: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// Unpin removes a pin. It succeeds when there is none.
func Unpin(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unpin process: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin process: %w", err)
	}
	return nil
}

// Close closes the handle; the process goes on.
func (p *Process) Close() error { return p.f.Close() }

// Signal sends a signal. It fails with os.ErrProcessDone when the process has ended.
func (p *Process) Signal(sig unix.Signal) error {
	var err error
	conn, cerr := p.f.SyscallConn()
	if cerr != nil {
		return cerr
	}
	cerr = conn.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return errors.Join(err, cerr)
}

// Poll says whether the process has ended, and how, without waiting.
func (p *Process) Poll() (Status, bool) {
	conn, err := p.f.SyscallConn()
	if err != nil {
		return Status{}, false
	}
	var st Status
	var ended bool
	_ = conn.Control(func(fd uintptr) { st, ended = exitStatus(int(fd), p.pid) })
	st.At = time.Now()
	return st, ended
}

// Wait blocks, without holding a thread, until the process has ended, reaps
// it if it is our child, and says how it ended.
func (p *Process) Wait() (Status, error) {
	conn, err := p.f.SyscallConn()
	if err != nil {
		return Status{}, err
	}
	var st Status
	err = conn.Read(func(fd uintptr) bool {
		var ended bool
		st, ended = exitStatus(int(fd), p.pid)
		return ended
	})
	st.At = time.Now()
	return st, err
}

// exitStatus asks without waiting. Of three sources the first that knows
// answers: waitid for a child, the kernel's memory of a reaped process, and
// /proc for one whose new parent has not reaped it yet.
func exitStatus(fd, pid int) (Status, bool) {
	if st, ended, child := reap(fd); child {
		return st, ended
	}
	in, err := pidfdInfo(fd)
	if err == nil && in.mask&pidfdInfoExit != 0 {
		return decode(unix.WaitStatus(in.exitCode)), true
	}
	if err == nil {
		pid = int(in.pid)
	}
	if !readable(fd) {
		return Status{}, false
	}
	if ws, ok := zombieStatus(pid); ok {
		return decode(ws), true
	}
	if in, err := pidfdInfo(fd); err == nil && in.mask&pidfdInfoExit != 0 {
		return decode(unix.WaitStatus(in.exitCode)), true
	}
	return Status{Code: 255, Lost: true}, true
}

func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// reap collects a child that has ended; child is false when it is not ours.
func reap(fd int) (st Status, ended, child bool) {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PIDFD, fd, &info, unix.WEXITED|unix.WNOHANG, nil)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return Status{}, false, true
		case nil:
		default:
			return Status{}, false, false
		}
		break
	}
	// struct siginfo for SIGCHLD: pid, uid and status follow the common head.
	raw := (*[128]byte)(unsafe.Pointer(&info))
	pid := *(*int32)(unsafe.Pointer(&raw[16]))
	status := *(*int32)(unsafe.Pointer(&raw[24]))
	if pid == 0 {
		return Status{}, false, true
	}
	if info.Code == cldExited {
		return Status{Code: status & 0xff}, true, true
	}
	return Status{Code: 128 + status, Signal: unix.Signal(status)}, true, true
}

const cldExited = 1

func decode(ws unix.WaitStatus) Status {
	if ws.Signaled() {
		return Status{Code: 128 + int32(ws.Signal()), Signal: ws.Signal()}
	}
	return Status{Code: int32(ws.ExitStatus())}
}

// zombieStatus reads the exit status of a process that nobody has reaped yet.
func zombieStatus(pid int) (unix.WaitStatus, bool) {
	if pid <= 0 {
		return 0, false
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The second field is the command in parentheses, which may hold anything.
	_, rest, ok := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 50 || fields[0] != "Z" {
		return 0, false
	}
	code, err := strconv.ParseUint(fields[49], 10, 32)
	if err != nil {
		return 0, false
	}
	return unix.WaitStatus(code), true
}

// info is struct pidfd_info of linux/pidfd.h.
type info struct {
	mask, cgroup          uint64
	pid, tgid, ppid       uint32
	ruid, rgid, euid      uint32
	egid, suid, sgid      uint32
	fsuid, fsgid          uint32
	exitCode              int32
	coredumpMask, padding uint32
}

const (
	pidfdInfoPid  = 1 << 0
	pidfdInfoExit = 1 << 3
	// _IOWR(0xFF, 11, struct pidfd_info); the size is part of the number, and
	// the kernel accepts every size from the first version's 64 bytes up.
	pidfdGetInfo = 3<<30 | unsafe.Sizeof(info{})<<16 | 0xFF<<8 | 11
)

func pidfdInfo(fd int) (info, error) {
	in := info{mask: pidfdInfoPid | pidfdInfoExit}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pidfdGetInfo, uintptr(unsafe.Pointer(&in)))
	if e != 0 {
		return in, e
	}
	return in, nil
}

// Reopen opens a handle on a container's process by its pid, on kernels that
// pin none. It fails when the process is gone, or the pid another's by now.
func Reopen(root, id string, pid int) (*Process, error) {
	p, err := Open(pid)
	if err != nil {
		return nil, err
	}
	c, err := libcontainer.Load(root, id)
	if err == nil {
		var st libcontainer.Status
		// Status compares the start time of the process with the one recorded.
		if st, err = c.Status(); err == nil && st == libcontainer.Stopped {
			err = os.ErrProcessDone
		}
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("reopen process %d: %w", pid, err)
	}
	return p, nil
}
