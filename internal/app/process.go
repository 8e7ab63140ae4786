package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A process of the cluster holds a lock on its lock file for as long as it lives: the kernel
// lets go of it however the process ends, so a stale pid can never be mistaken for a live one.

const (
	// lockFD is the inherited, already locked lock file; readyFD is where a process reports
	// "ready" or why it cannot be.
	lockFD  = 3
	readyFD = 4
	// spawnedEnv tells a process that the two descriptors are there.
	spawnedEnv = "CORACLE_SPAWNED"
)

var errRunning = errors.New("already running")

// takeLock locks a process's lock file, or returns errRunning.
func takeLock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errRunning
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

func writePID(f *os.File, pid int) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(pid)+"\n"), 0)
	return err
}

// runningPID returns the pid of the process that holds the lock, or 0.
func runningPID(path string) int {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err == nil {
		return 0
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
	return pid
}

// child is a process that was started and has not yet said that it is ready.
type child struct {
	name  string
	pid   int
	log   string
	ready *os.File
}

// spawn starts a role of this binary in a session of its own, its output in its log file.
func spawn(dir DataDir, name string, args ...string) (*child, error) {
	return spawnWith(dir, name, nil, args...)
}

// spawnWith is spawn of a role that inherits the socket at which it listens.
func spawnWith(dir DataDir, name string, listener *os.File, args ...string) (*child, error) {
	lock, err := takeLock(dir.Lock(name))
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer lock.Close()
	logPath := dir.Log(name)
	if err := os.MkdirAll(filepath.Dir(logPath), 0o755); err != nil {
		return nil, err
	}
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer write.Close()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{lock, write}
	cmd.Env = append(os.Environ(), spawnedEnv+"=1")
	if listener != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, listener)
		cmd.Env = append(cmd.Env, listenEnv+"=1")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		read.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := writePID(lock, cmd.Process.Pid); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go cmd.Wait() //nolint:errcheck // reaped only; readiness and the lock say how it fares
	return &child{name: name, pid: cmd.Process.Pid, log: logPath, ready: read}, nil
}

// wait returns when the process says it is ready, ends, or ctx does.
func (c *child) wait(ctx context.Context) error {
	defer c.ready.Close()
	stop := context.AfterFunc(ctx, func() { c.ready.SetReadDeadline(time.Unix(1, 0)) }) //nolint:errcheck
	defer stop()
	line, err := bufio.NewReader(c.ready).ReadString('\n')
	line = strings.TrimSpace(line)
	switch {
	case line == "ready":
		return nil
	case line != "":
		return fmt.Errorf("%s: %s", c.name, line)
	case ctx.Err() != nil:
		return fmt.Errorf("%s is not ready: %w (its log: %s)", c.name, context.Cause(ctx), c.log)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%s ended before it was ready (its log: %s)%s", c.name, c.log, lastLine(c.log))
	}
	return fmt.Errorf("%s: %w", c.name, err)
}

func lastLine(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return ": " + last
	}
	return ""
}

// presence is this process's place among the cluster's processes.
type presence struct {
	lock  *os.File
	ready *os.File
}

// present takes the process's lock, or the one its starter took for it.
func present(dir DataDir, name string) (*presence, error) {
	if os.Getenv(spawnedEnv) != "" {
		os.Unsetenv(spawnedEnv)
		unix.CloseOnExec(lockFD)
		unix.CloseOnExec(readyFD)
		return &presence{os.NewFile(lockFD, "lock"), os.NewFile(readyFD, "ready")}, nil
	}
	lock, err := takeLock(dir.Lock(name))
	if errors.Is(err, errRunning) {
		return nil, fmt.Errorf("%s of %s is already running (pid %d): see `coracle status --data-dir %s`", name, dir, runningPID(dir.Lock(name)), dir)
	}
	if err != nil {
		return nil, err
	}
	return &presence{lock: lock}, writePID(lock, os.Getpid())
}

// report tells the starter "ready", or why not.
func (p *presence) report(err error) {
	if p.ready == nil {
		return
	}
	line := "ready"
	if err != nil {
		line = strings.ReplaceAll(err.Error(), "\n", " ")
	}
	fmt.Fprintln(p.ready, line)
	p.ready.Close()
	p.ready = nil
}

// stopProcess asks a process to end and waits until its lock is free; after the grace it is
// killed. It reports whether there was one.
func stopProcess(lockPath string, grace time.Duration) (bool, error) {
	pid := runningPID(lockPath)
	if pid == 0 {
		return false, nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	// The pid may have been given to another process between the two calls; the lock tells.
	if runningPID(lockPath) != pid {
		return false, nil
	}
	for _, step := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{{unix.SIGTERM, grace}, {unix.SIGKILL, 5 * time.Second}} {
		if err := unix.PidfdSendSignal(fd, step.signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return true, fmt.Errorf("signal process %d: %w", pid, err)
		}
		if ended(fd, step.wait) {
			return true, nil
		}
	}
	return true, fmt.Errorf("process %d does not end", pid)
}

// ended waits until the process behind a pidfd has ended, or the time is over.
func ended(pidfd int, wait time.Duration) bool {
	deadline := time.Now().Add(wait)
	for {
		left := time.Until(deadline)
		if left < 0 {
			left = 0
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && n > 0
	}
}
