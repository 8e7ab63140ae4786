package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/container"
	"coracle/internal/runtime/log"
)

// Reasons a container's end is given, as containerd gives them and the kubelet shows them.
const (
	reasonCompleted  = "Completed"
	reasonError      = "Error"
	reasonOOM        = "OOMKilled"
	reasonStartError = "StartError"
	reasonUnknown    = "Unknown"
)

// StartContainer starts a created container's process.
func (s *service) StartContainer(_ context.Context, req *cri.StartContainerRequest) (*cri.StartContainerResponse, error) {
	c, err := s.ctr(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	c.op.Lock()
	defer c.op.Unlock()
	st := c.snapshot()
	if st.Phase != phaseCreated {
		return nil, status.Errorf(codes.FailedPrecondition, "container %q is in state %s, not created", c.ID, st.Phase)
	}
	p, err := s.pod(c.SandboxID)
	if err != nil {
		return nil, err
	}
	if !p.snapshot().Ready {
		return nil, status.Errorf(codes.FailedPrecondition, "sandbox %q is not ready", c.SandboxID)
	}
	if err := s.start(c, p); err != nil {
		s.failStart(c, err)
		return nil, err
	}
	s.emit(c.ID, c.SandboxID, cri.ContainerEventType_CONTAINER_STARTED_EVENT)
	go s.watch(c)
	return &cri.StartContainerResponse{}, nil
}

// failStart records a container that could not start as one that has exited.
func (s *service) failStart(c *ctr, cause error) {
	code := int32(128)
	var se *container.StartError
	if errors.As(cause, &se) {
		code = se.Code
	}
	if err := container.Unpin(c.pinPath()); err != nil {
		s.cfg.Logger.Error("process not unpinned", "container", c.ID, "err", err)
	}
	s.finish(c, func(st *ctrState) {
		st.Started, st.Finished = 0, time.Now().UnixNano()
		st.ExitCode, st.Reason, st.Message = code, reasonStartError, cause.Error()
	})
}

func (s *service) start(c *ctr, p *pod) error {
	spec, err := s.spec(c, p)
	if err != nil {
		return err
	}
	logFile := log.Discard()
	if dir, name := c.logFile(s); name != "" {
		if logFile, err = log.Open(dir, name, s.cfg.Logs); err != nil {
			return err
		}
	}
	io, files, err := openConsole(c, p)
	if err != nil {
		logFile.Close()
		return err
	}
	closing := stdio{files}
	s.cfg.reached("container's console opened")
	levels := s.pidsLevels(c)
	pid, err := container.Start(s.lcDir, c.ID, spec, files, s.cfg.step)
	closing.close()
	if err != nil {
		io.close()
		logFile.Close()
		if short := pidsShort(levels, err); short != nil {
			return errors.Join(short, err)
		}
		return err
	}
	proc, err := container.Open(pid)
	if err != nil {
		io.close()
		logFile.Close()
		return errors.Join(err, container.Discard(s.lcDir, c.ID, c.Cgroup))
	}
	s.cfg.reached("container started")
	if err := proc.Pin(c.pinPath()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		s.cfg.Logger.Error("process not pinned", "container", c.ID, "err", err)
	}
	if err := io.begin(logFile); err != nil {
		_ = proc.Signal(unix.SIGKILL)
		_, _ = proc.Wait()
		return errors.Join(err, container.Discard(s.lcDir, c.ID, c.Cgroup))
	}
	s.keep(c.ID, io)
	c.mu.Lock()
	c.proc, c.io, c.log = proc, io, logFile
	c.mu.Unlock()
	if err := container.SaveProcess(c.dir, spec); err != nil {
		s.cfg.Logger.Error("process not recorded", "container", c.ID, "err", err)
	}
	s.cfg.reached("container's process recorded")
	err = c.change(func(st *ctrState) { st.Phase, st.Started, st.PID = phaseRunning, time.Now().UnixNano(), pid })
	if err != nil {
		s.cfg.Logger.Error("container state not written", "container", c.ID, "err", err)
	}
	return nil
}

// keep has the store of descriptors hold a console. Without one the container runs all the
// same, and only the runtime's own death is felt.
func (s *service) keep(id string, k *console) {
	for name, f := range k.files(id) {
		if err := s.fdstore.Keep(name, f); err != nil {
			s.cfg.Logger.Error("container output not kept", "container", id, "err", err)
			return
		}
	}
}

// release lets the store of descriptors forget what it holds of a container.
func (s *service) release(prefix string) {
	if err := s.fdstore.Drop(prefix); err != nil {
		s.cfg.Logger.Error("container output not released", "container", prefix, "err", err)
	}
}

// watch waits for a container's end and cleans up after it.
func (s *service) watch(c *ctr) {
	c.mu.Lock()
	proc := c.proc
	c.mu.Unlock()
	st, err := proc.Wait()
	if err != nil {
		if errors.Is(err, os.ErrClosed) {
			return
		}
		s.cfg.Logger.Error("container's end not observed", "container", c.ID, "err", err)
		st = container.Status{Code: 255, Lost: true, At: time.Now()}
	}
	s.exited(c, st)
}

// exited records how a container ended. The log is complete before anyone is
// told: a reader who sees the exit sees all the output.
func (s *service) exited(c *ctr, st container.Status) {
	oom, refused := false, int64(0)
	if group, err := cgroup.Open(c.Cgroup); err == nil {
		oom = group.OOMKills() > 0
		if st.Code != 0 {
			refused = s.pidsRefused(c, group)
		}
	}
	if err := container.Discard(s.lcDir, c.ID, c.Cgroup); err != nil {
		s.cfg.Logger.Error("container's cgroup not removed", "container", c.ID, "err", err)
	}
	c.mu.Lock()
	proc, io := c.proc, c.io
	c.proc, c.io = nil, nil
	c.mu.Unlock()
	if io != nil {
		io.end()
	}
	s.release(c.ID)
	if proc != nil {
		proc.Close()
	}
	if err := container.Unpin(c.pinPath()); err != nil {
		s.cfg.Logger.Error("process not unpinned", "container", c.ID, "err", err)
	}
	s.finish(c, func(state *ctrState) {
		state.Finished = max(st.At.UnixNano(), state.Started)
		state.ExitCode, state.Reason, state.Message = st.Code, reasonOf(st, oom), ""
		if refused > 0 {
			state.Message = fmt.Sprintf("the pod's limit of processes and threads (pids limit) refused it %d new ones", refused)
		}
		if st.Lost {
			state.Message = "the container ended while its runtime was not running; how is not known (the machine was restarted, or its kernel does not keep exit statuses: Linux 6.15 and later do)"
		}
	})
	s.emit(c.ID, c.SandboxID, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

func reasonOf(st container.Status, oom bool) string {
	switch {
	case st.Lost:
		return reasonUnknown
	case st.Code == 0:
		return reasonCompleted
	case oom:
		return reasonOOM
	}
	return reasonError
}

// finish makes a container exited, for whoever waits for it too.
func (s *service) finish(c *ctr, f func(*ctrState)) {
	if err := s.unmountRoot(c); err != nil {
		s.cfg.Logger.Error("root file system not unmounted", "container", c.ID, "err", err)
	}
	if err := s.releaseImageMounts(c); err != nil {
		s.cfg.Logger.Error("image volume not unmounted", "container", c.ID, "err", err)
	}
	err := c.change(func(st *ctrState) {
		st.Phase, st.PID = phaseExited, 0
		f(st)
	})
	if err != nil {
		s.cfg.Logger.Error("container state not written", "container", c.ID, "err", err)
		c.mu.Lock()
		c.state.Phase, c.state.PID = phaseExited, 0
		f(&c.state)
		c.mu.Unlock()
	}
	c.mu.Lock()
	l := c.log
	c.log = nil
	c.mu.Unlock()
	if l != nil {
		l.Close()
	}
	close(c.gone)
}

// StopContainer asks a container to end and kills it when it has not within
// the timeout. Stopping an unknown or ended container is no error.
func (s *service) StopContainer(ctx context.Context, req *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	c, err := s.ctr(req.GetContainerId())
	if err != nil {
		return &cri.StopContainerResponse{}, nil
	}
	if err := s.stop(ctx, c, time.Duration(req.GetTimeout())*time.Second); err != nil {
		return nil, fmt.Errorf("stop container %s: %w", c.ID, err)
	}
	return &cri.StopContainerResponse{}, nil
}

// killWait bounds the wait for a killed process: one in an uninterruptible
// system call may take long to die.
const killWait = 2 * time.Minute

func (s *service) stop(ctx context.Context, c *ctr, grace time.Duration) error {
	c.op.Lock()
	st := c.snapshot()
	if st.Phase == phaseCreated {
		defer c.op.Unlock()
		s.finish(c, func(st *ctrState) {
			st.Finished, st.ExitCode, st.Reason = time.Now().UnixNano(), 0, reasonCompleted
		})
		s.emit(c.ID, c.SandboxID, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
		return nil
	}
	c.op.Unlock()
	if st.Phase == phaseExited {
		return nil
	}
	c.mu.Lock()
	proc := c.proc
	c.mu.Unlock()
	if grace > 0 && proc != nil {
		if err := ignoreDone(proc.Signal(container.StopSignal(c.config, c.StopSignal))); err != nil {
			return err
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-c.gone:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
	}
	if proc != nil {
		if err := ignoreDone(proc.Signal(unix.SIGKILL)); err != nil {
			return err
		}
	}
	timer := time.NewTimer(killWait)
	defer timer.Stop()
	select {
	case <-c.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return fmt.Errorf("process %d does not die", st.PID)
	}
}

// ignoreDone drops the error of signalling what has ended meanwhile: its
// handle may be closed too.
func ignoreDone(err error) error {
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
