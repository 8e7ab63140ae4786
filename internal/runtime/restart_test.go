package runtime

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

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
	// The terminal still works, both ways.
	a, err := n.Attach(n.ctx(), &cri.AttachRequest{ContainerId: tty, Stdin: true, Stdout: true, Tty: true})
	if err != nil {
		t.Fatal(err)
	}
	var out safeBuffer
	err = executor(t, a.Url).StreamWithContext(n.ctx(), remotecommand.StreamOptions{
		Stdin: strings.NewReader("echo sum $((40+2))\nexit 5\n"), Stdout: &out, Tty: true,
	})
	if err != nil {
		t.Error(err)
	}
	if st := n.finished(tty); st.ExitCode != 5 || !strings.Contains(out.String(), "sum 42") {
		t.Errorf("terminal after restart: exit code %d, %q", st.ExitCode, out.String())
	}
	if text := logText(t, filepath.Join(cfg.LogDirectory, "tty.log")); !strings.Contains(text, "sum 42") {
		t.Errorf("terminal's log after restart: %q", text)
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

// TestMachineRestarted takes away all that a restart of the machine takes:
// processes, mounts, cgroups; the files stay.
func TestMachineRestarted(t *testing.T) {
	n := newNode(t)
	n.withNetwork()
	pod, cfg := n.pod("before", podNetwork)
	id := n.sh(pod, cfg, "main", "exec sleep 1000")
	n.startCtr(id)
	created := n.sh(pod, cfg, "created", "true")
	var r ctrRecord
	if err := readState(filepath.Join(n.base, "state", "containers", id), &r); err != nil {
		t.Fatal(err)
	}
	n.kill()
	if err := unix.Kill(r.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.until("container dies", func() bool { return !running(n, id) })
	for line := range strings.Lines(readFile("/proc/self/mountinfo")) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], n.base) {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
		}
	}
	group, err := cgroup.Open("/coracle-" + n.id)
	if err != nil {
		t.Fatal(err)
	}
	if err := group.Remove(); err != nil {
		t.Fatal(err)
	}
	n.start()
	st, err := n.PodSandboxStatus(n.ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || st.Status.State != cri.PodSandboxState_SANDBOX_NOTREADY || st.Status.Network.Ip != "" {
		t.Errorf("sandbox: %v %v", st, err)
	}
	if c := n.status(id); c.State != cri.ContainerState_CONTAINER_EXITED || c.ExitCode == 0 {
		t.Errorf("container: %s %d %s", c.State, c.ExitCode, c.Reason)
	}
	if _, err := n.StartContainer(n.ctx(), &cri.StartContainerRequest{ContainerId: created}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("start in a dead sandbox: %v", err)
	}
	if _, err := n.RemovePodSandbox(n.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Errorf("remove: %v", err)
	}
	// The pod comes back under its name, with an address.
	again, cfg := n.pod("before", podNetwork)
	if out := n.output(again, cfg, "main", "echo alive"); out != "alive\n" {
		t.Errorf("new container says %q", out)
	}
}
