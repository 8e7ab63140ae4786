package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

const whyTemplate = `
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {terminationGracePeriodSeconds: 1, %[2]s}
`

// sleeper is a container that runs and says nothing; more is added to it.
func sleeper(more string) string {
	return fmt.Sprintf(`containers: [{name: app, image: "e2e/tools:1", command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 1; done"], %s}]`, more)
}

func workload(kind, name, spec, pod string) string {
	return fmt.Sprintf("apiVersion: apps/v1\nkind: %s\nmetadata: {name: %s}\nspec:%s", kind, name, spec) + fmt.Sprintf(whyTemplate, name, pod)
}

func claims(class string) string {
	return fmt.Sprintf(`
  replicas: 2
  serviceName: x
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: %s, resources: {requests: {storage: 1Gi}}}`, class)
}

const probe = `readinessProbe: {exec: {command: [cat, /no-such-file]}, periodSeconds: 1}`

// TestWhy: `coracle why` finds the root cause of situations that stop real workloads.
func TestWhy(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2).images()
	c.k("taint", "node", "node-2", "gpu=yes:NoSchedule")
	for _, tc := range []struct {
		name, manifest, object string
		code                   int
		tells                  []string
	}{
		{"class missing", workload("StatefulSet", "noclass", claims("fast"), sleeper("")), "statefulset/noclass", 2,
			[]string{"Stuck", "Pod noclass-0", "PersistentVolumeClaim data-noclass-0", "Root cause: StorageClass fast does not exist", "create the StorageClass"}},
		{"no provisioner", "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: ebs}\nprovisioner: ebs.csi.aws.com\n---\n" +
			workload("StatefulSet", "noprov", claims("ebs"), sleeper("")), "sts/noprov", 2,
			[]string{"Pod noprov-0", "Root cause: PersistentVolumeClaim default/data-noprov-0", "ebs.csi.aws.com", "check that the provisioner"}},
		{"claim not bound", "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: manual}\nprovisioner: kubernetes.io/no-provisioner\n---\n" +
			workload("StatefulSet", "unbound", claims("manual"), sleeper("")), "sts/unbound", 2,
			[]string{"Root cause: PersistentVolumeClaim default/data-unbound-0: FailedBinding", "create a PersistentVolume"}},
		{"not enough CPU", workload("StatefulSet", "big", "\n  serviceName: x", sleeper(`resources: {requests: {cpu: "640"}}`)), "sts/big", 2,
			[]string{"Root cause: Pod default/big-0: Unschedulable", "Insufficient cpu", "It asks for 640 cpu", "lower the pod's requests"}},
		{"daemons: label and taint", workload("DaemonSet", "ssd", "", "nodeSelector: {disk: ssd}, "+sleeper("")), "ds/ssd", 0,
			[]string{"Steady", "2 nodes run no pod by node selector or affinity: node-1, node-2", "label the node"}},
		{"daemons: taint", workload("DaemonSet", "all", "", sleeper("")), "ds/all", 0,
			[]string{"Steady: 1 of 1 pods available", "1 node runs no pod by taint gpu=yes:NoSchedule: node-2", "add a toleration"}},
		{"daemons: capacity", workload("DaemonSet", "huge", "", sleeper(`resources: {requests: {cpu: "640"}}`)), "ds/huge", 2,
			[]string{"Root cause: Pod default/huge-", "Insufficient cpu", "node-1"}},
		{"deployment: image", workload("Deployment", "noimage", "\n  progressDeadlineSeconds: 600", `containers: [{name: app, image: "e2e/absent:1", imagePullPolicy: Never}]`), "deploy/noimage", 2,
			[]string{"Stuck", "ReplicaSet noimage-", "Root cause: Pod default/noimage-", "ErrImageNeverPull", "import it (coracle image import): node node-1 does not have e2e/absent:1"}},
		{"deployment: readiness", workload("Deployment", "unready", "", sleeper(probe)), "deploy/unready", 2,
			[]string{"ReplicaSet unready-", "Root cause: Pod default/unready-", "Readiness probe failed", "no-such-file"}},
		{"deployment: deadline", workload("Deployment", "late", "\n  progressDeadlineSeconds: 2", sleeper(probe)), "deploy/late", 2,
			[]string{"Stuck", "ProgressDeadlineExceeded", "Root cause: Pod default/late-", "Readiness probe failed"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sub := *c
			sub.t = t
			sub.apply(tc.manifest)
			sub.explained(tc.object, tc.code, tc.tells...)
		})
	}
	t.Run("deployment: quota", func(t *testing.T) { sub := *c; sub.t = t; whyQuota(&sub) })
	t.Run("update", func(t *testing.T) { sub := *c; sub.t = t; whyUpdate(&sub) })
	t.Run("cordon", func(t *testing.T) { sub := *c; sub.t = t; whyCordon(&sub) })
	t.Run("json", func(t *testing.T) { sub := *c; sub.t = t; whyJSON(&sub) })
	t.Run("refusals", func(t *testing.T) { sub := *c; sub.t = t; whyRefusals(&sub) })
	// The node does not come back: last.
	t.Run("node", func(t *testing.T) { sub := *c; sub.t = t; whyNode(&sub) })
}

