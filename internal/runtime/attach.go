package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"coracle/internal/runtime/sandbox"
)

// Attach prepares an attach stream.
func (s *service) Attach(_ context.Context, req *cri.AttachRequest) (*cri.AttachResponse, error) {
	c, err := s.running(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if c.config.GetTty() != req.GetTty() {
		return nil, status.Errorf(codes.InvalidArgument, "tty: the container has tty=%t", c.config.GetTty())
	}
	return s.stream.GetAttach(req)
}

// Attach joins a stream with a container's input and output until the client
// goes or the container ends.
func (b streams) Attach(ctx context.Context, id string, in io.Reader, out, errw io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := b.s.running(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	k := c.io
	c.mu.Unlock()
	if k == nil {
		return fmt.Errorf("container %q has just ended", id)
	}
	if k.tty != nil {
		go resizing(k.tty, resize)
	}
	client := k.join(writer(out), writer(errw))
	defer k.leave(client)
	var inDone chan struct{}
	if to := k.input(); in != nil && to != nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(to, in)
			if k.inputEnded() {
				b.s.release(c.ID + "/" + stdinFIFO)
			}
		}()
		if out == nil && errw == nil {
			inDone = done
		}
	}
	select {
	case <-ctx.Done():
		return nil
	case <-k.ended:
		return nil
	case <-client.failed:
		return nil
	case <-inDone:
		return nil
	}
}

// PortForward prepares a port-forward stream.
func (s *service) PortForward(_ context.Context, req *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	p, err := s.pod(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if !p.snapshot().Ready {
		return nil, status.Errorf(codes.FailedPrecondition, "sandbox %q is not ready", req.GetPodSandboxId())
	}
	return s.stream.GetPortForward(req)
}

// PortForward joins a stream with a port on the pod's loopback. When the port does not answer, or breaks off, this one
// connection is broken off too: a client takes any error that it is sent for the end of all that it forwards.
func (b streams) PortForward(ctx context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	p, err := b.s.pod(id)
	if err != nil {
		return err
	}
	if port <= 0 || port > 65535 {
		return fmt.Errorf("port %d is out of range", port)
	}
	err = forward(ctx, p, int(port), stream)
	if err == nil {
		return nil
	}
	if err := b.there(id); err != nil {
		return err
	}
	s, ok := stream.(interface{ Reset() error })
	if !ok {
		return err // a stream of its own (WebSocket channels), with one connection in it
	}
	b.s.cfg.Logger.Info("port-forward: one connection ended", "pod", id, "port", port, "err", err)
	_ = s.Reset()
	return nil
}

// there says why a pod cannot be reached any more, whichever its port.
func (b streams) there(id string) error {
	p, err := b.s.pod(id)
	if err == nil && !p.snapshot().Ready {
		err = fmt.Errorf("sandbox %q has stopped", id)
	}
	return err
}

// forward copies between a stream and a port until the port has said all, or the stream's end is gone.
func forward(ctx context.Context, p *pod, port int, stream io.ReadWriter) error {
	conn, err := dialPod(p, port)
	if err != nil {
		return fmt.Errorf("connect to port %d of the pod: %w", port, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	go func() {
		_, _ = io.Copy(conn, stream)
		if c, ok := conn.(*net.TCPConn); ok {
			_ = c.CloseWrite()
		}
	}()
	if _, err := io.Copy(stream, conn); err != nil && ctx.Err() == nil {
		return fmt.Errorf("read from port %d of the pod: %w", port, err)
	}
	return nil
}

// dialPod connects to a port on the loopback of a pod's network namespace,
// IPv4 first.
func dialPod(p *pod, port int) (net.Conn, error) {
	if !p.Namespaces.Net {
		return net.Dial("tcp", net.JoinHostPort("localhost", strconv.Itoa(port)))
	}
	var conn net.Conn
	err := sandbox.Inside(p.dir, func() error {
		c, err4 := connect(unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
		if err4 == nil {
			conn = c
			return nil
		}
		var err6 error
		if conn, err6 = connect(unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: [16]byte{15: 1}}); err6 != nil {
			return errors.Join(err4, err6)
		}
		return nil
	})
	return conn, err
}

// connect makes its own socket: net.Dial may use another thread, which is not
// in the namespace.
func connect(family int, to unix.Sockaddr) (net.Conn, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "port-forward")
	defer f.Close()
	if err := unix.Connect(fd, to); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(f)
}
