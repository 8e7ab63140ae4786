package e2e

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

var (
	deletions       = flag.Int("deletions", 12, "how many pods of a StatefulSet TestDeletionsEnd deletes")
	deletionWorkers = flag.Int("deletions.workers", 4, "how many kubectls it runs at a time")
)

const manyPods = `
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {clusterIP: None, selector: {app: s}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: s}
spec:
  replicas: %d
  serviceName: s
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: s}}
  template:
    metadata: {labels: {app: s}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: "s:1"}]
`

// TestDeletionsEnd deletes pods whose successors have their names. kubectl before 1.37 waits for ever if it takes the
// successor for the pod that it deleted; CORACLE_E2E_KUBECTL names the kubectl.
func TestDeletionsEnd(t *testing.T) {
	t.Parallel()
	c := emptyCluster(t)
	c.coracle("up", "--detach", "--simulate", "3", "--listen", "127.0.0.1:0")
	c.connect()
	const each = 4 // pods of a worker: when it comes to one again, that is back
	c.apply(fmt.Sprintf(manyPods, each*(*deletionWorkers)))
	c.k("rollout", "status", "statefulset/s", "--timeout=60s")
	version := c.try("version", "--client").out
	var workers sync.WaitGroup
	var done atomic.Int64
	began := time.Now()
	for w := range *deletionWorkers {
		workers.Go(func() {
			for i := w; i < *deletions; i += *deletionWorkers {
				pod := fmt.Sprintf("s-%d", w*each + i / *deletionWorkers % each)
				if !c.there(pod) {
					t.Errorf("%s is not there again", pod)
					return
				}
				if r := c.try("delete", "pod", pod); r.code() != 0 {
					t.Errorf("deletion %d, of %s: %d %s%s", i, pod, r.code(), r.out, r.errs)
					return
				}
				done.Add(1)
			}
		})
	}
	workers.Wait()
	first, _, _ := strings.Cut(version, "\n")
	t.Logf("%d deletions ended in %s with %s", done.Load(), time.Since(began).Round(time.Second), first)
}

// there waits until a pod of the default namespace is there.
func (c *cluster) there(name string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return follow(ctx, c.api, resource.Pods, "default", func(now []*corev1.Pod) bool {
		return slices.ContainsFunc(now, func(p *corev1.Pod) bool { return p.Name == name && p.DeletionTimestamp == nil })
	})
}
