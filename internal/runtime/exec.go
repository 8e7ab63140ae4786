package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"coracle/internal/runtime/container"
)

// maxMessage is the size in bytes of the largest message by CRI, of either way; agents expect no larger ones.
const maxMessage = 16 << 20

// maxExecOutput is what ExecSync returns at most of each stream: both fit into one message (maxMessage), with what else is
// in it.
const maxExecOutput = maxMessage/2 - 4<<10

// lingering is how long output is awaited after a process has ended while
// another, its child, still holds the other end.
const lingering = 2 * time.Second

// ExecSync runs a command in a container and returns what it printed.
func (s *service) ExecSync(ctx context.Context, req *cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
	if len(req.GetCmd()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "cmd is required")
	}
	timeout := time.Duration(req.GetTimeout()) * time.Second
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	stdout, stderr := &limited{left: maxExecOutput}, &limited{left: maxExecOutput}
	code, err := s.run(ctx, req.GetContainerId(), req.GetCmd(), nil, stdout, stderr, false, nil)
	if errors.Is(err, context.DeadlineExceeded) && timeout > 0 {
		return nil, status.Errorf(codes.DeadlineExceeded, "command %q timed out after %s", req.GetCmd(), timeout)
	}
	if err != nil {
		return nil, err
	}
	return &cri.ExecSyncResponse{Stdout: stdout.buf.Bytes(), Stderr: stderr.buf.Bytes(), ExitCode: code}, nil
}

// limited keeps the beginning of what is written to it.
type limited struct {
	buf  bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.buf.Write(p[:n])
	l.left -= n
	return len(p), nil
}

func (l *limited) Close() error { return nil }

// Exec prepares an exec stream.
func (s *service) Exec(_ context.Context, req *cri.ExecRequest) (*cri.ExecResponse, error) {
	if _, err := s.running(req.GetContainerId()); err != nil {
		return nil, err
	}
	return s.stream.GetExec(req)
}

func (s *service) running(id string) (*ctr, error) {
	c, err := s.ctr(id)
	if err != nil {
		return nil, err
	}
	if st := c.snapshot(); st.Phase != phaseRunning {
		return nil, status.Errorf(codes.FailedPrecondition, "container %q is not running (%s)", id, st.Phase)
	}
	return c, nil
}

// run runs a command in a container with the given streams, until it ends or
// ctx does, which kills it. The streams' own ends are not closed.
func (s *service) run(ctx context.Context, id string, cmd []string, in io.Reader, out, errw io.Writer, tty bool, resize <-chan remotecommand.TerminalSize) (int32, error) {
	c, err := s.running(id)
	if err != nil {
		return 0, err
	}
	x, err := openExec(in != nil, out != nil, errw != nil, tty)
	if err != nil {
		return 0, err
	}
	defer x.close()
	if err := s.owned(c, x); err != nil {
		x.theirs.close()
		return 0, err
	}
	proc, err := s.startExec(ctx, c, cmd, tty, x.theirs)
	if err != nil {
		return 0, execError(err)
	}
	defer proc.Close()
	if err := x.begin(in, out, errw, resize); err != nil {
		_ = proc.Signal(unix.SIGKILL)
		_, _ = proc.Wait()
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = proc.Signal(unix.SIGKILL) })
	defer stop()
	st, err := proc.Wait()
	x.end()
	if err == nil {
		err = ctx.Err()
	}
	return st.Code, err
}

// owned gives the pipes of a command to the root of the pod that it runs in, where that is not the node's.
func (s *service) owned(c *ctr, x *execIO) error {
	p, err := s.pod(c.SandboxID)
	if err != nil {
		return err
	}
	for _, end := range []struct{ ours, theirs *os.File }{{x.in, x.theirs.In}, {x.out, x.theirs.Out}, {x.err, x.theirs.Err}} {
		if end.ours == nil {
			continue // no pipe
		}
		if err := p.owned(end.theirs); err != nil {
			return err
		}
	}
	return nil
}

// execPatience is how long a command may take to start in a container that has
// no room for it. Elsewhere it takes as long as it takes.
const execPatience = 5 * time.Second

// startExec starts a command in a container, and closes what it hands over. It
// fails when ctx ends first, or when the command does not start for want of
// pids: then it says so. A command that starts too late is killed, and the next of its
// container waits for that.
func (s *service) startExec(ctx context.Context, c *ctr, cmd []string, tty bool, theirs stdio) (*container.Process, error) {
	levels := s.pidsLevels(c)
	if err := pidsFull(levels); err != nil {
		theirs.close()
		return nil, err
	}
	if err := c.commands.pass(ctx); err != nil {
		theirs.close()
		return nil, err
	}
	done, giveUp := launch(&c.commands, func() (*container.Process, error) {
		defer theirs.close()
		return container.Exec(s.lcDir, c.ID, c.dir, cmd, tty, theirs.Stdio)
	}, func(proc *container.Process) {
		_ = proc.Signal(unix.SIGKILL)
		_, _ = proc.Wait()
		proc.Close()
	})
	defer giveUp()
	tick := time.NewTicker(execPatience)
	defer tick.Stop()
	for {
		select {
		case r := <-done:
			if r.err != nil {
				return nil, execFailed(c, levels, r.err)
			}
			return r.it, nil
		case <-ctx.Done():
			if short := pidsShort(levels, ctx.Err()); short != nil {
				return nil, short
			}
			return nil, ctx.Err()
		case <-tick.C:
			if short := pidsShort(levels, nil); short != nil {
				return nil, short
			}
		}
	}
}

