package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	spdytransport "k8s.io/client-go/transport/spdy"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"
)

func TestExecSync(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("exec")
	id := n.sh(pod, cfg, "main", "exec sleep 1000", func(c *cri.ContainerConfig) {
		c.Envs = []*cri.KeyValue{{Key: "VAR", Value: []byte("val")}}
		c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 1234}
	})
	n.startCtr(id)
	r, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo $VAR $(id -u); echo bad >&2; grep Seccomp: /proc/self/status; exit 9"}})
	if err != nil || !strings.HasPrefix(string(r.Stdout), "val 1234\nSeccomp:\t2") || string(r.Stderr) != "bad\n" || r.ExitCode != 9 {
		t.Errorf("exec: %q %q %d %v", r.GetStdout(), r.GetStderr(), r.GetExitCode(), err)
	}
	// A child that keeps the output open must not hold the call.
	r, err = n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "sleep 1000 & echo done"}})
	if err != nil || string(r.Stdout) != "done\n" { // else it would be the call's own bound that ends it
		t.Errorf("exec with a lingering child: %q %v", r.GetStdout(), err)
	}
	_, err = n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "1000"}, Timeout: 1})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("timeout: %v", err)
	}
	if _, err = n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"nosuch"}}); err == nil || !strings.Contains(err.Error(), "executable file not found") {
		t.Errorf("missing command: %v", err)
	}
	big, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"head", "-c", "3000000", "/dev/zero"}})
	if err != nil || len(big.Stdout) != 3000000 {
		t.Errorf("big output: %d %v", len(big.GetStdout()), err)
	}
	// What goes on for ever is read on, so that the command ends, and kept up to a bound: a probe is a pod's own choice.
	endless := fmt.Sprintf("head -c %[1]d /dev/zero; head -c %[1]d /dev/zero >&2", maxMessage)
	most, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", endless}}, grpc.MaxCallRecvMsgSize(maxMessage))
	if err != nil || len(most.Stdout) != maxExecOutput || len(most.Stderr) != maxExecOutput {
		t.Errorf("output without end: %d and %d bytes, %v", len(most.GetStdout()), len(most.GetStderr()), err)
	}
}

