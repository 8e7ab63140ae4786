package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

// TestRunning: what a container finds, and what its probes and its end do. The kubectl is the
// embedded one.
func TestRunning(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2).images().withEmbedded()
	for name, test := range map[string]func(*cluster){
		"config": config, "network": network, "readiness": readiness, "liveness": liveness,
		"crash loop": crashLoop, "local claim": localClaim, "unschedulable": unschedulable, "init and users": initAndUsers,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sub := *c
			sub.t = t
			test(&sub)
		})
	}
}

func config(c *cluster) {
	c.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: config}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: config}
data: {colour: red, size: big}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden, namespace: config}
stringData: {password: swordfish}
---
apiVersion: v1
kind: Pod
metadata: {name: reader, namespace: config, labels: {who: reader}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: e2e/tools:1
    command: [sleep, "1000"]
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: hidden, key: password}}}
    - {name: GREETING, value: "hello $(COLOUR)"}
    - {name: MY_NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    envFrom: [{configMapRef: {name: settings}, prefix: S_}]
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: hidden, mountPath: /hidden, readOnly: true}
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: hidden, secret: {secretName: hidden, defaultMode: 0400}}
`)
	c.pods("config", 1)
	c.want("environment", c.k("exec", "-n", "config", "reader", "--", "env"), "COLOUR=red\n", "PASSWORD=swordfish\n", "GREETING=hello red\n", "S_size=big\n", "MY_NODE=node-")
	if got := c.k("exec", "-n", "config", "reader", "--", "cat", "/settings/colour", "/hidden/password"); got != "redswordfish" {
		c.t.Errorf("volumes hold %q", got)
	}
	c.k("patch", "cm", "settings", "-n", "config", "-p", `{"data":{"colour":"blue"}}`)
	eventually(c.t, 2*patience, "the edited value in the volume", func() bool {
		return c.k("exec", "-n", "config", "reader", "--", "cat", "/settings/colour") == "blue"
	})
}

func network(c *cluster) {
	c.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: network}
---
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: network}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "e2e/tools:1", command: [sh, -c, "mkdir /www; echo $HOSTNAME >/www/index.html; exec httpd -f -p 80 -h /www"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: two, namespace: network}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "e2e/tools:1", command: [sh, -c, "mkdir /www; echo $HOSTNAME >/www/index.html; exec httpd -f -p 80 -h /www"]}]
`)
	pods := c.pods("network", 2)
	for i, from := range pods {
		for _, to := range []*corev1.Pod{pods[i], pods[1-i]} {
			if got := c.k("exec", "-n", "network", from.Name, "--", "wget", "-q", "-O", "-", "http://"+to.Status.PodIP+"/"); got != to.Name+"\n" {
				c.t.Errorf("%s asks %s: %q", from.Name, to.Name, got)
			}
		}
	}
	if pods[0].Status.PodIP == pods[1].Status.PodIP || pods[0].Spec.NodeName == pods[1].Spec.NodeName {
		c.t.Errorf("addresses %s and %s", pods[0].Status.PodIP, pods[1].Status.PodIP)
	}
}

func readiness(c *cluster) {
	c.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: readiness}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: readiness}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: readiness, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: e2e/tools:1
    command: [sleep, "1000"]
    readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1, failureThreshold: 1}
`)
	ready := func(want bool) {
		c.t.Helper()
		await(c, patience, "the pod's readiness", resource.Pods, "readiness", func(pods []*corev1.Pod) bool {
			return len(pods) == 1 && pods[0].Status.Phase == corev1.PodRunning && podReady(pods[0]) == want
		})
		eventually(c.t, patience, "the service's addresses", func() bool {
			return (c.k("get", "endpoints", "-n", "readiness", "web", "--ignore-not-found", "-o", "jsonpath={.subsets[*].addresses[*].ip}") != "") == want
		})
	}
	ready(false)
	c.k("exec", "-n", "readiness", "web", "--", "touch", "/tmp/ready")
	ready(true)
	c.k("exec", "-n", "readiness", "web", "--", "rm", "/tmp/ready")
	ready(false)
	c.want("events", c.k("describe", "pod", "-n", "readiness", "web"), "Unhealthy", "Readiness probe failed")
}

func liveness(c *cluster) {
	c.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: liveness}
---
apiVersion: v1
kind: Pod
metadata: {name: alive, namespace: liveness}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: e2e/tools:1
    command: [sh, -c, "touch /tmp/alive; exec sleep 1000"]
    livenessProbe: {exec: {command: [test, -e, /tmp/alive]}, periodSeconds: 1, failureThreshold: 2, initialDelaySeconds: 1}
`)
	c.pods("liveness", 1)
	c.k("exec", "-n", "liveness", "alive", "--", "rm", "/tmp/alive")
	await(c, patience, "the container restarted", resource.Pods, "liveness", func(pods []*corev1.Pod) bool {
		s := pods[0].Status.ContainerStatuses
		return len(s) == 1 && s[0].RestartCount == 1 && s[0].Ready
	})
	c.want("events", c.k("describe", "pod", "-n", "liveness", "alive"), "Liveness probe failed", "Container c failed liveness probe, will be restarted")
}

