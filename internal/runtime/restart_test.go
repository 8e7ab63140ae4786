package runtime

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	spdytransport "k8s.io/client-go/transport/spdy"

	"coracle/internal/runtime/cgroup"
)

// counted returns the numbers a counting container has printed, and fails
// when one is missing or double.
func counted(t *testing.T, path string) int {
	t.Helper()
	next := 1
	for line := range strings.Lines(logText(t, path)) {
		i, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			continue
		}
		if i != next {
			t.Fatalf("log %s: %d where %d should be", path, i, next)
		}
		next++
	}
	return next - 1
}

// TestRuntimeKilled kills the runtime while containers run, end and print.
func TestRuntimeKilled(t *testing.T) {
	n := newNode(t)
	n.withNetwork()
	pod, cfg := n.pod("kept", podNetwork)
	other, otherCfg := n.pod("shared", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	})
	before, err := n.PodSandboxStatus(n.ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	counter := n.sh(pod, cfg, "counter", `i=1; while [ $i -le 100000 ]; do echo $i; i=$((i+1)); [ $((i % 50)) = 0 ] && sleep 0.01; done`)
	brief := n.sh(pod, cfg, "brief", `while [ ! -e /go/now ]; do sleep 0.01; done; echo last words; exit 42`, func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{ContainerPath: "/go", HostPath: filepath.Join(n.base, "go")}}
	})
	killed := n.sh(other, otherCfg, "killed", `while [ ! -e /go/now ]; do sleep 0.01; done; kill -9 $$`, func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{ContainerPath: "/go", HostPath: filepath.Join(n.base, "go")}}
	})
	tty := n.sh(pod, cfg, "tty", "exec sh", func(c *cri.ContainerConfig) { c.Tty, c.Stdin = true, true })
	created := n.sh(pod, cfg, "created", "echo started later")
	for _, id := range []string{counter, brief, killed, tty} {
		n.startCtr(id)
	}
	log := filepath.Join(cfg.LogDirectory, "counter.log")
	n.until("counter counts", func() bool { return counted(t, log) > 100 })
	pidOf := func(id string) string {
		r, err := n.ContainerStatus(n.ctx(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		return r.Info["pid"]
	}
	pid := pidOf(counter)

	n.kill()
	writeFile(t, filepath.Join(n.base, "go", "now"), "")
	n.until("containers end without a runtime", func() bool {
		return !running(n, brief) && !running(n, killed)
	})
	n.start()

	if st := n.status(brief); st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != 42 || st.Reason != "Error" {
		t.Errorf("ended meanwhile: %s %d %s", st.State, st.ExitCode, st.Reason)
	}
	if st := n.status(killed); st.ExitCode != 137 {
		t.Errorf("killed meanwhile: %s %d %s", st.State, st.ExitCode, st.Reason)
	}
	if text := logText(t, filepath.Join(cfg.LogDirectory, "brief.log")); text != "last words\n" {
		t.Errorf("printed meanwhile: %q", text)
	}
	if st := n.status(counter); st.State != cri.ContainerState_CONTAINER_RUNNING || pidOf(counter) != pid {
		t.Errorf("counter: %v, pid %s, was %s", st.State, pidOf(counter), pid)
	}
	if st := n.status(tty); st.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("terminal: %s %d", st.State, st.ExitCode)
	}
	at := counted(t, log)
	n.until("counter goes on", func() bool { return counted(t, log) > at+500 })
	after, err := n.PodSandboxStatus(n.ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || after.Status.State != before.Status.State || after.Status.Network.Ip != before.Status.Network.Ip || after.Status.CreatedAt != before.Status.CreatedAt {
		t.Errorf("sandbox: %v %v, was %v", after, err, before)
	}
	n.startCtr(created)
	if st := n.finished(created); st.ExitCode != 0 {
		t.Errorf("created before, started after: %v", st)
	}
	r, err := n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: counter, Cmd: []string{"echo", "hi"}})
	if err != nil || string(r.Stdout) != "hi\n" {
		t.Errorf("exec after restart: %v %v", r, err)
	}
	// A second restart, and the exit of a container that is nobody's child any more.
	n.kill()
	n.start()
	if _, err := n.StopContainer(n.ctx(), &cri.StopContainerRequest{ContainerId: counter, Timeout: 0}); err != nil {
		t.Error(err)
	}
	if st := n.status(counter); st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != 137 {
		t.Errorf("stopped after restart: %s %d %s", st.State, st.ExitCode, st.Reason)
	}
}

