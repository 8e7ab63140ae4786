package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/container"
	"coracle/internal/runtime/sandbox"
	"coracle/internal/runtime/userns"
)

// A PID namespace lives as long as its first process. Only a pod that asks
// for shareProcessNamespace has such a process, which does nothing but reap
// (package reexec): were it one of the pod's containers, its end would be the end of all.

// initFlags are the namespaces that an init process is made in.
const initFlags = unix.CLONE_NEWPID | unix.CLONE_NEWNS

func (p *pod) sharesPID() bool {
	return p.config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid() == cri.NamespaceMode_POD
}

// holdUsers makes the process that the namespaces of a pod with users of its own are taken from; nil for other pods.
// Where the pod shares its PID namespace too, that process becomes its init.
func holdUsers(p *pod) (*userns.Holder, error) {
	if p.Namespaces.Users == nil {
		return nil, nil
	}
	flags := p.Namespaces.Flags()
	if p.sharesPID() {
		flags |= initFlags
	}
	return userns.Hold(p.Namespaces.Users, flags)
}

// makeNamespaces makes the sandbox's namespaces, and returns the process that holds them where it is still needed.
func (s *service) makeNamespaces(p *pod) (*userns.Holder, error) {
	holder, err := holdUsers(p)
	if err != nil {
		return nil, err
	}
	err = sandbox.Create(p.dir, p.Namespaces, holder)
	if holder != nil && (err != nil || !p.sharesPID()) {
		holder.End()
		holder = nil
	}
	return holder, err
}

func (p *pod) initPin() string    { return filepath.Join(p.dir, "init") }
func (p *pod) initCgroup() string { return filepath.Join(p.Cgroup, "init") }

// startPodInit makes a process the init of a pod that shares its PID namespace: a new one, or that which holds the
// namespaces of a pod with users of its own.
func (s *service) startPodInit(p *pod, holder *userns.Holder) error {
	if holder == nil {
		var err error
		if holder, err = userns.Hold(nil, initFlags); err != nil {
			return fmt.Errorf("start pod init: %w", err)
		}
	}
	// It ends when we do before we have said that it can be found again.
	defer holder.Leave()
	s.cfg.reached("init started")
	pid := holder.Pid()
	p.InitPID = pid
	proc, err := container.Open(pid)
	if err != nil {
		return err
	}
	go func() {
		_, _ = proc.Wait()
		proc.Close()
	}()
	if err := proc.Pin(p.initPin()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	group, err := cgroup.Open(p.initCgroup())
	if err != nil {
		return err
	}
	if err := group.Add(pid); err != nil {
		return err
	}
	s.cfg.reached("init in its cgroup")
	f, err := os.OpenFile(sandbox.PIDPath(p.dir), os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/pid", pid), sandbox.PIDPath(p.dir), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("keep PID namespace: %w", err)
	}
	if err := holder.Begin(); err != nil {
		return fmt.Errorf("start pod init: %w", err)
	}
	s.cfg.reached("init told")
	return nil
}

// stopPodInit ends the init process, if there is one, and with it all that is
// left in the pod's PID namespace.
func (s *service) stopPodInit(p *pod) error {
	if p.InitPID == 0 {
		return nil
	}
	proc, err := s.podInit(p)
	if err == nil {
		err = ignoreDone(proc.Signal(unix.SIGKILL))
		if err == nil {
			_, err = proc.Wait()
		}
		proc.Close()
	} else if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("stop pod init: %w", err)
	}
	group, err := cgroup.Open(p.initCgroup())
	if err != nil {
		return err
	}
	return errors.Join(group.Clear(), container.Unpin(p.initPin()))
}

// podInit finds the init process again: by its pin, or, on a kernel that pins
// none, by its pid as long as the namespace there is the one we keep.
func (s *service) podInit(p *pod) (*container.Process, error) {
	if proc, err := container.Pinned(p.initPin()); err == nil {
		return proc, nil
	}
	var have, want unix.Stat_t
	pid := p.InitPID
	proc, err := container.Open(pid)
	if err != nil {
		return nil, os.ErrNotExist
	}
	if unix.Stat(fmt.Sprintf("/proc/%d/ns/pid", pid), &have) != nil || unix.Stat(sandbox.PIDPath(p.dir), &want) != nil || have.Ino != want.Ino {
		proc.Close()
		return nil, os.ErrNotExist
	}
	return proc, nil
}
