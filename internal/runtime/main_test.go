package runtime

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/filetree"
	netpod "coracle/internal/network/pod"
	_ "coracle/internal/runtime/boot"
	"coracle/internal/runtime/cgroup"
	"coracle/internal/runtime/image"
	"coracle/internal/runtime/log"
)

// runtimeEnv makes the test binary a runtime: its value is the base directory.
const runtimeEnv = "CORACLE_TEST_RUNTIME"

func TestMain(m *testing.M) {
	if base := os.Getenv(runtimeEnv); base != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		cfg := testConfig(base, os.Getenv(runtimeEnv+"_ID"))
		if at := os.Getenv(runtimeEnv + "_DIES_AT"); at != "" {
			cfg.step = func(name string) {
				if name == at {
					_ = unix.Kill(os.Getpid(), unix.SIGKILL)
					select {}
				}
			}
		}
		if err := Run(ctx, cfg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if trapped() {
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func testConfig(base, id string) Config {
	return Config{
		Socket: filepath.Join(base, "cri.sock"), StateDir: filepath.Join(base, "state"), ImageDir: filepath.Join(base, "images"), ID: id,
		Logs: log.Limits{MaxSize: 10 << 20, MaxFiles: 3}, ClusterCIDR: netip.MustParsePrefix("10.200.0.0/13"),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// node is a runtime under test: a process of its own, so that it can be killed.
type node struct {
	t    testing.TB
	base string
	id   string
	cmd  *exec.Cmd
	conn *grpc.ClientConn
	cri.RuntimeServiceClient
	images cri.ImageServiceClient
	store  *image.Store
}

const busybox = "docker.io/library/busybox:test"

// wait bounds every wait for a condition.
const wait = 20 * time.Second

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
}

// newNode starts a runtime with a busybox image. All of it goes when the test ends.
func newNode(t testing.TB) *node {
	t.Helper()
	requireRoot(t)
	base, err := os.MkdirTemp("", "coracle-rt-")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, base: base, id: "t" + newID()[:6]}
	t.Cleanup(n.cleanUp)
	if n.store, err = image.Open(filepath.Join(base, "images")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.store.Build(busybox, busyboxRoot(t), image.BuildOptions{Cmd: []string{"sh"}}); err != nil {
		t.Fatal(err)
	}
	n.start()
	return n
}

// busyboxRoot makes a root file system of Debian's busybox-static.
func busyboxRoot(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp", "var"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
	bb := filepath.Join(dir, "bin/busybox")
	copyTo(t, "/bin/busybox", bb)
	out, err := exec.Command(bb, "--list").Output()
	if err != nil {
		t.Fatalf("busybox-static is needed: %v", err)
	}
	for _, applet := range strings.Fields(string(out)) {
		if applet != "busybox" {
			if err := os.Link(bb, filepath.Join(dir, "bin", applet)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nkeeper:x:1234:2345:keeper:/tmp:/bin/sh\n",
		"etc/group":  "root:x:0:\nkeepers:x:2345:\nextra:x:3456:keeper\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func copyTo(t testing.TB, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, raw, 0o755); err != nil {
		t.Fatal(err)
	}
}

func (n *node) start(env ...string) {
	n.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), runtimeEnv+"="+n.base, runtimeEnv+"_ID="+n.id)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.cmd = cmd
	conn, err := grpc.NewClient("unix://"+filepath.Join(n.base, "cri.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}}))
	if err != nil {
		n.t.Fatal(err)
	}
	n.conn, n.RuntimeServiceClient, n.images = conn, cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if _, err := n.Version(ctx, &cri.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		n.t.Fatalf("runtime does not answer: %v", err)
	}
}

// kill ends the runtime without warning.
func (n *node) kill() {
	n.t.Helper()
	n.conn.Close()
	if err := n.cmd.Process.Kill(); err != nil {
		n.t.Fatal(err)
	}
	_ = n.cmd.Wait()
}

func (n *node) cleanUp() {
	if n.cmd != nil && n.cmd.ProcessState == nil {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		list, err := n.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err == nil {
			for _, p := range list.Items {
				if _, err := n.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
					n.t.Errorf("clean up sandbox: %v", err)
				}
			}
		}
		n.noZombies()
		n.conn.Close()
		_ = n.cmd.Process.Signal(syscall.SIGTERM)
		if err := n.cmd.Wait(); err != nil {
			n.t.Errorf("the runtime did not end well: %v", err) // also what the race detector makes of a race
		}
	}
	n.leftovers()
	if err := filetree.Dismantle(filepath.Join("/run/coracle", n.id)); err != nil {
		n.t.Errorf("clean up: %v", err)
	}
	if err := filetree.Dismantle(n.base); err != nil {
		n.t.Errorf("clean up: %v", err)
	}
}

// leftovers fails the test for every mount, cgroup or bridge that is left, and removes it.
func (n *node) leftovers() {
	left, err := filetree.MountsBelow(n.base)
	if err != nil {
		n.t.Error(err)
	}
	for _, point := range left {
		n.t.Errorf("left mounted: %s", point) // Dismantle unmounts it
	}
	group, err := cgroup.Open("/coracle-" + n.id)
	if err != nil {
		n.t.Error(err)
		return
	}
	if below, err := group.Children(); err != nil || len(below) > 0 {
		n.t.Errorf("cgroups are left below /coracle-%s: %v %v", n.id, below, err)
		pids, _ := group.Pids()
		for _, pid := range pids {
			n.t.Errorf("process %d is left", pid)
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	if err := group.Remove(); err != nil {
		n.t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(n.base, "state", "network.json")); err == nil {
		net, err := netpod.Open(netpod.Config{
			Bridge: "cor-" + n.id, NFTable: "coracle-pod-" + n.id, CIDR: testCIDR(n.id),
			ClusterCIDR: netip.MustParsePrefix("10.200.0.0/13"), StateDir: filepath.Join(n.base, "state", "network"),
		})
		if err != nil {
			n.t.Error(err)
		} else if err := net.Destroy(); err != nil {
			n.t.Error(err)
		}
	}
}

// testCIDR spreads the pod ranges of tests that run side by side over 10.200.0.0/13.
func testCIDR(id string) netip.Prefix {
	var h uint32
	for _, b := range []byte(id) {
		h = h*31 + uint32(b)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200 + byte(h>>8&7), byte(h), 0}), 24)
}

func (n *node) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	n.t.Cleanup(cancel)
	return ctx
}

// pod runs a sandbox; without an option it has its own IPC and UTS namespaces and the node's network.
func (n *node) pod(name string, opts ...func(*cri.PodSandboxConfig)) (string, *cri.PodSandboxConfig) {
	n.t.Helper()
	cfg := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "default"},
		Hostname:     name,
		LogDirectory: filepath.Join(n.base, "logs", name),
		DnsConfig:    &cri.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"default.svc.cluster.local"}, Options: []string{"ndots:5"}},
		Labels:       map[string]string{"app": name},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER},
		}},
	}
	for _, o := range opts {
		o(cfg)
	}
	r, err := n.RunPodSandbox(n.ctx(), &cri.RunPodSandboxRequest{Config: cfg})
	if err != nil {
		n.t.Fatalf("RunPodSandbox: %v", err)
	}
	return r.PodSandboxId, cfg
}

