package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

// systemsLong has the tests of real systems run those too that are too heavy for each run of all tests.
var systemsLong = flag.Bool("systems.long", false, "with TestSystems: PostgreSQL with the web application, and ZooKeeper too")

// systemImages builds images of examples/systems as a user does.
func (c *cluster) systemImages(names ...string) {
	c.t.Helper()
	cmd := exec.Command(filepath.Join("..", "..", "scripts", "system-image"), names...)
	binary, err := filepath.Abs(c.binary)
	if err != nil {
		c.t.Fatal(err)
	}
	cmd.Env = append(c.env(), "CORACLE="+binary, "CORACLE_DATA_DIR="+c.dir, "HOME="+os.Getenv("HOME"))
	if r := c.run(cmd); r.err != nil {
		c.t.Fatalf("scripts/system-image %s: %v\n%s%s", strings.Join(names, " "), r.err, r.out, r.errs)
	}
}

// system applies a manifest of examples/systems as it stands.
func (c *cluster) system(name string) {
	c.t.Helper()
	c.k("apply", "-f", filepath.Join("..", "..", "examples", "systems", name+".yaml"))
}

// rolledOut waits for a workload.
func (c *cluster) rolledOut(namespace, workload string) {
	c.t.Helper()
	c.k("rollout", "status", "-n", namespace, workload, "--timeout=90s")
}

// TestSystems runs real systems by the manifests of examples/systems, each as its own users would, on one cluster.
func TestSystems(t *testing.T) {
	systems := map[string]func(*cluster){
		"log collector": logCollector, "etcd": etcd, "redis": redis, "service watcher": serviceWatcher, "leader": leader,
	}
	images := []string{"collector", "etcd", "redis", "controller"}
	if *systemsLong {
		systems["database and web"], systems["zookeeper"] = databaseAndWeb, zookeeper
		images = append(images, "postgres", "web", "zookeeper")
	}
	t.Parallel()
	c := newCluster(t, 3).images()
	c.systemImages(images...)
	for name, test := range systems {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sub := *c
			sub.t = t
			test(&sub)
		})
	}
}

// talkers are pods that say who they are, on each node one.
const talkers = `
apiVersion: v1
kind: Namespace
metadata: {name: talk}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: talker, namespace: talk}
spec:
  selector: {matchLabels: {app: talker}}
  template:
    metadata: {labels: {app: talker}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: e2e/tools:1
        command: [sh, -c, "echo first word of $HOSTNAME; i=0; while true; do sleep 1; i=$((i+1)); echo word $i of $HOSTNAME; done"]
`

// logCollector: a collector on each node reads what its own node's pods say, no other node's, beginning with their first
// line, and finds logs in both of the kubelet's places.
func logCollector(c *cluster) {
	c.system("log-collector")
	c.rolledOut("logging", "daemonset/collector")
	c.apply(talkers)
	said := c.pods("talk", len(c.nodes))
	collectors := await(c, patience, "the collectors", resource.Pods, "logging", func(pods []*corev1.Pod) bool { return countReady(pods) == len(c.nodes) })
	for _, collector := range collectors {
		own, others := "", []string{}
		for _, p := range said {
			if p.Spec.NodeName == collector.Spec.NodeName {
				own = p.Name
			} else {
				others = append(others, p.Name)
			}
		}
		s := c.stream(nil, "logs", "-n", "logging", "-f", collector.Name)
		s.until("the first word", contains("first word of "+own))
		s.until("a later one", contains("word 3 of "+own))
		s.stop()
		for _, line := range s.seen {
			for _, other := range others {
				if strings.Contains(line, other) {
					c.t.Errorf("%s on %s reads the log of another node's pod: %s", collector.Name, collector.Spec.NodeName, line)
				}
			}
		}
	}
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: looks, namespace: talk}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "e2e/tools:1", command: [sleep, "1000"], volumeMounts: [{name: pods, mountPath: /var/log/pods}, {name: links, mountPath: /var/log/containers}]}]
  volumes: [{name: pods, hostPath: {path: /var/log/pods, type: Directory}}, {name: links, hostPath: {path: /var/log/containers}}]
`)
	c.k("wait", "-n", "talk", "pod/looks", "--for=condition=Ready", "--timeout=60s")
	for _, p := range said {
		_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
		link := "/var/log/containers/" + p.Name + "_talk_main-" + id + ".log"
		log := "/var/log/pods/talk_" + p.Name + "_" + string(p.UID) + "/main/0.log"
		byLink, byPath := c.try("exec", "-n", "talk", "looks", "--", "cat", link), c.try("exec", "-n", "talk", "looks", "--", "cat", log)
		if mine := p.Spec.NodeName == "node-1"; mine != strings.Contains(byLink.out, "stdout F first word of "+p.Name) || mine != strings.Contains(byPath.out, "stdout F first word of ") {
			c.t.Errorf("the log of a pod on %s, from a pod on node-1: %q %q", p.Spec.NodeName, byLink.errs, byPath.errs)
		}
	}
	if *systemsLong {
		rotated(c)
	}
}

// rotated: a collector reads each line of a log that is rotated meanwhile, once and in order.
func rotated(c *cluster) {
	const lines = 200_000
	c.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: flood, namespace: talk}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "e2e/tools:1", command: [sh, -c, "i=0; while [ $i -lt %d ]; do echo flood $i of a log that is long enough to be rotated; i=$((i+1)); done; exec sleep 1000"]}]
`, lines))
	c.k("wait", "-n", "talk", "pod/flood", "--for=condition=Ready", "--timeout=60s")
	pod := await(c, patience, "the flood", resource.Pods, "talk", func(pods []*corev1.Pod) bool { return len(pods) > 0 && pods[0].Name == "flood" })[0]
	for _, collector := range c.listPods("logging") {
		if collector.Spec.NodeName != pod.Spec.NodeName {
			continue
		}
		s := c.stream(nil, "logs", "-n", "logging", "-f", collector.Name)
		next := 0
		s.until("the end of the flood", func(line string) bool {
			_, text, _ := strings.Cut(line, ": flood ")
			if n := number(text); text != "" {
				if n != next {
					c.t.Fatalf("line %d came where line %d was due", n, next)
				}
				next++
			}
			return next == lines
		})
		s.stop()
	}
	if files := c.entries("nodes/*/agent/logs/talk_flood_*/main/0.log.*"); len(files) == 0 {
		c.t.Error("the log was not rotated")
	}
}
