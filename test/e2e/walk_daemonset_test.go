package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

// TestWalkDaemonSet: a pod on every node, tainted and cordoned ones too; nodes that come get one,
// nodes that go lose theirs.
func TestWalkDaemonSet(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3).images()
	c.k("taint", "node", "node-2", "node-role.kubernetes.io/master:NoSchedule")
	c.k("cordon", "node-3")
	c.example("storageclass-efs.yaml")
	c.example("counter-daemonset.yaml")
	c.k("rollout", "status", "daemonset/counter-app", "--timeout=60s")
	three := c.pods("default", 3)
	if on := nodesOf(three); !slices.Equal(on, []string{"node-1", "node-2", "node-3"}) {
		t.Errorf("pods on %v, want one on each of three", on)
	}

	t.Log("a node comes")
	c.up(4)
	joined := time.Now()
	four := c.pods("default", 4)
	took := time.Since(joined)
	t.Logf("the fourth pod was ready %s after `up` said that the node is", took.Round(time.Millisecond))
	if took > 10*time.Second {
		t.Errorf("the new node's pod took %s", took)
	}
	if on := nodesOf(four); !slices.Equal(on, []string{"node-1", "node-2", "node-3", "node-4"}) {
		t.Errorf("pods on %v, want one on each of four", on)
	}
	untouched := identities(four)
	for name := range untouched {
		if _, old := identities(three)[name]; !old {
			delete(untouched, name)
		}
	}
	if diff := cmp.Diff(identities(three), untouched); diff != "" {
		t.Errorf("the new node changed the others' pods (-before +after):\n%s", diff)
	}

	t.Log("a node goes")
	c.coracle("down", "--node", "node-4", "--grace", "1s")
	if diff := cmp.Diff(identities(three), identities(c.pods("default", 3))); diff != "" {
		t.Errorf("the node that went changed the others' pods (-before +after):\n%s", diff)
	}

	t.Log("rolling update, one at a time")
	seen := c.watchAvailability("default")
	c.k("set", "image", "daemonset/counter-app", "counter=kahootali/counter:1.2")
	c.k("rollout", "status", "daemonset/counter-app", "--timeout=90s")
	if fewest := seen(); fewest < 2 {
		t.Errorf("%d pods were ready at one time of the update, want never fewer than 2", fewest)
	}
	for _, p := range c.pods("default", 3) {
		if image(p) != "kahootali/counter:1.2" {
			t.Errorf("%s runs %s after the update", p.Name, image(p))
		}
	}
	c.badImage("daemonset/counter-app", "DaemonSet", 2)
	if history := c.k("rollout", "history", "daemonset/counter-app"); strings.Count(history, "<none>") != 3 {
		t.Errorf("history, want three revisions:\n%s", history)
	}
	c.k("rollout", "undo", "daemonset/counter-app")
	c.k("rollout", "status", "daemonset/counter-app", "--timeout=90s")
	for _, p := range c.pods("default", 3) {
		if image(p) != "kahootali/counter:1.2" {
			t.Errorf("%s runs %s after undo, want 1.2", p.Name, image(p))
		}
	}

	t.Log("without the toleration the tainted node's pod goes; the cordoned node's stays")
	c.k("patch", "daemonset/counter-app", "--type=json", "-p", `[{"op":"remove","path":"/spec/template/spec/tolerations"}]`)
	c.k("rollout", "status", "daemonset/counter-app", "--timeout=90s")
	await(c, patience, "pods on node-1 and node-3 only", resource.Pods, "default", func(pods []*corev1.Pod) bool {
		return countReady(pods) == 2 && slices.Equal(nodesOf(pods), []string{"node-1", "node-3"})
	})
}

// nodesOf are the nodes that pods are on, in order.
func nodesOf(pods []*corev1.Pod) []string {
	var out []string
	for _, p := range pods {
		out = append(out, p.Spec.NodeName)
	}
	slices.Sort(out)
	return out
}
