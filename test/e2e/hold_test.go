package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

// TestServerWithAnotherHistory: where a cluster's server was, another one answers, with the same certificates and
// another store: that of a new cluster, or an older copy of this one's. The containers run on and everybody says why;
// an agent that is killed meanwhile goes on with its pods by itself; with the right server back all goes on.
func TestServerWithAnotherHistory(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1).images().withEmbedded()
	c.kill("server")
	older := c.twin("older")
	older.copyData("cluster.json", "pki", "store", "record", "kubeconfig")
	c.up(1)
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: lives}
spec:
  containers:
  - {name: c, image: e2e/tools:1, command: [sleep, "100000"]}
---
apiVersion: v1
kind: Secret
metadata: {name: safe}
stringData: {code: "1234"}
---
apiVersion: v1
kind: Pod
metadata: {name: crashes}
spec:
  containers:
  - name: c
    image: e2e/tools:1
    command: [sleep, "200000"]
    env: [{name: CODE, valueFrom: {secretKeyRef: {name: safe, key: code}}}]
    volumeMounts: [{name: shown, mountPath: /shown}]
  volumes: [{name: shown, secret: {secretName: safe}}]
---
apiVersion: v1
kind: Pod
metadata: {name: sickens}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: e2e/tools:1
    command: [sh, -c, "touch /tmp/well && exec sleep 300000"]
    livenessProbe: {exec: {command: [test, -e, /tmp/well]}, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 20}`)
	c.pods("default", 3)
	var before []int
	eventually(t, patience, "the container's program to run", func() bool {
		before = c.sleepers("node-1", "100000")
		return len(before) == 1
	})
	c.kill("server")

	fresh := c.twin("fresh")
	fresh.copyData("cluster.json", "pki", "kubeconfig")
	fresh.coracle("store", "anew")
	for _, wrong := range []struct {
		server *cluster
		reason string
	}{{fresh, "OtherCluster"}, {older, "ServerKnowsLess"}} {
		wrong.server.coracle("up", "--detach", "--simulate", "1", "--listen", c.listen())
		wrong.server.connect()
		wrong.server.holds(wrong.reason)
		c.kill("node-node-1")
		machineWas := c.traces()
		if r := c.run(c.command("up", "--detach", "--nodes", "1")); r.err == nil || !strings.Contains(r.errs, c.listen()+" is taken by process ") {
			t.Errorf("a second server at one address: %s%s", r.out, r.errs)
		}
		for _, trace := range c.traces() {
			if !slices.Contains(machineWas, trace) && !strings.Contains(trace, "/coracle init ") { // that is a probe on its way
				t.Errorf("that left behind: %s", trace)
			}
		}
		c.startAgent("node-1")
		wrong.server.holds(wrong.reason)
		c.goesOn("node-1")
		if now := c.sleepers("node-1", "100000"); !slices.Equal(now, before) {
			t.Errorf("%s: processes %v, want %v", wrong.reason, now, before)
		}
		wrong.server.kill("server")
	}
	c.up(1)
	c.pods("default", 3)
	await(c, patience, "the node to go on", resource.Nodes, "", func(nodes []*corev1.Node) bool {
		return len(nodes) == 1 && condition(nodes[0], corev1.NodeReady) == corev1.ConditionTrue
	})
	if now := c.sleepers("node-1", "100000"); !slices.Equal(now, before) {
		t.Errorf("with the right server back: processes %v, want %v", now, before)
	}
	c.k("delete", "pod", "lives", "crashes", "sickens", "--grace-period=1")
	c.kill("server")

	t.Log("the older copy is what its administrator wants to go on with")
	older.up(0, "--simulate", "1")
	older.holds("ServerKnowsLess")
	older.coracle("node", "accept", "node-1")
	await(older, patience, "the node to serve it", resource.Nodes, "", func(nodes []*corev1.Node) bool {
		i := slices.IndexFunc(nodes, func(n *corev1.Node) bool { return n.Name == "node-1" })
		return i >= 0 && condition(nodes[i], corev1.NodeReady) == corev1.ConditionTrue
	})
	if r := older.run(older.command("node", "accept", "node-1")); r.err == nil || !strings.Contains(r.errs, "nothing to accept") {
		t.Errorf("accepting once more: %q", r.errs)
	}
	older.kill("server")
}

// holds waits until node-1 says that it holds, and checks that the commands say so too.
func (c *cluster) holds(reason string) {
	c.t.Helper()
	await(c, patience, "the node to hold: "+reason, resource.Nodes, "", func(nodes []*corev1.Node) bool {
		return slices.ContainsFunc(nodes, func(n *corev1.Node) bool {
			return n.Name == "node-1" && slices.ContainsFunc(n.Status.Conditions, func(cond corev1.NodeCondition) bool {
				return cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionFalse && cond.Reason == reason
			})
		})
	})
	r := c.run(c.command("status"))
	if r.code() != 1 {
		c.t.Errorf("status exits with %d", r.code())
	}
	c.want("status", r.out, "NotReady,"+reason, "Node node-1 holds: ", "coracle node accept node-1")
	c.explained("node/node-1", 2, reason, "coracle node accept node-1")
}

// sleepers are the processes in a node's containers that sleep for so many seconds: that is how the test's pods are
// told from one another.
func (c *cluster) sleepers(node, seconds string) (pids []int) {
	for _, pid := range c.containerPIDs(node) {
		if raw, err := os.ReadFile(proc(pid, "cmdline")); err == nil && string(raw) == "sleep\x00"+seconds+"\x00" {
			pids = append(pids, pid)
		}
	}
	return pids
}

func proc(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

// goesOn has one container crash and another fail its probe, and wants both started again: the one with the environment
// and the volume it had.
func (c *cluster) goesOn(node string) {
	c.t.Helper()
	var crashed, sick []int
	eventually(c.t, patience, "both containers to run", func() bool {
		crashed, sick = c.sleepers(node, "200000"), c.sleepers(node, "300000")
		return len(crashed) == 1 && len(sick) == 1
	})
	c.killPID(crashed[0])
	if err := os.Remove(proc(sick[0], "root/tmp/well")); err != nil {
		c.t.Fatal(err)
	}
	var again []int
	eventually(c.t, patience, "containers that crash, or fail their probe, to be started again", func() bool {
		again = c.sleepers(node, "200000")
		well := c.sleepers(node, "300000")
		return len(again) == 1 && again[0] != crashed[0] && len(well) == 1 && well[0] != sick[0]
	})
	if raw, err := os.ReadFile(proc(again[0], "environ")); err != nil || !strings.Contains("\x00"+string(raw), "\x00CODE=1234\x00") {
		c.t.Errorf("the environment of the second attempt: %q %v", raw, err)
	}
	if raw, err := os.ReadFile(proc(again[0], "root/shown/code")); err != nil || string(raw) != "1234" {
		c.t.Errorf("the volume of the second attempt: %q %v", raw, err)
	}
}

// twin is a place for another server of this cluster's.
func (c *cluster) twin(name string) *cluster {
	c.t.Helper()
	twin := *c
	twin.nodes, twin.dir = nil, filepath.Join(c.root, name)
	c.t.Cleanup(func() {
		if r := twin.run(twin.command("down")); r.err != nil {
			c.t.Errorf("down of %s: %v\n%s%s", name, r.err, r.out, r.errs)
		}
	})
	return &twin
}

// copyData copies parts of the first data directory of the test.
func (c *cluster) copyData(parts ...string) {
	c.t.Helper()
	for _, part := range parts {
		from, to := filepath.Join(c.root, "d", part), filepath.Join(c.dir, part)
		info, err := os.Stat(from)
		if err != nil {
			c.t.Fatal(err)
		}
		if err := os.MkdirAll(c.dir, 0o700); err != nil {
			c.t.Fatal(err)
		}
		if info.IsDir() {
			err = os.CopyFS(to, os.DirFS(from))
		} else {
			var raw []byte
			if raw, err = os.ReadFile(from); err == nil {
				err = os.WriteFile(to, raw, info.Mode())
			}
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

// listen is the address of the cluster's server.
func (c *cluster) listen() string {
	c.t.Helper()
	raw, err := os.ReadFile(filepath.Join(c.dir, "cluster.json"))
	if err != nil {
		c.t.Fatal(err)
	}
	var cfg struct{ Listen string }
	if err := json.Unmarshal(raw, &cfg); err != nil {
		c.t.Fatal(err)
	}
	return cfg.Listen
}

// startAgent starts a node's agent by itself.
func (c *cluster) startAgent(node string) {
	c.t.Helper()
	cmd := c.command("node", "--name", node)
	log, err := os.OpenFile(filepath.Join(c.dir, "logs", "node-"+node+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go cmd.Wait() // the cluster's end looks for processes left
	eventually(c.t, patience, "the agent "+strconv.Itoa(cmd.Process.Pid), func() bool {
		return c.pid("node-"+node) == cmd.Process.Pid
	})
}
