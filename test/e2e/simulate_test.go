package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is a user without any privilege.
const nobody = 65534

// unprivileged runs the cluster's binary as nobody.
func (c *cluster) unprivileged(args ...string) result {
	cmd := c.command(args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{}}}
	return c.run(cmd)
}

func (c *cluster) simulate(args ...string) string {
	c.t.Helper()
	r := c.unprivileged(args...)
	if r.err != nil {
		c.t.Fatalf("coracle %s: %v\n%s%s", strings.Join(args, " "), r.err, r.out, r.errs)
	}
	return r.out
}

// TestSimulatedNodes: a user without privileges has a cluster of nodes that run nothing, whose pods
// start, crash and end as their annotations say, whose nodes fall silent and come back, and which
// goes on where it was when its server is killed.
func TestSimulatedNodes(t *testing.T) {
	t.Parallel()
	c := emptyCluster(t)
	for _, path := range []string{c.root, built.dir} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(c.root, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if r := c.unprivileged("up", "--detach", "--nodes", "1"); r.err == nil || !strings.Contains(r.errs, "takes root") {
		t.Errorf("real nodes without root: %v %q", r.err, r.errs)
	}
	if r := c.unprivileged("up", "--detach", "--nodes", "0"); r.err == nil || !strings.Contains(r.errs, "--nodes 0") {
		t.Errorf("no nodes at all: %v %q", r.err, r.errs)
	}
	c.want("up", c.simulate("up", "--simulate", "20", "--detach", "--listen", "127.0.0.1:0"), "20 simulated nodes")
	c.connect()
	c.want("status", c.simulate("status"), "20 simulated nodes   Ready")
	if lines := strings.Split(strings.TrimSpace(c.k("get", "nodes", "-l", "coracle.io/simulated", "--no-headers")), "\n"); len(lines) != 20 {
		t.Errorf("nodes:\n%s", strings.Join(lines, "\n"))
	}
	c.want("nodes", c.k("get", "node", "sim-0007"), "sim-0007", "Ready", "<none>", "v1.37")

	c.k("apply", "-f", filepath.Join("..", "..", "examples", "simulate"))
	c.k("rollout", "status", "deployment/web", "--timeout=60s")
	c.k("wait", "node/gpu-a", "node/small-b", "--for=condition=Ready", "--timeout=60s")
	c.k("wait", "pod/task", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
	c.k("wait", "pod/unpullable", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff", "--timeout=60s")
	c.k("wait", "pod", "-l", "app=crasher", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff", "--timeout=60s")
	c.k("rollout", "status", "statefulset/db", "--timeout=60s")
	c.k("delete", "statefulset", "db")
	c.k("wait", "pvc,pv", "--all", "--for=delete", "--timeout=60s")
	c.want("its own node", c.k("describe", "node", "gpu-a"), "example.com/gpu:", "gpu.8x", "Ready")
	for _, args := range [][]string{{"logs", "deployment/web"}, {"exec", "deployment/web", "--", "true"}} {
		if r := c.try(args...); r.code() == 0 || !strings.Contains(r.errs, "it has no containers") {
			t.Errorf("kubectl %v: %d %q", args, r.code(), r.errs)
		}
	}

	lost := c.someNode("app=web")
	c.k("delete", "node", lost)
	c.k("rollout", "status", "deployment/web", "--timeout=60s")
	if pods := c.k("get", "pods", "-l", "app=web", "-o", "wide"); strings.Contains(pods, lost) {
		t.Errorf("pods on the node that was deleted:\n%s", pods)
	}

	silent := c.someNode("app=web")
	c.k("cordon", silent) // or a new pod may be placed there before its silence is noticed
	c.k("annotate", "node", silent, "coracle.io/sim-fault=silent")
	c.killServer(silent)
	c.want("status", c.simulate("status"), "silent")
	c.k("annotate", "node", silent, "coracle.io/sim-fault-")
	c.k("wait", "node", silent, "--for=condition=Ready", "--timeout=60s")
	c.k("wait", "pod", "-l", "app in (web,slow)", "--for=condition=Ready", "--timeout=60s")

	// One of the twenty is gone, two were applied: there are enough.
	c.simulate("up", "--simulate", "20", "--detach")
	if got := c.nodeCount(); got != 21 {
		t.Errorf("%d nodes", got)
	}
	c.simulate("up", "--simulate", "25", "--detach")
	if got := c.nodeCount(); got != 25 {
		t.Errorf("%d nodes of 25", got)
	}
	c.want("down", c.simulate("down"), "Cluster removed")
}

// someNode is a node that has a pod with these labels.
func (c *cluster) someNode(selector string) string {
	c.t.Helper()
	return c.k("get", "pods", "-l", selector, "-o", "jsonpath={.items[0].spec.nodeName}")
}

func (c *cluster) nodeCount() int {
	c.t.Helper()
	return len(strings.Fields(c.k("get", "nodes", "-o", "name")))
}

const slow = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: slow}
spec:
  replicas: 30
  selector: {matchLabels: {app: slow}}
  template:
    metadata: {labels: {app: slow}, annotations: {coracle.io/sim-ready-after: 3s}}
    spec: {containers: [{name: c, image: i}]}
`

// killServer kills the server while pods are starting and a node's silence is being counted; the
// next one finishes both.
func (c *cluster) killServer(silent string) {
	c.t.Helper()
	c.apply(slow)
	c.k("wait", "deployment/slow", "--for=jsonpath={.status.replicas}=30", "--timeout=60s")
	uids := func() string {
		return c.k("get", "pods", "-l", "app in (web,slow)", "-o", "jsonpath={range .items[*]}{.metadata.uid}{end}")
	}
	before := uids()
	c.kill("server")
	c.simulate("up", "--simulate", "20", "--detach")
	c.k("rollout", "status", "deployment/slow", "--timeout=60s")
	if after := uids(); after != before {
		c.t.Errorf("pods before the server was killed: %s\nand after: %s", before, after)
	}
	c.k("wait", "node", silent, "--for=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=Unknown", "--timeout=90s")
	c.k("wait", "pod", "-l", "app=web", "--for=condition=Ready=False", "--field-selector=spec.nodeName="+silent, "--timeout=60s")
}
