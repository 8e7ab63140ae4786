package e2e

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client"
	"coracle/internal/drain"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// known is a Deployment that takes an old pod away only when a new one is available.
const known = `
apiVersion: v1
kind: Service
metadata: {name: known}
spec: {selector: {app: known}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: known}
spec:
  replicas: 3
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  selector: {matchLabels: {app: known}}
  template:
    metadata: {labels: {app: known}, annotations: {round: "ROUND", coracle.io/drain-timeout: 30s}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "e2e/tools:1", command: [sleep, "1000"]}]
`

// TestNewcomersKnown: in a rollout no old pod is taken away before every node has acknowledged the slice that has the new one.
// The cluster's one count of revisions says what was before what.
func TestNewcomersKnown(t *testing.T) {
	t.Parallel()
	c := emptyCluster(t)
	c.up(2)
	c.connect()
	c.images()
	c.apply(strings.ReplaceAll(known, "ROUND", "1"))
	c.k("rollout", "status", "deployment/known", "--timeout=60s")
	story := c.record("default", resource.Pods, resource.EndpointSlices)
	leases := c.record(corev1.NamespaceNodeLease, resource.Leases)
	c.apply(strings.ReplaceAll(known, "ROUND", "2"))
	c.k("rollout", "status", "deployment/known", "--timeout=60s")

	acknowledged := map[string]uint64{} // by node, up to the event looked at
	var awaited []uint64                // the first revisions of slices that named a pod
	named := map[string]bool{}
	events, acks := story(), leases()
	deletions := 0
	for _, e := range events {
		at := view.RevisionOf(e)
		for len(acks) > 0 && view.RevisionOf(acks[0]) < at {
			l := acks[0].(*coordinationv1.Lease)
			acknowledged[l.Name], _ = drain.Acknowledged(l)
			acks = acks[1:]
		}
		switch o := e.(type) {
		case *discoveryv1.EndpointSlice:
			for _, name := range drain.Awaits(o) {
				if !named[name] {
					named[name], awaited = true, append(awaited, at)
				}
			}
		case *corev1.Pod:
			if o.DeletionTimestamp == nil || o.Annotations["round"] != "1" || slices.ContainsFunc(events, func(before plan.Object) bool {
				return before.GetUID() == o.UID && before.GetDeletionTimestamp() != nil && view.RevisionOf(before) < at
			}) {
				continue
			}
			if deletions++; len(awaited) < deletions {
				t.Errorf("%s was taken away at %d; %d newcomers were awaited by then, want %d", o.Name, at, len(awaited), deletions)
				continue
			}
			for _, node := range []string{"node-1", "node-2"} {
				if need := awaited[deletions-1]; acknowledged[node] < need {
					t.Errorf("%s was taken away at %d, when %s had acknowledged %d, want %d", o.Name, at, node, acknowledged[node], need)
				}
			}
		}
	}
	if deletions != 3 {
		t.Errorf("%d old pods were taken away, want 3", deletions)
	}
}

// record follows kinds of a namespace until the function returned is called, which gives what was seen in order of revisions.
func (c *cluster) record(namespace string, kinds ...resource.Resource) (stop func() []plan.Object) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	var mu sync.Mutex
	var seen []plan.Object
	var following sync.WaitGroup
	var watches []watch.Interface
	for _, kind := range kinds {
		_, revision, err := c.api.List(ctx, kind, client.ListOptions{Namespace: namespace})
		if err != nil {
			c.t.Fatal(err)
		}
		w, err := c.api.Watch(ctx, kind, client.ListOptions{Namespace: namespace, Revision: revision})
		if err != nil {
			c.t.Fatal(err)
		}
		watches = append(watches, w)
		following.Go(func() {
			for e := range w.ResultChan() {
				if o, ok := e.Object.(plan.Object); ok && e.Type != watch.Bookmark && e.Type != watch.Deleted {
					mu.Lock()
					seen = append(seen, o)
					mu.Unlock()
				}
			}
		})
	}
	return func() []plan.Object {
		cancel()
		for _, w := range watches {
			w.Stop()
		}
		following.Wait()
		slices.SortFunc(seen, func(a, b plan.Object) int { return int(view.RevisionOf(a)) - int(view.RevisionOf(b)) })
		return seen
	}
}
