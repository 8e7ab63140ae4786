package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"

	"coracle/internal/client"
	"coracle/internal/resource"
)

// rehearsed is what the tests read of a rehearsal's JSON.
type rehearsed struct {
	Converges   bool
	TookSeconds float64
	PodsCreated int
	PodsDeleted int
	PodsMoved   []struct {
		Workload, From, To string
		Pods               int
	}
	Timeline []struct {
		At           float64
		Object, What string
	}
	Workloads []struct {
		Name          string
		Lowest, After struct{ Available, Wanted int32 }
		LowestAt      *float64
	}
	Budgets []struct {
		Budget string
		Held   *struct{ Refusals int }
	}
	Stuck []struct {
		Causes []struct{ Reason, Message, Hint string }
	}
	Refused []string
}

// rehearse runs `coracle rehearse` twice, for people and for programs, and holds it to its promise: the exit code, and
// that nothing in the cluster changes.
func (c *cluster) rehearse(code int, tells []string, args ...string) rehearsed {
	c.t.Helper()
	before := c.versions()
	args = append([]string{"rehearse"}, args...)
	r := c.run(c.command(args...))
	rest := r.out
	for _, tell := range tells {
		_, after, found := strings.Cut(rest, tell)
		if !found {
			c.t.Errorf("%v does not tell %q (in this order):\n%s%s", args, tell, r.out, r.errs)
			break
		}
		rest = after
	}
	if r.code() != code {
		c.t.Errorf("%v: exit code %d, want %d\n%s%s", args, r.code(), code, r.out, r.errs)
	}
	j := c.run(c.command(append(args, "-o", "json")...))
	var out rehearsed
	if err := json.Unmarshal([]byte(j.out), &out); err != nil || j.code() != code || out.Converges != (code == 0) {
		c.t.Errorf("%v -o json: %v, exit code %d\n%s%s", args, err, j.code(), j.out, j.errs)
	}
	if d := cmp.Diff(before, c.versions()); d != "" {
		c.t.Errorf("%v changed the cluster:\n%s", args, d)
	}
	return out
}

// versions are the resourceVersions of all objects but heartbeats.
func (c *cluster) versions() map[string]string {
	c.t.Helper()
	out := map[string]string{}
	for _, res := range resource.All() {
		if res == resource.Leases {
			continue
		}
		items, _, err := c.api.List(context.Background(), res, client.ListOptions{})
		if err != nil {
			c.t.Fatal(err)
		}
		for _, o := range items {
			out[res.String()+" "+o.GetNamespace()+"/"+o.GetName()] = o.GetResourceVersion()
		}
	}
	return out
}

// settled waits until nothing in the cluster changes by itself any more.
func (c *cluster) settled() {
	c.t.Helper()
	last, quiet := c.versions(), 0
	eventually(c.t, patience, "the cluster at rest", func() bool {
		now := c.versions()
		if quiet++; !maps.Equal(last, now) {
			quiet = 0
		}
		last = now
		return quiet > 3
	})
}