// endPatience is how long the end of a container is awaited when a command could
// not be started in it for no reason that is known.
const endPatience = time.Second

// execFailed finds out why a command could not be started in a container: the
// container has ended, or a group that bounds its processes was full. Otherwise
// it is for the cause that was given.
func execFailed(c *ctr, levels []pidsLevel, cause error) error {
	running := pidsUse(c.Cgroup).Known || len(levels) == 0 || !levels[0].before.Known
	if running {
		if blameless(cause) {
			return cause
		}
		if short := pidsShort(levels, cause); short != nil {
			return short
		}
	}
	timer := time.NewTimer(endPatience)
	defer timer.Stop()
	select {
	case <-c.gone:
		st := c.snapshot()
		return status.Errorf(codes.FailedPrecondition, "container %q ended while a command was to start in it: %s, exit code %d %s",
			c.ID, st.Reason, st.ExitCode, st.Message)
	case <-timer.C:
		return cause
	}
}

// execError gives a command that cannot be run the gRPC code that the kubelet
// tells from a failure of the node by.
func execError(err error) error {
	if errors.Is(err, container.ErrNotRunning) {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	if code := status.Code(err); code == codes.ResourceExhausted || code == codes.FailedPrecondition {
		return err
	}
	return fmt.Errorf("exec: %w", err)
}

// execIO are the pipes or the terminal of an exec'd process.
type execIO struct {
	theirs       stdio
	in, out, err *os.File
	socket, tty  *os.File
	copies       sync.WaitGroup
}

func openExec(in, out, errs, tty bool) (*execIO, error) {
	x := &execIO{}
	var err error
	if tty {
		x.theirs.Console, x.socket, err = socketPair()
		return x, err
	}
	pipe := func(want, read bool) (theirs, ours *os.File) {
		if err != nil {
			return nil, nil
		}
		if !want {
			theirs, err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
			return theirs, nil
		}
		var r, w *os.File
		if r, w, err = os.Pipe(); err != nil {
			return nil, nil
		}
		if read {
			return r, w
		}
		return w, r
	}
	x.theirs.In, x.in = pipe(in, true)
	x.theirs.Out, x.out = pipe(out, false)
	x.theirs.Err, x.err = pipe(errs, false)
	if err != nil {
		x.theirs.close()
		x.close()
		return nil, fmt.Errorf("exec: %w", err)
	}
	return x, nil
}

func (x *execIO) begin(in io.Reader, out, errw io.Writer, resize <-chan remotecommand.TerminalSize) error {
	if x.socket != nil {
		var err error
		if x.tty, err = receiveTTY(x.socket); err != nil {
			return err
		}
		go resizing(x.tty, resize)
		x.in, x.out = x.tty, x.tty
	}
	if in != nil {
		// Not waited for: a client may keep its side open for ever.
		go func() {
			_, _ = io.Copy(x.in, in)
			if x.in != x.tty {
				x.in.Close()
			}
		}()
	}
	x.copy(out, x.out)
	x.copy(errw, x.err)
	return nil
}

func resizing(tty *os.File, resize <-chan remotecommand.TerminalSize) {
	for size := range resize {
		if resizeTTY(tty, size.Width, size.Height) != nil {
			return
		}
	}
}

func (x *execIO) copy(to io.Writer, from *os.File) {
	if to == nil || from == nil {
		return
	}
	x.copies.Add(1)
	go func() {
		defer x.copies.Done()
		_, err := io.Copy(to, from)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			rest(to, from)
		}
	}()
}

// rest copies what is there without waiting.
func rest(to io.Writer, from *os.File) {
	conn, err := from.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 32<<10)
	for {
		var n int
		_ = conn.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), buf) })
		if n <= 0 {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// end waits for the output of a process that has ended.
func (x *execIO) end() {
	for _, f := range []*os.File{x.out, x.err} {
		if f != nil {
			_ = f.SetReadDeadline(time.Now().Add(lingering))
		}
	}
	x.copies.Wait()
}

func (x *execIO) close() {
	for _, f := range []*os.File{x.in, x.out, x.err, x.socket, x.tty} {
		if f != nil {
			f.Close()
		}
	}
}

// streams carries out what arrives at the streaming server.
type streams struct{ s *service }

// Exec runs a command on a stream.
func (b streams) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	code, err := b.s.run(ctx, id, cmd, in, writer(out), writer(errw), tty, resize)
	if err != nil {
		return err
	}
	if code != 0 {
		return &utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: int(code)}
	}
	return nil
}

// writer keeps a nil WriteCloser from becoming a Writer that is not nil.
func writer(w io.WriteCloser) io.Writer {
	if w == nil {
		return nil
	}
	return w
}
