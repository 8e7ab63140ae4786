package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/system"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/launch"
)

// ErrNotRunning says that a container has no process to join.
var ErrNotRunning = errors.New("container is not running")

// Exec runs a further process in a running container: same user, environment,
// capabilities and limits as its first one. dir is the container's directory,
// where SaveProcess has been. The process is our child; reap it through Wait.
func Exec(root, id, dir string, args []string, tty bool, stdio Stdio) (*Process, error) {
	return execute(root, id, dir, args, tty, stdio, launch.MisfitToJoin)
}

// execute leaves to libcontainer what misfit gives a reason for.
func execute(root, id, dir string, args []string, tty bool, stdio Stdio, misfit func(*configs.Config) string) (*Process, error) {
	var ps specs.Process
	raw, err := os.ReadFile(filepath.Join(dir, processSpec))
	if err == nil {
		err = json.Unmarshal(raw, &ps)
	}
	if err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	ps.Args = args
	if tty && !slices.ContainsFunc(ps.Env, func(kv string) bool { return strings.HasPrefix(kv, "TERM=") }) {
		ps.Env = append(ps.Env, "TERM=xterm")
	}
	st, err := readState(root, id)
	if err != nil {
		return nil, err
	}
	if ps.ApparmorProfile != "" || ps.SelinuxLabel != "" || misfit(&st.Config) != "" {
		return execByLibcontainer(root, id, process(&ps, stdio))
	}
	return join(st, &ps, stdio)
}

// readState reads what is recorded of a container.
func readState(root, id string) (*libcontainer.State, error) {
	raw, err := os.ReadFile(filepath.Join(root, id, "state.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotRunning
	}
	var st libcontainer.State
	if err == nil {
		err = json.Unmarshal(raw, &st)
	}
	if err != nil {
		return nil, fmt.Errorf("exec: state of container %s: %w", id, err)
	}
	return &st, nil
}

// join starts a process in a container by package launch.
func join(st *libcontainer.State, ps *specs.Process, stdio Stdio) (*Process, error) {
	first, err := firstProcess(st)
	if err != nil {
		return nil, err
	}
	defer first.Close()
	p, err := launched(&st.Config, ps)
	if err != nil {
		return nil, err
	}
	files, done, err := launchStdio(stdio)
	if err != nil {
		return nil, err
	}
	defer done()
	room := launch.Room{ID: st.ID, Cfg: &st.Config, Init: first.f, Home: func() string { return home(st.InitProcessPid, p.UID) }}
	pid, err := launch.Join(room, p, files, func(pid int) error { return joinGroups(st, pid) })
	switch {
	case err != nil && readable(int(first.f.Fd())): // not reaped here: how it ended is for another to hear
		return nil, fmt.Errorf("%w any more: %w", ErrNotRunning, err)
	case err != nil:
		return nil, startError(err)
	}
	running, err := Open(pid)
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		return nil, errors.Join(fmt.Errorf("exec: %w", err), launch.Reap(pid))
	}
	return running, nil
}

// firstProcess opens the container's first process: that very one, and not another that has its number by now.
func firstProcess(st *libcontainer.State) (*Process, error) {
	p, err := Open(st.InitProcessPid)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // EINVAL: a thread has its number
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	stat, err := system.Stat(st.InitProcessPid)
	if err != nil || stat.StartTime != st.InitProcessStartTime || stat.State == system.Zombie || stat.State == system.Dead {
		p.Close()
		return nil, ErrNotRunning
	}
	return p, nil
}

// joinGroups puts a process into the cgroups of a container's. On cgroup v2 a container may have made its own group an
// inner one, which takes no processes: then it is that of the container's first process.
func joinGroups(st *libcontainer.State, pid int) error {
	err := enterGroups(st.CgroupPaths, pid)
	if err == nil || !cgroup.V2() || errors.Is(err, unix.EAGAIN) {
		return err
	}
	now, perr := cgroups.ParseCgroupFile(fmt.Sprintf("/proc/%d/cgroup", st.InitProcessPid))
	if perr != nil || now[""] == "" {
		return err
	}
	return enterGroups(map[string]string{"": filepath.Join("/sys/fs/cgroup", now[""])}, pid)
}

// home is a user's home directory, by the /etc/passwd that the container of a process has now.
func home(init int, uid uint32) string {
	passwd := namesIn(fmt.Sprintf("/proc/%d/root", init), "etc/passwd")
	if passwd == nil {
		return "/"
	}
	defer passwd.Close()
	return launch.HomeIn(reader(passwd), uid)
}

func execByLibcontainer(root, id string, p *libcontainer.Process) (running *Process, err error) {
	c, err := libcontainer.Load(root, id)
	if errors.Is(err, libcontainer.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	err = reaping(func() error {
		if err := c.Run(p); err != nil {
			return startError(err)
		}
		pid, err := p.Pid()
		if err == nil {
			running, err = Open(pid)
		}
		if err != nil {
			return fmt.Errorf("exec: %w", err)
		}
		return nil
	})
	return running, err
}
