package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

// TestStatus: the exit code and the words of `coracle status` tell how the cluster is.
func TestStatus(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	status := func(code int, parts ...string) {
		t.Helper()
		r := c.run(c.command("status"))
		if r.code() != code {
			t.Errorf("status exits with %d, want %d:\n%s%s", r.code(), code, r.out, r.errs)
		}
		c.want("status", r.out, parts...)
	}
	status(0, "server", "node-node-1", "runtime-node-2", "Ready")
	c.kill("runtime-node-2")
	status(1, "not running", "coracle up")
	c.up(2)
	await(c, patience, "both nodes Ready", resource.Nodes, "", func(nodes []*corev1.Node) bool {
		return len(nodes) == 2 && condition(nodes[0], corev1.NodeReady) == corev1.ConditionTrue && condition(nodes[1], corev1.NodeReady) == corev1.ConditionTrue
	})
	status(0)

	t.Log("a node that was deleted comes back with the next up")
	c.k("delete", "node", "node-2")
	status(1, "node-2", "not registered")
	c.up(2)
	status(0)
	c.up(2)

	c.kill("server")
	status(1, "not running")
	c.up(2)
	status(0)
	if r := c.run(c.command("up", "--detach", "--listen", "127.0.0.1:1")); r.err == nil || !strings.Contains(r.errs, "this cluster listens on") {
		t.Errorf("up with another address: %q", r.errs)
	}
	if r := c.run(c.command("down", "--node", "node-7")); r.err == nil || !strings.Contains(r.errs, "node-7") {
		t.Errorf("down of a node that is not there: %q", r.errs)
	}
}

// TestStopAndStart: what a stopped cluster holds is there when it starts again, and counts go on.
func TestStopAndStart(t *testing.T) {
	t.Parallel()
	// A range of its own: while the cluster is stopped nobody holds it, and clusters of other tests choose the first that is free.
	c := emptyCluster(t)
	c.up(2, "--listen", "127.0.0.1:0", "--pod-cidr", "10.233.0.0/16")
	c.connect()
	c.images().withEmbedded()
	c.example("storageclass-efs.yaml")
	c.example("counter-statefulset.yaml")
	c.k("create", "configmap", "kept", "--from-literal=k=v")
	c.k("create", "secret", "generic", "kept", "--from-literal=k=v")
	c.pods("default", 1)
	n := c.counted("default", "counter-0", 3)[2]
	objects := c.k("get", "cm,secret,pvc,pv,statefulset,storageclass", "-A", "-o", "jsonpath={range .items[*]}{.kind}/{.metadata.name}/{.metadata.uid}\n{end}")

	c.coracle("down", "--keep-data", "--grace", "1s")
	if left := append(c.processesLeft(), c.containersLeft()...); len(left) != 0 {
		t.Errorf("after down --keep-data there run %v", left)
	}
	c.up(2)
	if diff := cmp.Diff(objects, c.k("get", "cm,secret,pvc,pv,statefulset,storageclass", "-A", "-o", "jsonpath={range .items[*]}{.kind}/{.metadata.name}/{.metadata.uid}\n{end}")); diff != "" {
		t.Errorf("objects changed over the stop (-before +after):\n%s", diff)
	}
	s := c.stream(nil, "logs", "-f", "counter-0")
	s.stop()
	eventually(t, patience, "the count to go on", func() bool {
		r := c.try("logs", "counter-0", "--tail=1")
		return number(r.out) > n+1
	})
	c.k("rollout", "status", "statefulset/counter", "--timeout=60s")
	c.k("set", "image", "statefulset/counter", "counter=kahootali/counter:1.2")
	c.k("rollout", "status", "statefulset/counter", "--timeout=60s")
}

// containersLeft are the processes in the nodes' cgroups.
func (c *cluster) containersLeft() []string {
	var found []string
	for _, node := range c.nodes {
		if pids := c.containerPIDs(node); len(pids) > 0 {
			found = append(found, node)
		}
	}
	return found
}

// TestForeground: without --detach the cluster lives until Ctrl-C, and what it holds is kept. With
// the usual port taken it listens on another.
func TestForeground(t *testing.T) {
	t.Parallel()
	if taken, err := net.Listen("tcp", "127.0.0.1:6443"); err == nil { // else somebody has it already
		defer taken.Close()
	}
	c := emptyCluster(t)
	c.nodes = []string{"node-1"}
	s := c.follow(c.command("up"))
	line := s.until("Cluster ready", contains("Cluster ready in "))
	c.connect()
	if strings.Contains(line, ":6443") || !strings.Contains(line, "1 node,") || !strings.Contains(line, "KUBECONFIG="+c.dir+"/kubeconfig") {
		t.Errorf("up says %q", line)
	}
	c.k("create", "configmap", "kept")
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	s.until("the end", contains("its data is kept"))
	select {
	case <-s.ended:
	case <-time.After(patience):
		t.Fatal("up goes on after it was interrupted")
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("up ends with %d after Ctrl-C", code)
	}
	if left := c.processesLeft(); len(left) != 0 {
		t.Errorf("after Ctrl-C there run %v", left)
	}
	c.up(1)
	c.k("get", "configmap", "kept")
}

// TestUseContext: the user's own kubeconfig gets a context when asked, and loses it with the cluster.
func TestUseContext(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	mine := filepath.Join(c.root, "mine")
	with := func(cmd *exec.Cmd) string {
		t.Helper()
		cmd.Env = append(cmd.Env, "KUBECONFIG="+mine)
		r := c.run(cmd)
		if r.err != nil {
			t.Fatalf("%v: %v %s", cmd.Args, r.err, r.errs)
		}
		return r.out
	}
	with(c.kubectlCommand("config", "set-context", "other", "--user=me", "--cluster=far"))
	with(c.command("up", "--detach", "--use-context"))
	c.want("nodes", with(c.kubectlCommand("get", "nodes")), "node-1")
	if got := with(c.kubectlCommand("config", "current-context")); got != "coracle\n" {
		t.Errorf("current context %q", got)
	}
	with(c.command("down"))
	if got := strings.Fields(with(c.kubectlCommand("config", "get-contexts", "-o", "name"))); len(got) != 1 || got[0] != "other" {
		t.Errorf("contexts after down: %v, want the other one alone", got)
	}
}

// TestManyAtOnce: clusters that are created at the same moment take different addresses.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	clusters := []*cluster{emptyCluster(t), emptyCluster(t), emptyCluster(t)}
	started := make(chan error)
	for _, c := range clusters {
		c.nodes = []string{"node-1"}
		go func() { started <- c.run(c.command("up", "--detach", "--listen", "127.0.0.1:0")).err }()
	}
	for range clusters {
		if err := <-started; err != nil {
			t.Errorf("up: %v", err)
		}
	}
	taken := map[string]bool{}
	for _, c := range clusters {
		c.connect()
		taken[c.k("get", "node", "node-1", "-o", "jsonpath={.spec.podCIDR}")] = true
		if r := c.run(c.command("status")); r.err != nil {
			t.Errorf("status: %s%s", r.out, r.errs)
		}
	}
	if len(taken) != len(clusters) {
		t.Errorf("pod ranges of %d clusters: %v", len(clusters), taken)
	}
}