func crashLoop(c *cluster) {
	c.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: crash}
---
apiVersion: v1
kind: Pod
metadata: {name: always, namespace: crash}
spec:
  containers: [{name: c, image: "e2e/tools:1", command: [sh, -c, "echo last words; exit 3"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: never, namespace: crash}
spec:
  restartPolicy: Never
  containers: [{name: c, image: "e2e/tools:1", command: [sh, -c, "exit 3"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: once, namespace: crash}
spec:
  restartPolicy: OnFailure
  containers: [{name: c, image: "e2e/tools:1", command: ["true"]}]
`)
	await(c, patience, "CrashLoopBackOff, Failed and Succeeded", resource.Pods, "crash", func(pods []*corev1.Pod) bool {
		if len(pods) != 3 || len(pods[0].Status.ContainerStatuses) != 1 {
			return false
		}
		s := pods[0].Status.ContainerStatuses[0]
		return s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff" && s.RestartCount >= 1 &&
			s.LastTerminationState.Terminated != nil && s.LastTerminationState.Terminated.ExitCode == 3 &&
			pods[1].Status.Phase == corev1.PodFailed && pods[2].Status.Phase == corev1.PodSucceeded
	})
	c.want("table", c.k("get", "pods", "-n", "crash"), "CrashLoopBackOff", "Error", "Completed")
	c.want("events", c.k("describe", "pod", "-n", "crash", "always"), "BackOff", "Back-off restarting failed container c in pod always")
	c.want("previous log", c.k("logs", "-n", "crash", "always", "--previous"), "last words")
}

func localClaim(c *cluster) {
	c.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: local}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: local}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
`)
	if got := c.k("get", "pvc", "-n", "local", "data", "-o", "jsonpath={.status.phase} {.spec.storageClassName}"); got != "Pending local" {
		c.t.Errorf("a claim nobody uses is %q, want Pending of class local", got)
	}
	const pod = `
apiVersion: v1
kind: Pod
metadata: {name: user, namespace: local}
spec:
  terminationGracePeriodSeconds: 1
  %NODE%
  containers: [{name: counter, image: "kahootali/counter:1.1", volumeMounts: [{name: data, mountPath: /app}]}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
`
	c.apply(strings.Replace(pod, "%NODE%", "nodeSelector: {kubernetes.io/hostname: node-2}", 1))
	if on := c.pods("local", 1)[0].Spec.NodeName; on != "node-2" {
		c.t.Errorf("the pod is on %s", on)
	}
	c.counted("local", "user", 2)
	c.k("delete", "pod", "-n", "local", "user")
	c.apply(strings.Replace(pod, "%NODE%", "", 1))
	if on := c.pods("local", 1)[0].Spec.NodeName; on != "node-2" {
		c.t.Errorf("with its claim on node-2 the pod went to %s", on)
	}
	if n := c.firstCount("local", "user"); n < 3 {
		c.t.Errorf("the count begins at %d, want it to go on after 2", n)
	}
	c.k("delete", "namespace", "local")
	eventually(c.t, patience, "the volume removed with its claim", func() bool {
		return !strings.Contains(c.k("get", "pv"), "local/data")
	})
}

func unschedulable(c *cluster) {
	c.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: nofit}
---
apiVersion: v1
kind: Pod
metadata: {name: huge, namespace: nofit}
spec:
  containers: [{name: c, image: "e2e/tools:1", command: [sleep, "1"], resources: {requests: {cpu: "9999"}}}]
`)
	eventually(c.t, patience, "the reason", func() bool {
		return strings.Contains(c.k("describe", "pod", "-n", "nofit", "huge"), "0/2 nodes are available: 2 Insufficient cpu")
	})
}

func initAndUsers(c *cluster) {
	c.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: init}
---
apiVersion: v1
kind: Pod
metadata: {name: user, namespace: init}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000}
  initContainers: [{name: first, image: "e2e/tools:1", command: [sh, -c, "echo made >/shared/file"], volumeMounts: [{name: shared, mountPath: /shared}]}]
  containers:
  - name: c
    image: e2e/tools:1
    workingDir: /shared
    command: [sh, -c, "while true; do cat file; sleep 1; done"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  volumes: [{name: shared, emptyDir: {}}]
`)
	c.pods("init", 1)
	c.want("log", c.k("logs", "-n", "init", "user", "-c", "c"), "made")
	c.want("identity", c.k("exec", "-n", "init", "user", "--", "cat", "/proc/self/status"), "Uid:\t1000", "Gid:\t2000", "3000")
}
