package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/client"
	"coracle/internal/resource"
	"coracle/test/machine"
)

var (
	churnRounds = flag.Int("churn.rounds", 4, "how many rounds of changes and kills TestChurn runs")
	churnSeed   = flag.Uint64("churn.seed", 1, "what the rounds are drawn from")
)

// TestChurn runs TestChurnInside in network, mount and IPC namespaces of its own, where every trace of a cluster is this
// one's.
func TestChurn(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute+time.Duration(*churnRounds)*30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^TestChurnInside$", "-test.v", "-test.timeout=0",
		"-churn.rounds="+strconv.Itoa(*churnRounds), "-churn.seed="+strconv.FormatUint(*churnSeed, 10))
	cmd.Env = append(os.Environ(), builtEnv+"="+built.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWIPC, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestChurnInside") {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// TestChurnInside changes workloads while processes of the cluster are killed, and looks for what is doubled, lost and
// left over.
func TestChurnInside(t *testing.T) {
	if os.Getenv(builtEnv) == "" {
		t.Skip("TestChurn runs it")
	}
	ownNamespaces(t)
	before := look(t)
	c := newCluster(t, 2).images()
	ch := &churn{cluster: c, rand: rand.New(rand.NewPCG(*churnSeed, 1)), counted: map[string]int{}}
	c.apply(churnWorkloads)
	ch.settle(churnReplicas, churnMembers)
	for round := range *churnRounds {
		ch.round(round)
	}
	c.k("scale", "deployment/d", fmt.Sprint("--replicas=", churnReplicas))
	c.k("scale", "statefulset/s", fmt.Sprint("--replicas=", churnMembers))
	ch.settle(churnReplicas, churnMembers)
	ch.counters()
	ch.noneDoubled()
	t.Logf("%d rounds, %d kills", *churnRounds, ch.kills)

	for _, all := range []string{"deployment", "statefulset", "daemonset", "pod", "pvc"} {
		c.k("delete", all, "--all", "--wait=true", "--timeout=60s")
	}
	for _, left := range c.leftAfter(30 * time.Second) {
		t.Errorf("left over once all is deleted: %s", left)
	}
	c.coracle("down", "--grace", "1s")
	for _, d := range machine.Diff(before, look(t), c.could) {
		t.Errorf("after down: %s", d)
	}
}

// ownNamespaces makes the namespaces that this process was started in its own: nothing goes out, nothing comes in, and
// what others have mounted is let go of. A network namespace takes over some settings of the machine's: they are set as a
// machine has them on which no cluster ever was.
func ownNamespaces(t *testing.T) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	for _, err := range []error{
		err, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), letGo(built.dir), unix.Mount("run", "/run", "tmpfs", 0, "mode=755"),
		netlink.LinkSetUp(lo), os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// letGo detaches, in this namespace, the mounts of the other processes of this machine.
func letGo(keep string) error {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(raw)) {
		at := strings.Fields(line)[4]
		if top := strings.SplitN(at, "/", 3)[1]; top == "" || top == "proc" || top == "sys" || top == "dev" || strings.HasPrefix(keep+"/", at+"/") {
			continue
		}
		// Gone already when the mount it lies in was let go of; named with escapes when it is none of ours.
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("let go of %s: %w", at, err)
		}
	}
	return nil
}

func look(t *testing.T) machine.Snapshot {
	t.Helper()
	s, err := machine.Take()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// could says whether a thing could be this cluster's: only cgroups are shared with others here.
func (c *cluster) could(s machine.Subject, name string) bool {
	if s != machine.Cgroups {
		return true
	}
	for _, node := range c.nodes {
		if strings.Contains(name, c.nodeID(node)) {
			return true
		}
	}
	return false
}

const churnReplicas, churnMembers = 6, 3

// A member of the StatefulSet writes its own name, which no other has, into its volume when it starts: one that finds
// another there while it runs says so. It counts what it does.
const churnWorkloads = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 6
  selector: {matchLabels: {app: d}}
  strategy: {rollingUpdate: {maxSurge: 50%, maxUnavailable: 50%}}
  template:
    metadata: {labels: {app: d}}
    spec:
      terminationGracePeriodSeconds: 1
      volumes: [{name: disk, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory}}]
      containers:
      - name: c
        image: e2e/tools:1
        command: [sh, -c, "trap 'exit 0' TERM; while :; do echo on; sleep 1 & wait; done"]
        volumeMounts: [{name: disk, mountPath: /disk, subPath: part}, {name: memory, mountPath: /memory}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: s}
