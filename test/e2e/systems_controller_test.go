package e2e

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

// serviceWatcher: a program like kube-proxy reaches the API from each node's network by its service account, and hears of
// services and endpoints.
func serviceWatcher(c *cluster) {
	c.system("service-watcher")
	c.rolledOut("kube-system", "daemonset/service-watcher")
	c.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: watched}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: watched}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: watched, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "e2e/tools:1", command: [sleep, "1000"]}]
`)
	pod := c.pods("watched", 1)[0]
	at := c.k("get", "service", "-n", "watched", "web", "-o", "jsonpath={.spec.clusterIP}")
	watchers := await(c, patience, "the watchers", resource.Pods, "kube-system", func(pods []*corev1.Pod) bool { return countReady(pods) == len(c.nodes) })
	for _, w := range watchers {
		s := c.stream(nil, "logs", "-n", "kube-system", "-f", w.Name)
		s.until("where the service leads", contains("watched/web at "+at+" leads to ["+pod.Status.PodIP+"]"))
		s.stop()
		if w.Status.PodIP != w.Status.HostIP {
			c.t.Errorf("%s has the address %s, its node %s", w.Name, w.Status.PodIP, w.Status.HostIP)
		}
	}
	c.k("delete", "pod", "-n", "watched", "web")
	for _, w := range watchers {
		s := c.stream(nil, "logs", "-n", "kube-system", "-f", w.Name)
		s.until("the service that leads nowhere", contains("watched/web at "+at+" leads to ["+pod.Status.PodIP+"]"))
		s.until("the service that leads nowhere", contains("watched/web at "+at+" leads to []"))
		s.stop()
	}
}

// leader: of two replicas one leads; when it is killed without a word, the other takes the lease when it has run out, and
// when it is told to end, at once.
func leader(c *cluster) {
	c.system("leader")
	c.rolledOut("leader", "deployment/counter")
	counts := func(by string) int {
		n, from := 0, -1
		eventually(c.t, patience, "the count of "+by, func() bool {
			out := c.try("get", "configmap", "-n", "leader", "counter", "-o", "jsonpath={.data.count} {.data.by}").out
			count, who, _ := strings.Cut(out, " ")
			n, _ = strconv.Atoi(count)
			if by != "" && who != by {
				return false
			}
			if from < 0 {
				from = n
			}
			return n > from // it goes on
		})
		return n
	}
	holder := func(not string) (name string) {
		eventually(c.t, patience, "a leader other than "+not, func() bool {
			name = c.try("get", "lease", "-n", "leader", "counter", "-o", "jsonpath={.spec.holderIdentity}").out
			return name != "" && name != not
		})
		return name
	}
	first := holder("")
	before := counts(first)
	c.k("delete", "pod", "-n", "leader", first, "--grace-period=0", "--force")
	second := holder(first)
	after := counts(second)
	if after < before {
		c.t.Errorf("the count went from %d to %d", before, after)
	}
	c.k("delete", "pod", "-n", "leader", second)
	counts(holder(second))
	if n := c.k("get", "lease", "-n", "leader", "counter", "-o", "jsonpath={.spec.leaseTransitions}"); n == "" || n == "0" {
		c.t.Errorf("the lease changed hands %q times", n)
	}
}