// explained waits until an object's explanation has every part, in order, with the exit code.
func (c *cluster) explained(object string, code int, tells ...string) {
	c.t.Helper()
	var last result
	defer func() {
		if c.t.Failed() {
			c.t.Logf("coracle why %s: exit code %d\n%s%s", object, last.code(), last.out, last.errs)
		}
	}()
	eventually(c.t, patience, "coracle why "+object, func() bool {
		last = c.run(c.command("why", object))
		rest := last.out
		for _, tell := range tells {
			_, after, found := strings.Cut(rest, tell)
			if !found {
				return false
			}
			rest = after
		}
		return last.code() == code
	})
}

// whyQuota: a quota stops a Deployment's rollout, and lets it finish when it is raised; a LimitRange gives
// the limits that the quota wants said.
func whyQuota(c *cluster) {
	c.k("create", "namespace", "tight")
	c.apply("apiVersion: v1\nkind: LimitRange\nmetadata: {name: gives, namespace: tight}\nspec: {limits: [{type: Container, default: {cpu: 100m}}]}")
	c.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: small, namespace: tight}\nspec: {hard: {pods: '1', limits.cpu: 150m}}")
	c.apply(strings.Replace(workload("Deployment", "many", "\n  replicas: 2", sleeper("")), "name: many}", "name: many, namespace: tight}", 1))
	eventually(c.t, patience, "the quota is named as the root cause", func() bool {
		r := c.run(c.command("why", "deploy/many", "-n", "tight"))
		return r.code() == 2 && strings.Contains(r.out, "Root cause: ResourceQuota tight/small: FailedCreate") &&
			strings.Contains(r.out, "exceeded quota: small, requested: limits.cpu=100m,pods=1, used: limits.cpu=100m,pods=1, limited: limits.cpu=150m,pods=1") &&
			strings.Contains(r.out, "raise the ResourceQuota")
	})
	c.k("patch", "quota", "small", "-n", "tight", "-p", `{"spec":{"hard":{"pods":"2","limits.cpu":"1"}}}`)
	c.k("rollout", "status", "deploy/many", "-n", "tight", "--timeout=60s")
	c.k("delete", "namespace", "tight", "--wait=false")
}

// whyUpdate: the update of a StatefulSet stops at the ordinal whose new probe fails.
func whyUpdate(c *cluster) {
	c.apply(workload("StatefulSet", "roll", "\n  replicas: 3\n  serviceName: x", sleeper("")))
	c.explained("sts/roll", 0, "Steady: 3 of 3 pods available")
	c.apply(workload("StatefulSet", "roll", "\n  replicas: 3\n  serviceName: x", sleeper(probe)))
	c.explained("sts/roll", 2, "2 of 3 pods available", "Pod roll-2", "pod roll-1 is the next to be updated", "Root cause: Pod default/roll-2", "Readiness probe failed", "no-such-file")
}

// whyCordon: a Deployment waits for a node that takes pods; a daemon on a cordoned node does not.
func whyCordon(c *cluster) {
	c.k("cordon", "node-1")
	defer c.k("uncordon", "node-1")
	c.apply(workload("Deployment", "nowhere", "", sleeper("")))
	c.explained("deploy/nowhere", 2, "Root cause: Pod default/nowhere-", "were unschedulable", "uncordon")
	c.explained("ds/all", 0, "Steady: 1 of 1 pods available")
	c.explained("node/node-1", 2, "Cordoned", "kubectl uncordon node-1")
}

// whyNode: a daemon is not available because its node is no longer heard of.
func whyNode(c *cluster) {
	c.apply(workload("DaemonSet", "each", "", "tolerations: [{key: gpu, operator: Exists}], "+sleeper("")))
	c.explained("ds/each", 0, "Steady: 2 of 2 pods available")
	c.killNode("node-2")
	c.explained("ds/each", 2, "Pod each-", "NodeNotReady", "Node node-2", "Root cause: Node node-2: NodeStatusUnknown", "start the node's agent again")
}

func whyJSON(c *cluster) {
	r := c.run(c.command("why", "statefulset", "noclass", "-o", "json"))
	if r.code() != 2 {
		c.t.Fatalf("exit code %d: %s", r.code(), r.errs)
	}
	var got struct {
		APIVersion, Kind string
		Object           struct{ Kind, Name, State string }
		Causes           []struct{ Kind, Name, Reason string }
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		c.t.Fatalf("%v:\n%s", err, r.out)
	}
	if got.APIVersion != "coracle.io/v1alpha1" || got.Kind != "Why" || got.Object.Kind != "StatefulSet" || got.Object.State != "Stuck" ||
		len(got.Causes) != 1 || got.Causes[0].Kind != "StorageClass" || got.Causes[0].Reason != "NotFound" {
		c.t.Errorf("JSON: %+v", got)
	}
}

func whyRefusals(c *cluster) {
	for args, message := range map[string]string{
		"deploy/absent":   `deployments.apps "absent" not found`,
		"no/absent":       `nodes "absent" not found`,
		"frog/x":          `the server doesn't have a resource type "frog"`,
		"deploy":          "name one object",
		"deploy/x -o xml": "it is text or json",
	} {
		r := c.run(c.command(append([]string{"why"}, strings.Fields(args)...)...))
		if r.code() != 1 || !strings.Contains(r.errs, message) {
			c.t.Errorf("why %s: exit code %d, %q; want 1 and %q", args, r.code(), r.errs, message)
		}
	}
}