// running says whether a container's process exists, without asking a runtime.
func running(n *node, id string) bool {
	var r ctrRecord
	if err := readState(filepath.Join(n.base, "state", "containers", id), &r); err != nil {
		n.t.Fatal(err)
	}
	raw := readFile(fmt.Sprintf("/proc/%d/stat", r.PID))
	return raw != "" && !strings.Contains(raw, ") Z ")
}

func TestHalfMadeIsRemoved(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("half")
	id := n.sh(pod, cfg, "main", "exec sleep 1000")
	n.startCtr(id)
	n.kill()
	// As if the runtime had died before the container's state was written.
	removeFile(t, filepath.Join(n.base, "state", "containers", id, stateFile))
	writeFile(t, filepath.Join(n.base, "state", "sandboxes", strings.Repeat("ab", 32), "resolv.conf"), "")
	n.start()
	if r, err := n.ListContainers(n.ctx(), &cri.ListContainersRequest{}); err != nil || len(r.Containers) != 0 {
		t.Errorf("containers: %v %v", r, err)
	}
	if r, err := n.ListPodSandbox(n.ctx(), &cri.ListPodSandboxRequest{}); err != nil || len(r.Items) != 1 {
		t.Errorf("sandboxes: %v %v", r, err)
	}
	// The name is free again.
	n.startCtr(n.sh(pod, cfg, "main", "exec sleep 1000"))
}

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
	start := time.Now()
	r, err = n.ExecSync(n.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "sleep 1000 & echo done"}})
	if err != nil || string(r.Stdout) != "done\n" || time.Since(start) > wait/2 {
		t.Errorf("exec with a lingering child: %q %v after %s", r.GetStdout(), err, time.Since(start))
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

func TestStreams(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("streams", func(c *cri.PodSandboxConfig) {
		podNetwork(c)
		n.withNetwork()
	})
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
	t.Run("port-forward", func(t *testing.T) { testPortForward(t, n, pod, cfg) })
}

func asExit(err error, into *utilexec.ExitError) bool {
	e, ok := err.(utilexec.ExitError)
	*into = e
	return ok
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
	fw, err := portforward.New(spdytransport.NewDialer(up, &http.Client{Transport: tr}, http.MethodPost, u), []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
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
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("ping\n")); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(wait))
	raw := make([]byte, 5)
	if _, err := io.ReadFull(conn, raw); err != nil || string(raw) != "ping\n" {
		t.Errorf("forwarded: %q %v", raw, err)
	}
}

func TestTTYContainer(t *testing.T) {
	n := newNode(t)
	pod, cfg := n.pod("tty")
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

func TestDestroy(t *testing.T) {
	n := newNode(t)
	n.withNetwork()
	pod, cfg := n.pod("gone", podNetwork)
	id := n.sh(pod, cfg, "polite", `trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done`)
	n.startCtr(id)
	shared, sharedCfg := n.pod("shared", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
		c.Linux.CgroupParent = "/coracle-" + n.id + "/besteffort/podx"
	})
	n.startCtr(n.sh(shared, sharedCfg, "stubborn", `trap '' TERM; while :; do sleep 1; done`))
	log := filepath.Join(cfg.LogDirectory, "polite.log")
	n.until("container is up", func() bool { return strings.Contains(logText(t, log), "up") })
	rc := testConfig(n.base, n.id)
	if err := Destroy(n.ctx(), rc, time.Second); err == nil || !strings.Contains(err.Error(), "in use by another runtime") {
		t.Errorf("while it runs: %v", err)
	}
	n.kill()
	for range 2 {
		if err := Destroy(n.ctx(), rc, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if text := logText(t, log); !strings.Contains(text, "bye") {
		t.Errorf("the container had no time to end: %q", text)
	}
	if _, err := net.InterfaceByName("cor-" + n.id); err == nil {
		t.Error("the bridge is left")
	}
	if g, err := cgroup.Open("/coracle-" + n.id); err != nil || g.Exists() {
		t.Errorf("cgroups are left: %v", err)
	}
}
