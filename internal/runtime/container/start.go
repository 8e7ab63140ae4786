package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	_ "github.com/opencontainers/cgroups/devices" // the manager of device rules
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"coracle/internal/filetree"
	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/launch"
)

// Stdio are the files a container's process gets as its standard input and
// output. With Console set, the process gets a new terminal instead, whose
// master is sent over that socket.
type Stdio struct {
	In, Out, Err *os.File
	Console      *os.File
}

// Start makes the container id under libcontainer's root, runs its process
// and returns the process's pid. The process is a child of ours until we die;
// it must be reaped through Watch. Reached, when set, is told the points that a start passes which the caller does not see: a
// runtime may die at each of them.
func Start(root, id string, s *specs.Spec, stdio Stdio, reached func(string)) (int, error) {
	return start(root, id, s, stdio, reached, launch.Misfit)
}

// start leaves to libcontainer what misfit gives a reason for.
func start(root, id string, s *specs.Spec, stdio Stdio, reached func(string), misfit func(*configs.Config) string) (int, error) {
	cfg, err := configuration(id, s)
	if err != nil {
		return 0, fmt.Errorf("container configuration: %w", err)
	}
	held, err := holdNamespaces(cfg)
	defer held.close()
	if err != nil {
		return 0, err
	}
	// A leftover of a start that a crash cut short.
	if err := Discard(root, id, s.Linux.CgroupsPath); err != nil {
		return 0, err
	}
	if misfit(cfg) == "" {
		pid, err := startLaunched(root, id, cfg, s, stdio, reached)
		if err != nil {
			_ = Discard(root, id, s.Linux.CgroupsPath)
			return 0, startError(err)
		}
		return pid, nil
	}
	if reached != nil { // before libcontainer writes a state from which the container could be found
		hook := configs.NewFunctionHook(func(*specs.State) error { reached(madeGroups); return nil })
		cfg.Hooks = configs.Hooks{configs.CreateRuntime: {hook}}
	}
	c, err := libcontainer.Create(root, id, cfg)
	if err != nil {
		return 0, fmt.Errorf("create container: %w", err)
	}
	p := process(s.Process, stdio)
	p.Init = true
	if err := reaping(func() error { return run(c, p, s.Annotations[SourcesAnnotation]) }); err != nil {
		_ = Discard(root, id, s.Linux.CgroupsPath)
		return 0, startError(err)
	}
	return p.Pid()
}

// Points that a start passes: the container has its cgroups; its process is in them and waits; it could be found by its
// state, and is about to begin.
const (
	madeGroups = "container's cgroup made"
	waits      = "container's process waits"
	recorded   = "container's state written"
)

// files are held open for a while.
type files []*os.File

func (l files) close() {
	for _, f := range l {
		f.Close()
	}
}

// holdNamespaces has a container join the namespaces that exist by descriptors of
// ours, which are to be held until it has: libcontainer sends all paths in one
// text, divided by commas, and refuses one that has a comma itself.
func holdNamespaces(cfg *configs.Config) (files, error) {
	var held files
	for i := range cfg.Namespaces {
		ns := &cfg.Namespaces[i]
		if ns.Path == "" {
			continue
		}
		f, err := os.Open(ns.Path)
		if err != nil {
			return held, fmt.Errorf("open namespace: %w", err)
		}
		held = append(held, f)
		ns.Path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
		if ns.Type != configs.NEWUSER {
			continue
		}
		for _, m := range cfg.Mounts {
			if m.IDMapping != nil {
				m.IDMapping.UserNSPath = ns.Path
			}
		}
	}
	return held, nil
}

