package e2e

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

// bystander is a pod that nothing in these tests is meant to touch.
const bystander = `
apiVersion: v1
kind: Pod
metadata: {name: bystander, namespace: still}
spec:
  containers:
  - {name: counter, image: "kahootali/counter:1.1", volumeMounts: [{name: app, mountPath: /app}]}
  volumes: [{name: app, emptyDir: {}}]
`

// withCounters starts a cluster with each workload in the namespace of its kind, and a bystander.
func withCounters(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(t, 2).images()
	c.example("storageclass-efs.yaml")
	for _, kind := range []string{"deployment", "statefulset", "daemonset"} {
		c.k("create", "namespace", kind)
		c.example("counter-"+kind+".yaml", "-n", kind)
	}
	c.k("create", "namespace", "still")
	c.apply(bystander)
	c.k("scale", "-n", "deployment", "deployment/counter", "--replicas=3")
	c.pods("still", 1)
	c.pods("deployment", 3)
	c.pods("statefulset", 1)
	c.pods("daemonset", 2)
	return c
}

// TestKillServer: a server killed in the middle of rollouts and scalings finishes them when it is
// back; no acknowledged object is lost and no container restarted.
func TestKillServer(t *testing.T) {
	t.Parallel()
	c := withCounters(t)
	before := identities(c.listPods("still"))

	t.Log("in the middle of scaling each workload")
	untouched := identities(c.listPods("deployment"))
	c.k("scale", "-n", "deployment", "deployment/counter", "--replicas=6")
	c.k("scale", "-n", "statefulset", "statefulset/counter", "--replicas=3")
	c.k("label", "node", "node-1", "note=acknowledged")
	for i := range 20 {
		c.k("create", "configmap", "-n", "still", "acknowledged-"+strconv.Itoa(i), "--from-literal=n="+strconv.Itoa(i))
		if i == 10 {
			c.kill("server")
			c.up(2)
		}
	}
	c.kill("server")
	c.up(2)
	if n := strings.Count(c.k("get", "configmap", "-n", "still", "-o", "name"), "acknowledged-"); n != 20 {
		t.Errorf("%d of 20 acknowledged objects are there", n)
	}
	if got := c.k("get", "node", "node-1", "-o", "jsonpath={.metadata.labels.note}"); got != "acknowledged" {
		t.Errorf("the node's label is %q", got)
	}
	after := identities(c.pods("deployment", 6))
	for name, id := range untouched {
		if diff := cmp.Diff(id, after[name]); diff != "" {
			t.Errorf("pod %s was changed by the server's end (-before +after):\n%s", name, diff)
		}
	}
	c.pods("statefulset", 3)

	t.Log("in the middle of updating each workload")
	workloads := map[string]string{"deployment": "deployment/counter", "statefulset": "statefulset/counter", "daemonset": "daemonset/counter-app"}
	for namespace, name := range workloads {
		c.k("set", "image", "-n", namespace, name, "counter=kahootali/counter:1.2")
	}
	await(c, patience, "a pod of the new release", resource.Pods, "statefulset", func(pods []*corev1.Pod) bool {
		for _, p := range pods {
			if image(p) == "kahootali/counter:1.2" {
				return true
			}
		}
		return false
	})
	c.kill("server")
	c.up(2)
	for namespace, name := range workloads {
		c.k("rollout", "status", "-n", namespace, name, "--timeout=90s")
	}
	for namespace, n := range map[string]int{"deployment": 6, "statefulset": 3, "daemonset": 2} {
		for _, p := range c.pods(namespace, n) {
			if image(p) != "kahootali/counter:1.2" || p.Status.ContainerStatuses[0].RestartCount != 0 {
				t.Errorf("%s/%s runs %s, restarted %d times", namespace, p.Name, image(p), p.Status.ContainerStatuses[0].RestartCount)
			}
		}
	}
	if diff := cmp.Diff(before, identities(c.pods("still", 1))); diff != "" {
		t.Errorf("the bystander was changed (-before +after):\n%s", diff)
	}

	t.Log("in the middle of deleting each workload")
	for namespace, name := range workloads {
		c.k("delete", "-n", namespace, name, "--wait=false")
	}
	c.kill("server")
	c.up(2)
	for namespace := range workloads {
		c.pods(namespace, 0)
	}
	await(c, patience, "no ReplicaSets", resource.ReplicaSets, "deployment", func(all []*appsv1.ReplicaSet) bool { return len(all) == 0 })
}

