package e2e

import (
	"strings"
	"testing"
	"time"
)

// awaited is a Deployment behind a Service, whose new pods are waited for by their rollout for half a minute at most.
const awaited = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: web}, annotations: {coracle.io/drain-timeout: 30s}}
    spec:
      nodeName: node-1
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "e2e/tools:1", command: [sleep, "1000"]}]
`

// TestRolloutAwaitsRoutes: a rollout keeps the old pod while a node that is there has not said that it leads connections to the new
// one, which is ready; why says so; and it goes on as soon as that node does, not when the wait is over.
func TestRolloutAwaitsRoutes(t *testing.T) {
	t.Parallel()
	c := emptyCluster(t)
	c.up(2, "--listen", "127.0.0.1:0")
	c.connect()
	c.images()
	c.apply(awaited)
	c.k("rollout", "status", "deployment/web", "--timeout=60s")
	old := c.pods("default", 1)[0]

	c.kill("node-node-2")
	c.k("set", "env", "deployment/web", "ROUND=2")
	c.k("wait", "pods", "-l", "app=web", "--for=jsonpath={.status.phase}=Running", "--timeout=30s")
	said := ""
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); !strings.Contains(said, "once every node leads the connections of its services to it, or 30 seconds later"); <-tick.C {
		if time.Since(began) > 20*time.Second {
			t.Fatalf("why does not say what the rollout waits for:\n%s", said)
		}
		said = c.run(c.command("why", "deployment/web")).out
	}
	ready := time.Now()
	if got := c.k("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"); !strings.Contains(got, old.Name) || len(strings.Fields(got)) != 2 {
		t.Errorf("while a node does not know the new pod there are %q, want %s and the new one", got, old.Name)
	}

	c.up(2)
	c.k("rollout", "status", "deployment/web", "--timeout=60s")
	if took := time.Since(ready); took > 25*time.Second {
		t.Errorf("the rollout went on after %s, want it to when the node is back", took)
	}
	if got := c.k("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"); strings.Contains(got, old.Name) {
		t.Errorf("after the rollout there are %q, %s among them", got, old.Name)
	}
}
