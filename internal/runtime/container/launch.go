package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/configs/validate"
	"github.com/opencontainers/runc/libcontainer/system"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/launch"
)

// filters are the filters of system calls of this runtime's containers.
var filters launch.Filters

// startLaunched starts a container by package launch, and leaves libcontainer's state of it, as if libcontainer had: by
// that it is found, gets further processes, and is removed.
func startLaunched(root, id string, cfg *configs.Config, s *specs.Spec, stdio Stdio, reached func(string)) (int, error) {
	if reached == nil {
		reached = func(string) {}
	}
	if err := validate.Validate(cfg); err != nil {
		return 0, fmt.Errorf("create container: %w", err)
	}
	p, err := launched(cfg, s.Process)
	if err != nil {
		return 0, err
	}
	files, done, err := launchStdio(stdio)
	if err != nil {
		return 0, err
	}
	defer done()
	groups, err := cgroup.Manager(cfg.Cgroups)
	if err != nil {
		return 0, err
	}
	st := &state{root: root, id: id, cfg: cfg, groups: groups}
	return launch.Start(id, cfg, p, files, launch.Steps{
		Group: func() error { return makeGroups(groups, cfg, reached) },
		Enter: func(pid int) error {
			defer reached(waits)
			return enterGroups(groups.GetPaths(), pid)
		},
		Begin: func(pid int, rootfs string) error {
			if sources := s.Annotations[SourcesAnnotation]; sources != "" {
				if err := verifySources(rootfs, sources); err != nil {
					return err
				}
			}
			defer reached(recorded)
			return st.write(pid)
		},
	})
}

// launchStdio are a process's files as package launch takes them: what is missing is the node's /dev/null.
func launchStdio(stdio Stdio) (launch.Stdio, func(), error) {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return launch.Stdio{}, nil, err
	}
	files := launch.Stdio{Files: [3]*os.File{stdio.In, stdio.Out, stdio.Err}, Console: stdio.Console}
	for i, f := range files.Files {
		if f == nil || stdio.Console != nil {
			files.Files[i] = null
		}
	}
	return files, func() { null.Close() }, nil
}

func makeGroups(groups cgroups.Manager, cfg *configs.Config, reached func(string)) error {
	if err := groups.Apply(-1); err != nil {
		return fmt.Errorf("unable to apply cgroup configuration: %w", err)
	}
	reached(madeGroups)
	if err := groups.Set(cfg.Cgroups.Resources); err != nil {
		return fmt.Errorf("error setting cgroup config: %w", err)
	}
	return nil
}

// enterGroups puts a process into a container's groups. A process that is put there, and not born there, is let in also
// where the limit of processes has been reached: so that is asked of the groups.
func enterGroups(groups map[string]string, pid int) error {
	for _, dir := range groups {
		if err := cgroups.WriteCgroupProc(dir, pid); err != nil {
			return fmt.Errorf("unable to apply cgroup configuration: %w", err)
		}
	}
	if cgroup.PidsOver(groups) {
		return fmt.Errorf("start the process: %w", unix.EAGAIN) // as the kernel refuses a fork
	}
	return nil
}

// launched is the command with its rights.
func launched(cfg *configs.Config, ps *specs.Process) (*launch.Process, error) {
	p := &launch.Process{
		Args: ps.Args, Env: ps.Env, Cwd: ps.Cwd, UID: ps.User.UID, GID: ps.User.GID, Groups: ps.User.AdditionalGids,
		NoNewPrivileges: ps.NoNewPrivileges, Umask: 0o022,
	}
	if cfg.Umask != nil {
		p.Umask = *cfg.Umask
	}
	var err error
	if p.LastCap, err = lastCap(); err != nil {
		return nil, err
	}
	if c := ps.Capabilities; c != nil {
		p.Bounding, p.Effective, p.Permitted = bits(c.Bounding), bits(c.Effective), bits(c.Permitted)
		p.Inheritable, p.Ambient = bits(c.Inheritable), bits(c.Ambient)
	}
	if p.Filter, err = filters.Of(cfg.Seccomp); err != nil {
		return nil, err
	}
	return p, nil
}

func bits(names []string) (set uint64) {
	for _, n := range names {
		if i := slices.Index(capNames, n); i >= 0 {
			set |= 1 << i
		}
	}
	return set
}

// lastCap is the highest capability that the kernel knows: one above it cannot be dropped (capabilities(7)).
var lastCap = sync.OnceValues(func() (int, error) {
	last := -1
	for c := range 64 {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err != nil {
			break
		}
		last = c
	}
	if last < 0 {
		return 0, errors.New("the kernel tells of no capabilities")
	}
	return last, nil
})

// state is what libcontainer knows a container by (libcontainer.Load).
type state struct {
	root, id string
	cfg      *configs.Config
	groups   cgroups.Manager
}

// write records the container, whose process has not begun yet.
func (s *state) write(pid int) error {
	stat, err := system.Stat(pid)
	if err != nil {
		return fmt.Errorf("the container's process: %w", err)
	}
	dir := filepath.Join(s.root, s.id)
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return fmt.Errorf("record container: %w", err)
	}
	if err := os.Mkdir(dir, 0o711); err != nil {
		return fmt.Errorf("record container: %w", err)
	}
	record := libcontainer.State{
		BaseState: libcontainer.BaseState{
			ID: s.id, InitProcessPid: pid, InitProcessStartTime: stat.StartTime, Created: time.Now().UTC(), Config: *s.cfg,
		},
		CgroupPaths: s.groups.GetPaths(), NamespacePaths: map[configs.NamespaceType]string{},
	}
	for _, kind := range configs.NamespaceTypes() {
		if configs.IsNamespaceSupported(kind) {
			ns := configs.Namespace{Type: kind}
			record.NamespacePaths[kind] = ns.GetPath(pid)
		}
	}
	for _, ns := range s.cfg.Namespaces {
		record.NamespacePaths[ns.Type] = ns.GetPath(pid)
	}
	if record.ExternalDescriptors, err = descriptors(pid); err != nil {
		return err
	}
	raw, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("record container: %w", err)
	}
	draft := filepath.Join(dir, "state.draft")
	if err := os.WriteFile(draft, raw, 0o600); err != nil {
		return fmt.Errorf("record container: %w", err)
	}
	if err := os.Rename(draft, filepath.Join(dir, "state.json")); err != nil {
		return fmt.Errorf("record container: %w", err)
	}
	return nil
}

// descriptors are what a process's standard input and output lead to.
func descriptors(pid int) ([]string, error) {
	var list []string
	for fd := range 3 {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
		if err != nil {
			return nil, fmt.Errorf("the container's process: %w", err)
		}
		list = append(list, to)
	}
	return list, nil
}