// configuration is libcontainer's. The user namespace to join is told it afterwards: it would fork this whole process,
// twice, to read from it what the specification says.
func configuration(id string, s *specs.Spec) (*configs.Config, error) {
	spec, linux := *s, *s.Linux
	spec.Linux = &linux
	var users string
	linux.Namespaces = slices.DeleteFunc(slices.Clone(linux.Namespaces), func(ns specs.LinuxNamespace) bool {
		if ns.Type == specs.UserNamespace {
			users = ns.Path
		}
		return ns.Type == specs.UserNamespace
	})
	uids, gids := linux.UIDMappings, linux.GIDMappings
	linux.UIDMappings, linux.GIDMappings = nil, nil
	cfg, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, Spec: &spec})
	if err != nil {
		return nil, err
	}
	cfg.Labels = nil
	if users != "" {
		cfg.Namespaces.Add(configs.NEWUSER, users)
		cfg.UIDMappings, cfg.GIDMappings = idMaps(uids), idMaps(gids)
	}
	return cfg, nil
}

func idMaps(list []specs.LinuxIDMapping) (out []configs.IDMap) {
	for _, m := range list {
		out = append(out, configs.IDMap{ContainerID: int64(m.ContainerID), HostID: int64(m.HostID), Size: int64(m.Size)})
	}
	return out
}

func process(p *specs.Process, stdio Stdio) *libcontainer.Process {
	lp := &libcontainer.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd, UID: int(p.User.UID), GID: int(p.User.GID),
		NoNewPrivileges: &p.NoNewPrivileges, AppArmorProfile: p.ApparmorProfile,
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	if stdio.Console != nil {
		lp.ConsoleSocket = stdio.Console
		return lp
	}
	// A nil *os.File in an interface would not be nil.
	if stdio.In != nil {
		lp.Stdin = stdio.In
	}
	if stdio.Out != nil {
		lp.Stdout = stdio.Out
	}
	if stdio.Err != nil {
		lp.Stderr = stdio.Err
	}
	return lp
}

// StartError is a start refused because of what the container asks for
// (no such file, no such directory, no permission), not because of the node.
type StartError struct {
	// Code is the exit code a shell would give: 127 not found, 126 not
	// executable, otherwise 128, as Docker and containerd report it.
	Code int32
	Err  error
}

func (e *StartError) Error() string { return e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

func startError(err error) error {
	code := int32(128)
	msg := err.Error()
	switch {
	case strings.Contains(msg, "executable file not found"), strings.Contains(msg, "no such file or directory"):
		code = 127
	case strings.Contains(msg, "permission denied"), strings.Contains(msg, "exec format error"):
		code = 126
	}
	return &StartError{Code: code, Err: fmt.Errorf("start container: %w", err)}
}

// Discard removes what is left of a container whose process has ended, or whose
// start was cut short anywhere: its cgroup, by its path, and libcontainer's
// state. What still runs in the cgroup is killed. Without a path, only a cgroup
// that the state tells of is found.
func Discard(root, id, group string) error {
	c, err := libcontainer.Load(root, id)
	none := errors.Is(err, libcontainer.ErrNotExist)
	if none {
		err = nil // it died before it had a state, or has none any more
	} else if err == nil {
		err = killAndWait(c)
	}
	if err == nil && group != "" {
		err = cgroup.Clear(group)
	}
	switch {
	case err != nil:
	case none:
		err = filetree.Remove(filepath.Join(root, id))
	default:
		err = c.Destroy()
	}
	if err != nil {
		return fmt.Errorf("discard container %s: %w", id, err)
	}
	return nil
}

// killAndWait ends what runs of a container.
func killAndWait(c *libcontainer.Container) error {
	st, err := c.Status()
	if err != nil || st == libcontainer.Stopped {
		return err
	}
	state, err := c.State()
	if err != nil {
		return err
	}
	p, err := Open(state.InitProcessPid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	if err := c.Signal(unix.SIGKILL); err != nil && !errors.Is(err, libcontainer.ErrNotRunning) {
		return err
	}
	if err := p.f.SetReadDeadline(time.Now().Add(dieWait)); err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}

// dieWait bounds the wait for a killed process.
const dieWait = 10 * time.Second

// processSpec is kept beside libcontainer's state: what exec starts from.
const processSpec = "process.json"

// SaveProcess keeps the process's specification for later Exec calls.
func SaveProcess(dir string, s *specs.Spec) error {
	raw, err := json.Marshal(s.Process)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, processSpec), raw, 0o600)
}
