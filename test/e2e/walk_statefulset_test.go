package e2e

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

// TestWalkStatefulSet: pods come and go in order, each with a claim of its own that outlives it.
func TestWalkStatefulSet(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2).images()
	c.example("storageclass-efs.yaml")
	c.example("counter-statefulset.yaml")
	c.k("rollout", "status", "statefulset/counter", "--timeout=60s")

	ordered := c.watchOrder()
	c.k("scale", "statefulset/counter", "--replicas=3")
	c.pods("default", 3)
	if wrong := ordered(); wrong != "" {
		t.Error(wrong)
	}
	want := []string{"counter-counter-0", "counter-counter-1", "counter-counter-2"}
	c.claims(want)
	for _, pod := range []string{"counter-0", "counter-1", "counter-2"} {
		if n := c.firstCount("default", pod); n != 1 {
			t.Errorf("%s begins at %d, want 1", pod, n)
		}
	}

	t.Log("a deleted pod comes back to its claim")
	c.counted("default", "counter-1", 3)
	before := c.listPods("default")
	// Not waited for: kubectl 1.32, when the successor is there before its list is
	// answered, waits for the end of that one.
	c.k("delete", "pod", "counter-1", "--wait=false")
	await(c, patience, "another counter-1", resource.Pods, "default", func(pods []*corev1.Pod) bool {
		return len(pods) == 3 && countReady(pods) == 3 && pods[1].UID != before[1].UID
	})
	if n := c.firstCount("default", "counter-1"); n < 4 {
		t.Errorf("counter-1 begins at %d after it was deleted, want it to go on after 3", n)
	}

	t.Log("scaling down takes the last first and leaves the claims")
	gone := c.watchEnding()
	c.k("scale", "statefulset/counter", "--replicas=1")
	c.pods("default", 1)
	if order := gone(); !slices.Equal(order, []string{"counter-2", "counter-1"}) {
		t.Errorf("pods ended in the order %v, want counter-2, counter-1", order)
	}
	c.claims(want)
	c.k("scale", "statefulset/counter", "--replicas=3")
	c.pods("default", 3)
	if n := c.firstCount("default", "counter-1"); n < 5 {
		t.Errorf("counter-1 begins at %d after the scaling, want it to go on", n)
	}
	if n := c.firstCount("default", "counter-2"); n < 2 {
		t.Errorf("counter-2 begins at %d after the scaling, want it to go on", n)
	}

	t.Log("rolling update, from the last ordinal down")
	gone = c.watchEnding()
	c.k("set", "image", "statefulset/counter", "counter=kahootali/counter:1.2")
	c.k("rollout", "status", "statefulset/counter", "--timeout=90s")
	if order := gone(); !slices.Equal(order, []string{"counter-2", "counter-1", "counter-0"}) {
		t.Errorf("the update took the pods in the order %v", order)
	}
	for _, p := range c.pods("default", 3) {
		if image(p) != "kahootali/counter:1.2" {
			t.Errorf("%s runs %s after the update", p.Name, image(p))
		}
	}

	// With OrderedReady the bad pod must be deleted by hand after the template is mended.
	// https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback
	c.badImage("statefulset/counter", "StatefulSet", 2)
	if history := c.k("rollout", "history", "statefulset/counter"); strings.Count(history, "<none>") != 3 {
		t.Errorf("history, want three revisions:\n%s", history)
	}
	c.k("rollout", "undo", "statefulset/counter", "--to-revision=1")
	c.k("delete", "pod", "counter-2", "--wait=false")
	c.k("rollout", "status", "statefulset/counter", "--timeout=90s")
	await(c, patience, "every pod at 1.1", resource.Pods, "default", func(pods []*corev1.Pod) bool {
		return countReady(pods) == 3 && !slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return image(p) != "kahootali/counter:1.1" })
	})
	await(c, patience, "status of the finished rollout", resource.StatefulSets, "default", func(all []*appsv1.StatefulSet) bool {
		s := all[0].Status
		return s.CurrentRevision == s.UpdateRevision && s.UpdatedReplicas == 3 && s.ReadyReplicas == 3
	})
}

// claims fails the test unless the default namespace's claims are these, all bound.
func (c *cluster) claims(want []string) {
	c.t.Helper()
	got := strings.Fields(c.k("get", "pvc", "-o", `jsonpath={.items[?(@.status.phase=="Bound")].metadata.name}`))
	if slices.Sort(got); !slices.Equal(got, want) {
		c.t.Errorf("bound claims %v, want %v", got, want)
	}
}

// watchOrder follows the default namespace's pods; the function it returns says what was wrong:
// a pod there before the one of the lower ordinal was ready.
func (c *cluster) watchOrder() func() string {
	w := c.newWatcher()
	wrong := ""
	go func() {
		defer close(w.done)
		follow(w.ctx, c.api, resource.Pods, "default", func(pods []*corev1.Pod) bool {
			for i, p := range pods {
				if i > 0 && !podReady(pods[i-1]) && !podReady(p) && wrong == "" {
					wrong = p.Name + " was there before " + pods[i-1].Name + " was ready"
				}
			}
			w.begin()
			return false
		})
	}()
	<-w.began
	return func() string { w.end(); return wrong }
}

// watchEnding follows the default namespace's pods; the function it returns gives the names of
// those that were told to end, in that order.
func (c *cluster) watchEnding() func() []string {
	w := c.newWatcher()
	var order []string
	seen := map[string]bool{}
	go func() {
		defer close(w.done)
		follow(w.ctx, c.api, resource.Pods, "default", func(pods []*corev1.Pod) bool {
			for _, p := range pods {
				if p.DeletionTimestamp != nil && !seen[string(p.UID)] {
					seen[string(p.UID)] = true
					order = append(order, p.Name)
				}
			}
			w.begin()
			return false
		})
	}()
	<-w.began
	return func() []string { w.end(); return order }
}
