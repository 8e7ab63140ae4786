package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/container"
	"coracle/internal/runtime/log"
	"coracle/internal/runtime/sandbox"
)

// recover finds again what an earlier runtime left: sandboxes, containers
// that run, containers that ended meanwhile. What is half made is removed.
func (s *service) recover() error {
	for _, d := range []string{filepath.Join(s.cfg.StateDir, "sandboxes"), filepath.Join(s.cfg.StateDir, "containers"), s.lcDir} {
		// What containers write may be set-user-ID too: see image.Open.
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	if err := s.net.Restore(); err != nil {
		return err
	}
	var half []*pod
	err := s.eachRecord("sandboxes", func(dir, id string) {
		if p := s.recoverPod(dir, id); p != nil {
			half = append(half, p)
		}
	})
	if err != nil {
		return err
	}
	if err := s.eachRecord("containers", s.recoverCtr); err != nil {
		return err
	}
	// Only now is it known which cgroups are somebody's.
	for _, p := range half {
		if err := errors.Join(s.tearDownPod(p), removeDir(p.dir)); err != nil {
			s.cfg.Logger.Error("half-made sandbox not removed", "sandbox", p.ID, "err", err)
		}
	}
	s.sweep()
	return s.net.Forget(func(id string) bool { return s.sandboxes[id] != nil })
}

func (s *service) eachRecord(kind string, f func(dir, id string)) error {
	entries, err := os.ReadDir(filepath.Join(s.cfg.StateDir, kind))
	if err != nil {
		return err
	}
	for _, e := range entries {
		f(filepath.Join(s.cfg.StateDir, kind, e.Name()), e.Name())
	}
	return nil
}

// recoverPod takes a sandbox over, or returns it when it is half made.
func (s *service) recoverPod(dir, id string) (half *pod) {
	p := &pod{dir: dir, config: &cri.PodSandboxConfig{}}
	err := errors.Join(p.read(), readConfig(dir, p.config))
	if err != nil || p.ID != id {
		s.cfg.Logger.Info("half-made sandbox removed", "sandbox", id, "err", err)
		p.ID, p.Namespaces.Net = id, true
		if p.Cgroup == "" {
			p.Cgroup = s.podCgroup(p.config, id)
		}
		// The init process of a half-made pod is found by its pin alone.
		p.InitPID = -1
		return p
	}
	s.sandboxes[id] = p
	s.names[podName(p)] = id
	if p.state.Ready && !sandbox.Alive(dir, p.Namespaces) {
		// The machine was restarted.
		if err := p.change(func(st *podState) { st.Ready = false }); err != nil {
			s.cfg.Logger.Error("sandbox state not written", "sandbox", id, "err", err)
		}
	}
	return nil
}

func (s *service) recoverCtr(dir, id string) {
	c := &ctr{dir: dir, config: &cri.ContainerConfig{}, gone: make(chan struct{})}
	err := errors.Join(c.read(), readConfig(dir, c.config))
	if err != nil || c.ID != id || s.sandboxes[c.SandboxID] == nil {
		s.cfg.Logger.Info("half-made container removed", "container", id, "err", err)
		c.ID = id
		if err := s.discard(c); err != nil {
			s.cfg.Logger.Error("half-made container not removed", "container", id, "err", err)
		}
		return
	}
	s.containers[id] = c
	s.names[ctrName(c)] = id
	switch c.state.Phase {
	case phaseExited:
		close(c.gone)
	case phaseCreated:
		// A start that was cut short has left a process that has not run anything yet, or just did.
		if err := errors.Join(container.Discard(s.lcDir, id, c.Cgroup), container.Unpin(c.pinPath())); err != nil {
			s.cfg.Logger.Error("cut-short start not cleaned", "container", id, "err", err)
		}
	case phaseRunning:
		s.resume(c)
	}
}

// resume takes a running container over, or learns how it ended.
func (s *service) resume(c *ctr) {
	logFile := log.Discard()
	if dir, name := c.logFile(s); name != "" {
		if l, err := log.Open(dir, name, s.cfg.Logs); err == nil {
			logFile = l
		} else {
			s.cfg.Logger.Error("container log not opened", "container", c.ID, "err", err)
		}
	}
	c.log = logFile
	k := newConsole(c)
	var err error
	if c.config.GetTty() {
		k.tty, err = s.fdstore.Get(c.ID + "/" + ttyFile)
	} else {
		err = k.reopen(c)
	}
	if err == nil {
		err = k.begin(logFile)
	}
	if err != nil {
		s.cfg.Logger.Error("container output not reopened", "container", c.ID, "err", err)
	}
	c.io = k
	proc, err := container.Pinned(c.pinPath())
	if err != nil {
		proc, err = container.Reopen(s.lcDir, c.ID, c.state.PID)
	}
	if err != nil {
		s.exited(c, container.Status{Code: 255, Lost: true, At: time.Now()})
		return
	}
	c.proc = proc
	if st, ended := proc.Poll(); ended {
		s.exited(c, st)
		return
	}
	go s.watch(c)
}
