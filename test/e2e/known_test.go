package e2e

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client"
	"coracle/internal/drain"
	"coracle/internal/object"
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
      terminationGracePeriodSeconds: 1
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

	var taken []*corev1.Pod // old pods, as their deletion began
	eventually(t, patience, "three old pods to be taken away", func() bool {
		taken = takenAway(story(), "1")
		return len(taken) == 3
	})
	last := view.RevisionOf(taken[2])
	eventually(t, patience, "what nodes acknowledged until then", func() bool {
		return slices.ContainsFunc(leases(), func(o object.Object) bool { return view.RevisionOf(o) > last })
	})

	for i, old := range taken {
		at := view.RevisionOf(old)
		awaited := newcomers(story(), at)
		if len(awaited) <= i {
			t.Errorf("%s was taken away at %d; %d newcomers were awaited by then, want %d", old.Name, at, len(awaited), i+1)
			continue
		}
		for _, node := range []string{"node-1", "node-2"} {
			if have := acknowledgedBy(leases(), node, at); have < awaited[i] {
				t.Errorf("%s was taken away at %d, when %s had acknowledged %d, want %d", old.Name, at, node, have, awaited[i])
			}
		}
	}
}

// takenAway returns the pods of a round whose deletion began, as they were first seen so.
func takenAway(story []object.Object, round string) (out []*corev1.Pod) {
	seen := map[types.UID]bool{}
	for _, o := range story {
		if p, ok := o.(*corev1.Pod); ok && p.DeletionTimestamp != nil && p.Annotations["round"] == round && !seen[p.UID] {
			seen[p.UID], out = true, append(out, p)
		}
	}
	return out
}

// newcomers returns the revisions of the slices that first named each pod as awaited, before a revision.
func newcomers(story []object.Object, before uint64) (out []uint64) {
	named := map[string]bool{}
	for _, o := range story {
		slice, ok := o.(*discoveryv1.EndpointSlice)
		if !ok || view.RevisionOf(slice) >= before {
			continue
		}
		for _, name := range drain.Awaits(slice) {
			if !named[name] {
				named[name], out = true, append(out, view.RevisionOf(slice))
			}
		}
	}
	return out
}

// acknowledgedBy is the last revision that a node acknowledged before another.
func acknowledgedBy(leases []object.Object, node string, before uint64) (revision uint64) {
	for _, o := range leases {
		if o.GetName() == node && view.RevisionOf(o) < before {
			revision, _ = drain.Acknowledged(o.(*coordinationv1.Lease))
		}
	}
	return revision
}

// record follows kinds of a namespace until the test ends. The function returned gives what was seen so far, in order of revisions.
func (c *cluster) record(namespace string, kinds ...resource.Resource) (seen func() []object.Object) {
	c.t.Helper()
	var mu sync.Mutex
	var story []object.Object
	var following sync.WaitGroup
	for _, kind := range kinds {
		_, revision, err := c.api.List(c.t.Context(), kind, client.ListOptions{Namespace: namespace})
		if err != nil {
			c.t.Fatal(err)
		}
		w, err := c.api.Watch(c.t.Context(), kind, client.ListOptions{Namespace: namespace, Revision: revision})
		if err != nil {
			c.t.Fatal(err)
		}
		following.Go(func() {
			for e := range w.ResultChan() {
				if o, ok := e.Object.(object.Object); ok && e.Type != watch.Bookmark && e.Type != watch.Deleted {
					mu.Lock()
					story = append(story, o)
					mu.Unlock()
				}
			}
		})
		c.t.Cleanup(func() {
			w.Stop()
			following.Wait()
		})
	}
	return func() []object.Object {
		mu.Lock()
		defer mu.Unlock()
		sorted := slices.Clone(story)
		slices.SortFunc(sorted, func(a, b object.Object) int { return cmp.Compare(view.RevisionOf(a), view.RevisionOf(b)) })
		return sorted
	}
}