func (c *cluster) manifest(name, text string) string {
	c.t.Helper()
	path := filepath.Join(c.root, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
	return path
}

func rehearsedWeb(image, more string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 6
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {coracle.io/sim-ready-after: 1s}}
    spec: {containers: [{name: c, image: %q%s}]}
`, image, more)
}

// TestRehearse: what a rehearsal says is what happens, and it changes nothing.
func TestRehearse(t *testing.T) {
	t.Parallel()
	c := emptyCluster(t)
	c.coracle("up", "--detach", "--simulate", "3", "--listen", "127.0.0.1:0")
	c.connect()
	c.apply(rehearsedWeb("web:1", ""))
	c.k("rollout", "status", "deployment/web", "--timeout=60s")
	c.settled()

	next := c.manifest("next.yaml", rehearsedWeb("web:2", ""))
	good := c.rehearse(0, []string{"nothing was changed", "deployment/web", "changed", "ready on", "Converges in"}, "-f", next)

	stuck := c.rehearse(1, []string{"cannot be placed", "Insufficient cpu", "Would not converge", "Root cause: Pod default/web-", "what you can do: lower the pod's requests"},
		"-f", c.manifest("big.yaml", rehearsedWeb("web:2", `, resources: {requests: {cpu: "640"}}`)))
	if len(stuck.Stuck) != 1 || len(stuck.Stuck[0].Causes) == 0 || stuck.Stuck[0].Causes[0].Reason != "Unschedulable" {
		t.Errorf("stuck: %+v", stuck.Stuck)
	}

	failed := c.rehearse(0, []string{"loses its power", "40s", "not ready", "5m40s", "evicted by taint from sim-0001", "moved", "Converges in 5m4"}, "--fail-node", "sim-0001")
	if len(failed.PodsMoved) == 0 || failed.PodsMoved[0].From != "sim-0001" || *failed.Workloads[0].LowestAt != 40 {
		t.Errorf("a lost node: %+v", failed)
	}

	c.apply("apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web}\nspec: {minAvailable: 5, selector: {matchLabels: {app: web}}}\n")
	c.k("wait", "--for=jsonpath={.status.currentHealthy}=6", "poddisruptionbudget/web", "--timeout=30s")
	c.settled()
	drained := c.rehearse(0, []string{"cordoned", "holds up the drain of sim-0000", "drained", "Budget web holds up the drain"}, "--drain-node", "sim-0000")
	if len(drained.PodsMoved) == 0 || len(drained.Budgets) != 1 || drained.Workloads[0].Lowest.Available != 5 {
		t.Errorf("a drain: %+v", drained)
	}
	c.rehearse(1, []string{"Would not converge", "the drain of sim-0000 does not end"}, "--drain-node", "sim-0000",
		"-f", c.manifest("budget.yaml", "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web}\nspec: {minAvailable: 6, selector: {matchLabels: {app: web}}}\n"))

	r := c.run(c.command("rehearse", "-f", c.manifest("bad.yaml", strings.Replace(rehearsedWeb("web:2", ""), "replicas: 6", "replicas: -1", 1))))
	if r.code() != 1 || !strings.Contains(r.errs, "bad.yaml, document 1") || !strings.Contains(r.errs, "spec.replicas") {
		t.Errorf("the API's own refusal: %d %s", r.code(), r.errs)
	}

	c.same(good, next)
}

// same does the real thing and compares the outcome.
func (c *cluster) same(want rehearsed, manifest string) {
	c.t.Helper()
	before := map[string]bool{}
	for name := range c.versions() {
		before[name] = true
	}
	c.k("apply", "--server-side", "--force-conflicts", "-f", manifest)
	c.k("rollout", "status", "deployment/web", "--timeout=60s")
	c.settled()
	created := 0
	for name := range c.versions() {
		if strings.HasPrefix(name, "pods ") && !before[name] {
			created++
		}
	}
	// Which pods are made and end at once depends on timing; those that stay do not.
	if created != 6 || want.PodsCreated != created || want.PodsDeleted != 6 {
		c.t.Errorf("%d pods were created; rehearsed: %d created, %d deleted", created, want.PodsCreated, want.PodsDeleted)
	}
	o, err := c.api.Get(context.Background(), resource.Deployments, "default", "web")
	if err != nil {
		c.t.Fatal(err)
	}
	if d := o.(*appsv1.Deployment); d.Status.AvailableReplicas != want.Workloads[0].After.Available || *d.Spec.Replicas != want.Workloads[0].After.Wanted {
		c.t.Errorf("%d of %d available; rehearsed: %+v", d.Status.AvailableReplicas, *d.Spec.Replicas, want.Workloads[0])
	}
	for _, e := range want.Timeline {
		if name, ok := strings.CutPrefix(e.Object, "replicaset/"); ok {
			if _, err := c.api.Get(context.Background(), resource.ReplicaSets, "default", name); err != nil {
				c.t.Errorf("rehearsed: %s %s; %v", e.Object, e.What, err)
			}
		}
	}
}
