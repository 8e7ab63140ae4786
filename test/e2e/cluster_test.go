package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"coracle/internal/client"
	"coracle/internal/client/remote"
	"coracle/internal/filetree"
)

// cluster is a running cluster and a way to talk to it.
type cluster struct {
	t *testing.T
	// root holds all that this test has on disk; dir is the cluster's data directory in it.
	root, dir string
	// binary is a hard link of the built one: processes are this cluster's when they run it.
	binary  string
	kubectl string
	id      string
	nodes   []string // every node there ever was
	api     client.Interface
}

// newCluster starts a cluster of n nodes, which the test's end stops and looks for traces of.
func newCluster(t *testing.T, n int) *cluster {
	t.Helper()
	c := emptyCluster(t)
	c.up(n, "--listen", "127.0.0.1:0")
	c.connect()
	return c
}

// emptyCluster is a place for a cluster that is yet to be started.
func emptyCluster(t *testing.T) *cluster {
	t.Helper()
	if err := sources(); err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp("/tmp", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, root: root, dir: filepath.Join(root, "d"), binary: filepath.Join(root, "coracle"), kubectl: built.stock}
	if err := os.Link(built.binary, c.binary); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.remove)
	return c
}

// connect reads how a cluster that was started is called and reached.
func (c *cluster) connect() {
	c.t.Helper()
	var cfg struct{ ID string }
	raw, err := os.ReadFile(filepath.Join(c.dir, "cluster.json"))
	if err != nil {
		c.t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &cfg); err != nil {
		c.t.Fatal(err)
	}
	c.id = cfg.ID
	if c.api, err = remote.FromKubeconfig(filepath.Join(c.dir, "kubeconfig")); err != nil {
		c.t.Fatal(err)
	}
}

// withEmbedded uses the kubectl in the binary.
func (c *cluster) withEmbedded() *cluster {
	c.kubectl = built.embedded
	return c
}

// images builds the images that the tests run into the cluster's store.
func (c *cluster) images() *cluster {
	c.t.Helper()
	for release, path := range built.counters {
		c.coracle("image", "build", "-t", "kahootali/counter:"+release, path)
	}
	c.coracle("image", "build", "-t", "e2e/tools:1", "-e", "PATH=/bin", built.rootfs)
	return c
}

// up runs `coracle up --detach` with n nodes.
func (c *cluster) up(n int, more ...string) string {
	c.t.Helper()
	out := c.coracle(append([]string{"up", "--detach", "--nodes", strconv.Itoa(n)}, more...)...)
	for i := len(c.nodes); i < n; i++ {
		c.nodes = append(c.nodes, "node-"+strconv.Itoa(i+1))
	}
	return out
}

// coracle runs the cluster's binary and returns what it prints; a failure ends the test.
func (c *cluster) coracle(args ...string) string {
	c.t.Helper()
	r := c.run(c.command(args...))
	if r.err != nil {
		c.t.Fatalf("coracle %s: %v\n%s%s", strings.Join(args, " "), r.err, r.out, r.errs)
	}
	return r.out
}

func (c *cluster) command(args ...string) *exec.Cmd {
	cmd := exec.Command(c.binary, append(args, "--data-dir", c.dir)...)
	cmd.Env = c.env()
	return cmd
}

// env keeps the user's own kubeconfig out of the tests.
func (c *cluster) env() []string {
	return append(os.Environ(), "KUBECONFIG="+filepath.Join(c.dir, "kubeconfig"), "HOME="+c.root, "KUBECACHEDIR="+filepath.Join(c.root, "cache"))
}

// pid is the pid of one of the cluster's processes: server, node-NAME or runtime-NAME.
func (c *cluster) pid(process string) int {
	c.t.Helper()
	raw, err := os.ReadFile(filepath.Join(c.dir, "run", process+".lock"))
	if err != nil {
		c.t.Fatal(err)
	}
	if len(raw) == 0 { // the next process has it, and is about to say so
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		c.t.Fatalf("lock of %s: %v", process, err)
	}
	return pid
}

// kill ends one of the cluster's processes with SIGKILL and waits until it is gone.
func (c *cluster) kill(process string) {
	c.t.Helper()
	pid := c.pid(process)
	if exe, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe"); err != nil || exe != c.binary {
		c.t.Fatalf("%s: process %d is %q (%v), not of this cluster", process, pid, exe, err)
	}
	c.killPID(pid)
}

func (c *cluster) killPID(pid int) {
	c.t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return
	}
	if err != nil {
		c.t.Fatalf("open process %d: %v", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, syscall.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		c.t.Fatalf("kill %d: %v", pid, err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
		if err == nil && n > 0 {
			return
		}
	}
	c.t.Fatalf("process %d does not end", pid)
}

// killNode ends a node as a power failure does: agent, runtime and everything in its cgroup.
func (c *cluster) killNode(name string) {
	c.t.Helper()
	c.kill("node-" + name)
	c.kill("runtime-" + name)
	for _, pid := range c.containerPIDs(name) {
		c.killPID(pid)
	}
}

// remove ends the cluster however the test went, and looks for what it left behind.
func (c *cluster) remove() {
	t := c.t
	if t.Failed() {
		c.showLogs()
	}
	if _, err := os.Stat(filepath.Join(c.dir, "cluster.json")); err == nil {
		r := c.run(c.command("down", "--grace", "1s"))
		if r.err != nil {
			t.Errorf("coracle down: %v\n%s%s", r.err, r.out, r.errs)
		}
	}
	for _, trace := range c.traces() {
		t.Errorf("left behind: %s", trace)
	}
	if t.Failed() {
		c.sweep()
	}
	if err := filetree.Remove(c.root); err != nil {
		t.Errorf("remove what the test left: %v", err)
	}
}

// showLogs prints the end of each process's log, and what the cluster looks like.
func (c *cluster) showLogs() {
	for _, args := range [][]string{{"get", "pods,nodes,pvc", "-A", "-o", "wide"}, {"get", "events", "-A", "--sort-by=.lastTimestamp"}} {
		r := c.try(args...)
		c.t.Logf("kubectl %s:\n%s", strings.Join(args, " "), tail(r.out+r.errs, 60))
	}
	logs, _ := filepath.Glob(filepath.Join(c.dir, "logs", "*.log"))
	for _, path := range logs {
		if raw, err := os.ReadFile(path); err == nil && len(raw) > 0 {
			c.t.Logf("%s:\n%s", filepath.Base(path), tail(string(raw), 25))
		}
	}
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