spec:
  replicas: 3
  serviceName: s
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: s}}
  template:
    metadata: {labels: {app: s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: e2e/tools:1
        command:
        - sh
        - -c
        - |
          trap 'exit 0' TERM
          me=$(cat /proc/sys/kernel/random/uuid); echo $me >/data/owner
          n=$(cat /data/count 2>/dev/null || echo 0)
          while [ "$(cat /data/owner)" = $me ]; do
            n=$((n+1)); echo $n >/data/next; mv /data/next /data/count
            sleep 0.2 & wait
          done
          echo $HOSTNAME >>/data/doubled
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: host}
spec:
  selector: {matchLabels: {app: host}}
  template:
    metadata: {labels: {app: host}}
    spec:
      terminationGracePeriodSeconds: 1
      hostNetwork: true
      containers: [{name: c, image: "e2e/tools:1", command: [sleep, "3"]}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: pair}
spec:
  selector: {matchLabels: {app: pair}}
  template:
    metadata: {labels: {app: pair}}
    spec:
      terminationGracePeriodSeconds: 1
      shareProcessNamespace: true
      containers:
      - {name: one, image: "e2e/tools:1", command: [sleep, "100000"], ports: [{containerPort: 80, hostPort: 20999}]}
      - {name: two, image: "e2e/tools:1", command: [sleep, "100000"]}`

// churn is a cluster in turmoil.
type churn struct {
	*cluster
	rand  *rand.Rand
	kills int
	// counted is the highest count seen in each volume.
	counted map[string]int
}

// round asks for a change, kills some processes of the cluster in the midst of it, and has up start them again.
func (c *churn) round(n int) {
	c.t.Helper()
	c.wish(n)
	c.moment()
	processes := []string{"server", "node-node-1", "node-node-2", "runtime-node-1", "runtime-node-2"}
	c.rand.Shuffle(len(processes), func(i, j int) { processes[i], processes[j] = processes[j], processes[i] })
	for _, p := range processes[:1+c.rand.IntN(3)] {
		c.kill(p)
		c.kills++
	}
	c.moment()
	c.up(2)
	c.counters()
}

// moment is a while, of chance length, at which things are under way.
func (c *churn) moment() {
	timer := time.NewTimer(time.Duration(c.rand.IntN(900)) * time.Millisecond)
	defer timer.Stop()
	<-timer.C
}

// wish is what users do; it may be refused.
func (c *churn) wish(n int) {
	patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"round":"%d"}}}}}`, n)
	switch c.rand.IntN(6) {
	case 0:
		c.try("patch", "deployment", "d", "-p", patch)
	case 1:
		c.try("scale", "deployment/d", fmt.Sprint("--replicas=", 3+c.rand.IntN(5)))
	case 2:
		c.try("patch", "statefulset", "s", "-p", patch)
	case 3:
		c.try("scale", "statefulset/s", fmt.Sprint("--replicas=", 1+c.rand.IntN(churnMembers)))
	case 4:
		c.try("delete", "pod", fmt.Sprint("s-", c.rand.IntN(churnMembers)), "--wait=false")
	case 5:
		args := []string{"delete", "pod", "-l", "app=d", "--wait=false"}
		if c.rand.IntN(2) == 0 {
			args = append(args, "--force", "--grace-period=0")
		}
		c.try(args...)
	}
}

// settle waits until every workload is as its user wants it.
func (c *churn) settle(replicas, members int) {
	c.t.Helper()
	// The pods of DaemonSet host end every few seconds, as they are meant to.
	await(c.cluster, 2*patience, "the workloads at rest", resource.Pods, "default", func(pods []*corev1.Pod) bool {
		ready := map[string]int{}
		for _, p := range pods {
			if p.DeletionTimestamp != nil {
				return false
			}
			if podReady(p) {
				ready[p.Labels["app"]]++
			}
		}
		return ready["d"] == replicas && ready["s"] == members && ready["pair"] == 2
	})
}

// counters checks that no member's count went back.
func (c *churn) counters() {
	c.t.Helper()
	for path, raw := range c.volumeFiles("count") {
		n, err := strconv.Atoi(strings.TrimSpace(raw))
		if err != nil {
			continue // it is being replaced
		}
		if n < c.counted[path] {
			c.t.Errorf("%s was at %d and is at %d", path, c.counted[path], n)
		}
		c.counted[path] = n
	}
}

// noneDoubled checks that no member ever ran beside another of its name, and that the runtimes hold one sandbox for each
// pod.
func (c *churn) noneDoubled() {
	c.t.Helper()
	for path, who := range c.volumeFiles("doubled") {
		c.t.Errorf("%s: there were two of %s", path, who)
	}
	eventually(c.t, patience, "one sandbox for each pod", func() bool {
		pods, _, err := c.api.List(c.t.Context(), resource.Pods, client.ListOptions{Namespace: "default"})
		sandboxes := c.entries("nodes/*/runtime/sandboxes/*")
		return err == nil && len(pods) == len(sandboxes)
	})
}