// podNetwork gives the sandbox a network of its own.
func podNetwork(cfg *cri.PodSandboxConfig) {
	cfg.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_POD
}

func (n *node) withNetwork() {
	n.t.Helper()
	_, err := n.UpdateRuntimeConfig(n.ctx(), &cri.UpdateRuntimeConfigRequest{RuntimeConfig: &cri.RuntimeConfig{
		NetworkConfig: &cri.NetworkConfig{PodCidr: testCIDR(n.id).String()},
	}})
	if err != nil {
		n.t.Fatal(err)
	}
}

// sh makes a container that runs a shell script.
func (n *node) sh(pod string, podCfg *cri.PodSandboxConfig, name, script string, opts ...func(*cri.ContainerConfig)) string {
	n.t.Helper()
	cfg := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: busybox},
		Command:  []string{"/bin/sh", "-c", script},
		LogPath:  name + ".log",
		Linux: &cri.LinuxContainerConfig{
			SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: podCfg.Linux.SecurityContext.NamespaceOptions},
		},
	}
	for _, o := range opts {
		o(cfg)
	}
	r, err := n.CreateContainer(n.ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: cfg, SandboxConfig: podCfg})
	if err != nil {
		n.t.Fatalf("CreateContainer: %v", err)
	}
	return r.ContainerId
}

func (n *node) startCtr(id string) {
	n.t.Helper()
	if _, err := n.StartContainer(n.ctx(), &cri.StartContainerRequest{ContainerId: id}); err != nil {
		n.t.Fatalf("StartContainer: %v", err)
	}
}

func (n *node) status(id string) *cri.ContainerStatus {
	n.t.Helper()
	r, err := n.ContainerStatus(n.ctx(), &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		n.t.Fatalf("ContainerStatus: %v", err)
	}
	return r.Status
}

// until waits for a condition, looking again every few milliseconds.
func (n *node) until(what string, cond func() bool) {
	n.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(wait)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			n.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// finished waits for a container's end.
func (n *node) finished(id string) *cri.ContainerStatus {
	n.t.Helper()
	var st *cri.ContainerStatus
	n.until("container ends", func() bool {
		st = n.status(id)
		return st.State == cri.ContainerState_CONTAINER_EXITED
	})
	return st
}

// logText is what a container printed, its records joined again.
func logText(t testing.TB, path string) string {
	t.Helper()
	var b strings.Builder
	rotated, err := filepath.Glob(path + ".*") // in the order of their times
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range append(rotated, path) {
		raw, err := os.ReadFile(p)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
			if len(f) != 4 {
				t.Fatalf("not a CRI record: %q", line)
			}
			if _, err := time.Parse(time.RFC3339Nano, f[0]); err != nil {
				t.Fatalf("record %q: %v", line, err)
			}
			b.WriteString(f[3])
			if f[2] == "F" {
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

// output runs a script in a container of its own and returns what it printed.
func (n *node) output(pod string, podCfg *cri.PodSandboxConfig, name, script string, opts ...func(*cri.ContainerConfig)) string {
	n.t.Helper()
	id := n.sh(pod, podCfg, name, script, opts...)
	n.startCtr(id)
	n.finished(id)
	return logText(n.t, filepath.Join(podCfg.LogDirectory, name+".log"))
}