// TestKillAgentAndRuntime: the processes of a node die and come back; its containers run on, and
// what was asked meanwhile is done.
func TestKillAgentAndRuntime(t *testing.T) {
	t.Parallel()
	c := withCounters(t)
	for _, processes := range [][]string{{"node-node-1", "node-node-2"}, {"runtime-node-1", "runtime-node-2"}, {"node-node-1", "runtime-node-1", "server"}} {
		t.Log("kill", processes)
		still := identities(c.listPods("still"))
		old := identities(c.listPods("deployment"))
		c.k("scale", "-n", "deployment", "deployment/counter", "--replicas=5")
		for _, p := range processes {
			c.kill(p)
		}
		c.up(2)
		now := identities(c.pods("deployment", 5))
		for name, id := range old {
			if diff := cmp.Diff(id, now[name]); diff != "" {
				t.Errorf("pod %s was changed (-before +after):\n%s", name, diff)
			}
		}
		if diff := cmp.Diff(still, identities(c.pods("still", 1))); diff != "" {
			t.Errorf("the bystander was changed (-before +after):\n%s", diff)
		}
		n := c.lastCount("still", "bystander")
		s := c.stream(nil, "logs", "-n", "still", "-f", "bystander")
		s.until("the count to go on", func(line string) bool { return number(line) > n+1 })
		s.stop()
		c.k("scale", "-n", "deployment", "deployment/counter", "--replicas=3")
		c.pods("deployment", 3)
	}
	if r := c.try("exec", "-n", "still", "bystander", "--", "/counter", "/nowhere"); r.err == nil || !strings.Contains(r.errs, "counter:") && !strings.Contains(r.errs, "no such file") {
		t.Errorf("exec in a container found again: %v %q", r.err, r.errs)
	}
}

// TestKillNode: a node dies with all that runs on it. It is NotReady after its lease has run out;
// a Deployment's pod moves after its toleration, a StatefulSet's only when force-deleted.
func TestKillNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2).images()
	c.example("storageclass-efs.yaml")
	c.k("cordon", "node-1")
	const tolerations = `[{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":2},{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":2}]`
	for _, kind := range []string{"deployment", "statefulset"} {
		c.k("create", "namespace", kind)
		c.example("counter-"+kind+".yaml", "-n", kind)
		c.k("patch", "-n", kind, kind+"/counter", "-p", `{"spec":{"template":{"spec":{"tolerations":`+tolerations+`}}}}`)
		c.k("rollout", "status", "-n", kind, kind+"/counter", "--timeout=60s")
	}
	moved := c.pods("deployment", 1)[0]
	stays := c.pods("statefulset", 1)[0]
	c.counted("deployment", moved.Name, 2)
	c.k("uncordon", "node-1")
	c.killNode("node-2")
	died := time.Now()
	await(c, 2*patience, "node-2 NotReady", resource.Nodes, "", func(nodes []*corev1.Node) bool {
		return len(nodes) == 2 && condition(nodes[1], corev1.NodeReady) == corev1.ConditionUnknown
	})
	took := time.Since(died)
	t.Logf("NotReady %s after the node died", took.Round(100*time.Millisecond))
	if took < 25*time.Second || took > 60*time.Second {
		t.Errorf("NotReady after %s, want 30 to 50 seconds: the lease is renewed every 10 and good for 40", took)
	}
	if state := c.k("get", "node", "node-2", "--no-headers"); !strings.Contains(state, "NotReady") {
		t.Errorf("kubectl says %q", state)
	}
	await(c, patience, "the Deployment's pod on node-1", resource.Pods, "deployment", func(pods []*corev1.Pod) bool {
		for _, p := range pods {
			if p.Spec.NodeName == "node-1" && podReady(p) {
				return true
			}
		}
		return false
	})
	var moving string
	for _, p := range c.listPods("deployment") {
		if p.Spec.NodeName == "node-1" {
			moving = p.Name
		}
	}
	if n := c.firstCount("deployment", moving); n < 3 {
		t.Errorf("the moved pod begins at %d, want it to go on after 2", n)
	}
	ending := await(c, patience, "the StatefulSet's pod told to end", resource.Pods, "statefulset", func(pods []*corev1.Pod) bool {
		return len(pods) == 1 && pods[0].DeletionTimestamp != nil
	})
	if ending[0].UID != stays.UID || ending[0].Spec.NodeName != "node-2" {
		t.Errorf("the StatefulSet's pod is %s on %s, want the old one on node-2", ending[0].UID, ending[0].Spec.NodeName)
	}
	c.k("delete", "pod", "-n", "statefulset", "counter-0", "--force", "--grace-period=0")
	if p := c.pods("statefulset", 1)[0]; p.Spec.NodeName != "node-1" || p.UID == stays.UID {
		t.Errorf("after the forced deletion the pod is on %s", p.Spec.NodeName)
	}

	t.Log("the node comes back")
	c.up(2)
	await(c, patience, "node-2 without taints", resource.Nodes, "", func(nodes []*corev1.Node) bool {
		return len(nodes) == 2 && condition(nodes[1], corev1.NodeReady) == corev1.ConditionTrue && len(nodes[1].Spec.Taints) == 0
	})
	c.pods("deployment", 1)
	c.pods("statefulset", 1)
}

func condition(n *corev1.Node, kind corev1.NodeConditionType) corev1.ConditionStatus {
	for _, cond := range n.Status.Conditions {
		if cond.Type == kind {
			return cond.Status
		}
	}
	return ""
}