// executor streams to an address the runtime gave out, as kubectl would.
func executor(t *testing.T, address string) remotecommand.Executor {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	e, err := remotecommand.NewSPDYExecutor(&restclient.Config{Host: u.Host}, http.MethodPost, u)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestStreams(t *testing.T) { testStreams(t, podNetwork) }

func testStreams(t *testing.T, users func(*cri.PodSandboxConfig)) {
	n := newNode(t)
	n.withNetwork()
	pod, cfg := n.pod("streams", users)
	id := n.sh(pod, cfg, "main", "exec sleep 1000")
	n.startCtr(id)
	x, err := n.Exec(n.ctx(), &cri.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", "cat; echo err >&2; exit 6"}, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	err = executor(t, x.Url).StreamWithContext(n.ctx(), remotecommand.StreamOptions{Stdin: strings.NewReader("through the pipe"), Stdout: &out, Stderr: &errs})
	var exit utilexec.ExitError
	if !asExit(err, &exit) || exit.ExitStatus() != 6 || out.String() != "through the pipe" || errs.String() != "err\n" {
		t.Errorf("exec: %q %q %v", out.String(), errs.String(), err)
	}
	t.Run("tty", func(t *testing.T) { testTTY(t, n, id) })
	t.Run("attach", func(t *testing.T) { testAttach(t, n, pod, cfg) })
	t.Run("attach late", func(t *testing.T) { testAttachLate(t, n, pod, cfg) })
	t.Run("port-forward", func(t *testing.T) { testPortForward(t, n, pod, cfg) })
}

func asExit(err error, into *utilexec.ExitError) bool {
	return errors.As(err, into)
}

type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

func testTTY(t *testing.T, n *node, id string) {
	x, err := n.Exec(n.ctx(), &cri.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", "read line; stty size; echo term=$TERM got=$line"}, Stdin: true, Stdout: true, Tty: true})
	if err != nil {
		t.Fatal(err)
	}
	size := make(sizes, 1)
	size <- remotecommand.TerminalSize{Width: 123, Height: 45}
	defer close(size)
	in, keys := io.Pipe()
	var out safeBuffer
	done := make(chan error, 1)
	go func() {
		done <- executor(t, x.Url).StreamWithContext(n.ctx(), remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: true, TerminalSizeQueue: size})
	}()
	// The size arrives on a stream of its own: ask until it has.
	if _, err := keys.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	keys.Close()
	if s := out.String(); !strings.Contains(s, "term=xterm got=hello") {
		t.Errorf("terminal: %q", s)
	}
}

func testAttach(t *testing.T, n *node, pod string, cfg *cri.PodSandboxConfig) {
	id := n.sh(pod, cfg, "attach", `while read l; do echo "got $l"; done; echo end of input`, func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
	n.startCtr(id)
	a, err := n.Attach(n.ctx(), &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	var out safeBuffer
	err = executor(t, a.Url).StreamWithContext(n.ctx(), remotecommand.StreamOptions{Stdin: strings.NewReader("one\ntwo\n"), Stdout: &out, Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	n.finished(id)
	want := "got one\ngot two\nend of input\n"
	if out.String() != want {
		t.Errorf("attached: %q", out.String())
	}
	if text := logText(t, filepath.Join(cfg.LogDirectory, "attach.log")); text != want {
		t.Errorf("log: %q", text)
	}
}

// testAttachLate: who attaches to a container that is made for one session sees what it printed before.
func testAttachLate(t *testing.T, n *node, pod string, cfg *cri.PodSandboxConfig) {
	id := n.sh(pod, cfg, "late", `echo early; read l; echo "got $l"`, func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
	n.startCtr(id)
	n.until("the container has printed", func() bool { return logText(t, filepath.Join(cfg.LogDirectory, "late.log")) == "early\n" })
	a, err := n.Attach(n.ctx(), &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	var out safeBuffer
	err = executor(t, a.Url).StreamWithContext(n.ctx(), remotecommand.StreamOptions{Stdin: strings.NewReader("one\n"), Stdout: &out, Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	n.finished(id)
	if want := "early\ngot one\n"; out.String() != want {
		t.Errorf("attached late: %q, want %q", out.String(), want)
	}
}

func testPortForward(t *testing.T, n *node, pod string, cfg *cri.PodSandboxConfig) {
	id := n.sh(pod, cfg, "server", "exec nc -ll -p 8080 -e cat")
	n.startCtr(id)
	n.until("server listens", func() bool {
		r, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"netstat", "-ltn"}})
		return err == nil && strings.Contains(string(r.Stdout), ":8080")
	})
	r, err := n.PortForward(n.ctx(), &cri.PortForwardRequest{PodSandboxId: pod, Port: []int32{8080}})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(r.Url)
	if err != nil {
		t.Fatal(err)
	}
	tr, up, err := spdytransport.RoundTripperFor(&restclient.Config{Host: u.Host})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	defer close(stop)
	fw, err := portforward.New(spdytransport.NewDialer(up, &http.Client{Transport: tr}, http.MethodPost, u), []string{"0:8080", "0:8081"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() { failed <- fw.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-failed:
		t.Fatal(err)
	}
	ports, err := fw.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(port uint16) string {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("ping\n")) // an end that is refused may be closed already
		_ = conn.SetReadDeadline(time.Now().Add(wait))
		raw := make([]byte, 5)
		k, err := io.ReadFull(conn, raw)
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			t.Errorf("port %d: neither answered nor ended", port)
		}
		return string(raw[:k])
	}
	// A connection that is refused ends, and no other does.
	long, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	for range 3 {
		if got := ask(ports[1].Local); got != "" {
			t.Errorf("nobody listens, and says %q", got)
		}
		if got := ask(ports[0].Local); got != "ping\n" {
			t.Errorf("forwarded: %q", got)
		}
	}
	_ = long.SetDeadline(time.Now().Add(wait))
	raw := make([]byte, 5)
	if _, err := long.Write([]byte("ping\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(long, raw); err != nil || string(raw) != "ping\n" {
		t.Errorf("the connection that was there before: %q %v", raw, err)
	}
	select {
	case err := <-failed:
		t.Errorf("the session ended: %v", err)
	default:
	}
}

func TestTTYContainer(t *testing.T) { testTTYContainer(t, podNetwork) }

func testTTYContainer(t *testing.T, users func(*cri.PodSandboxConfig)) {
	n := newNode(t)
	n.withNetwork()
	pod, cfg := n.pod("tty", users)
	id := n.sh(pod, cfg, "main", "exec sh", func(c *cri.ContainerConfig) { c.Tty, c.Stdin = true, true })
	n.startCtr(id)
	a, err := n.Attach(n.ctx(), &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Tty: true})
	if err != nil {
		t.Fatal(err)
	}
	in, keys := io.Pipe()
	var out safeBuffer
	ctx, cancel := context.WithCancel(n.ctx())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- executor(t, a.Url).StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: true})
	}()
	for _, line := range []string{"tty\n", "echo sum $((40+2))\n", "exit 3\n"} {
		if _, err := keys.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if st := n.finished(id); st.ExitCode != 3 {
		t.Errorf("exit code %d", st.ExitCode)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	keys.Close()
	if s := out.String(); !strings.Contains(s, "/dev/pts/0") || !strings.Contains(s, "sum 42") {
		t.Errorf("terminal: %q", s)
	}
}
