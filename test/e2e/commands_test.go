package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const shell = `
apiVersion: v1
kind: Pod
metadata: {name: shell, labels: {app: shell}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: shell
    image: e2e/tools:1
    command: [sh, -c, "trap 'exit 0' TERM; mkdir -p /www; echo served >/www/index.html; httpd -p 8080 -h /www; i=0; while read line; do echo \"got $line\"; done; while true; do i=$((i+1)); sleep 1; done"]
    stdin: true
`

// TestCommands: kubectl's commands do what their users expect. One cluster, one test each.
func TestCommands(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2).images()
	c.example("storageclass-efs.yaml")
	c.example("counter-deployment.yaml")
	c.apply(shell)
	c.k("wait", "pod/shell", "--for=condition=Ready", "--timeout=60s")
	c.k("wait", "deployment/counter", "--for=condition=Available", "--timeout=60s")
	for name, test := range map[string]func(*cluster){
		"get -w": getWatch, "get -o": getOutput, "describe": describe, "exec": execute, "logs": logs, "attach": attach,
		"port-forward": portForward, "delete --grace-period": deleteGrace, "apply --server-side": serverSide, "diff": diff,
		"explain": explain, "label and annotate": label, "edit": edit, "wait": wait, "rollout restart": restart, "top level": topLevel,
		"invalid": invalid, "create and run": createRun,
	} {
		t.Run(name, func(t *testing.T) {
			sub := *c
			sub.t = t
			test(&sub)
		})
	}
	// These two move pods about: last.
	t.Run("cordon and drain", func(t *testing.T) { sub := *c; sub.t = t; cordonDrain(&sub) })
}

// want fails the test unless text has every part.
func (c *cluster) want(what, text string, parts ...string) {
	c.t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			c.t.Errorf("%s: no %q in\n%s", what, part, text)
		}
	}
}

func getWatch(c *cluster) {
	// The pod waits until the watch has begun: it would run before kubectl has looked.
	c.k("run", "watched", "--image=e2e/tools:1", "--labels=app=watched", `--overrides={"spec":{"schedulingGates":[{"name":"test/watch"}]}}`,
		"--override-type=strategic", "--command", "--", "sleep", "1000")
	s := c.stream(nil, "get", "pods", "-l", "app=watched", "-w")
	s.until("the new pod", contains("0/1"))
	c.k("patch", "pod", "watched", "--type=json", "-p", `[{"op":"remove","path":"/spec/schedulingGates/0"}]`)
	s.until("Running", contains("Running"))
	c.k("delete", "pod", "watched", "--grace-period=1", "--wait=false")
	s.until("Terminating", contains("Terminating"))
	c.want("header", s.seen[0], "NAME", "READY", "STATUS", "RESTARTS", "AGE")
}

func getOutput(c *cluster) {
	c.want("yaml", c.k("get", "pod", "shell", "-o", "yaml"), "apiVersion: v1", "kind: Pod", "image: e2e/tools:1", "qosClass: BestEffort")
	c.want("json", c.k("get", "pod", "shell", "-o", "json"), `"kind": "Pod"`, `"phase": "Running"`)
	c.want("wide", c.k("get", "pod", "shell", "-o", "wide"), "IP", "NODE", "NOMINATED NODE", "READINESS GATES", "node-")
	c.want("deployment wide", c.k("get", "deployment", "-o", "wide"), "READY", "UP-TO-DATE", "AVAILABLE", "CONTAINERS", "IMAGES", "SELECTOR", "1/1", "app=counter")
	c.want("nodes wide", c.k("get", "nodes", "-o", "wide"), "INTERNAL-IP", "OS-IMAGE", "KERNEL-VERSION", "CONTAINER-RUNTIME", "v1.37")
	c.want("claim", c.k("get", "pvc"), "STATUS", "VOLUME", "CAPACITY", "ACCESS MODES", "STORAGECLASS", "Bound", "RWX", "efs")
	c.want("classes", c.k("get", "storageclass"), "local (default)", "WaitForFirstConsumer", "shared", "efs")
	c.want("all", c.k("get", "all"), "pod/counter-", "service/kubernetes", "deployment.apps/counter", "replicaset.apps/counter-")
	c.want("field selector", c.k("get", "pods", "--field-selector=metadata.name=shell", "-o", "name"), "pod/shell")
	if r := c.try("get", "pod", "nothere"); r.code() != 1 || !strings.Contains(r.errs, `pods "nothere" not found`) {
		c.t.Errorf("get of what is not there: %d %q", r.code(), r.errs)
	}
}

func describe(c *cluster) {
	c.want("pod", c.k("describe", "pod", "shell"), "Name:", "Node:", "Status:", "Running", "Conditions:", "QoS Class:", "Events:", "Scheduled", "Successfully assigned default/shell", "Pulled", "Created", "Started")
	c.want("deployment", c.k("describe", "deployment", "counter"), "Replicas:", "1 desired | 1 updated | 1 total | 1 available", "ScalingReplicaSet", "NewReplicaSet:")
	c.want("node", c.k("describe", "node", "node-1"), "Capacity:", "Allocatable:", "PodCIDR:", "Non-terminated Pods:", "Allocated resources:", "KubeletReady")
	c.want("claim", c.k("describe", "pvc", "counter"), "Bound", "efs", "Used By:", "counter-")
}

func execute(c *cluster) {
	if got := c.kWith("hello\n", "exec", "-i", "shell", "--", "cat"); got != "hello\n" {
		c.t.Errorf("exec with standard input gives %q", got)
	}
	r := c.try("exec", "shell", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
	if r.code() != 7 || r.out != "out\n" || !strings.HasPrefix(r.errs, "err\n") {
		c.t.Errorf("exec: code %d, out %q, err %q; want 7, out and err", r.code(), r.out, r.errs)
	}
	c.want("environment", c.k("exec", "shell", "--", "env"), "PATH=/bin", "HOSTNAME=shell", "KUBERNETES_SERVICE_HOST=")
	big := strings.Repeat("0123456789abcdef\n", 64*1024)
	if got := c.kWith(big, "exec", "-i", "shell", "--", "cat"); got != big {
		c.t.Errorf("1 MiB through exec came back as %d bytes", len(got))
	}
	if r := c.try("exec", "shell", "--", "nothere"); r.err == nil {
		c.t.Error("exec of a program that is not there succeeds")
	}
	if r := c.try("exec", "nothere", "--", "true"); !strings.Contains(r.errs, `pods "nothere" not found`) {
		c.t.Errorf("exec in no pod: %q", r.errs)
	}
}

func logs(c *cluster) {
	s := c.stream(nil, "logs", "-f", "deployment/counter")
	s.until("a number", func(line string) bool { return number(line) > 0 })
	n := number(s.seen[len(s.seen)-1])
	s.until("the next", func(line string) bool { return number(line) == n+1 })
	s.stop()
	if got := strings.Count(c.k("logs", "deployment/counter", "--tail=2"), "\n"); got != 2 {
		c.t.Errorf("logs --tail=2 gives %d lines", got)
	}
	if line := c.k("logs", "deployment/counter", "--tail=1", "--timestamps"); !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\S+Z \d+\n$`).MatchString(line) {
		c.t.Errorf("logs --timestamps gives %q", line)
	}
	c.want("selector", c.k("logs", "-l", "app=counter", "--prefix", "--tail=1"), "[pod/counter-")
}

func attach(c *cluster) {
	r, w := io.Pipe()
	s := c.stream(r, "attach", "-i", "shell")
	sent := make(chan error, 1)
	go func() { _, err := io.WriteString(w, "one\n"); sent <- err }()
	s.until("the echo", contains("got one"))
	if err := <-sent; err != nil {
		c.t.Error(err)
	}
	w.Close()
}

func portForward(c *cluster) {
	s := c.stream(nil, "port-forward", "pod/shell", ":8080")
	line := s.until("address", contains("Forwarding from 127.0.0.1:"))
	port, _, _ := strings.Cut(strings.TrimPrefix(line, "Forwarding from 127.0.0.1:"), " ")
	web := http.Client{Timeout: 10 * time.Second}
	for range 3 {
		resp, err := web.Get("http://127.0.0.1:" + port + "/")
		if err != nil {
			c.t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != "served\n" || err != nil {
			c.t.Errorf("through the forwarded port: %q %v", body, err)
		}
	}
}

func deleteGrace(c *cluster) {
	const stubborn = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"%s"},"spec":{"containers":[{"name":"c","image":"e2e/tools:1","command":["sh","-c","trap '' TERM; while true; do sleep 1; done"]}]}}`
	for name, flags := range map[string][]string{"graceful": {"--grace-period=2"}, "forced": {"--grace-period=0", "--force"}, "now": {"--now"}} {
		c.apply(fmt.Sprintf(stubborn, name))
		c.k("wait", "pod/"+name, "--for=condition=Ready", "--timeout=60s")
		began := time.Now()
		c.k(append([]string{"delete", "pod", name}, flags...)...)
		if took := time.Since(began); took > 15*time.Second || name == "graceful" && took < 2*time.Second {
			c.t.Errorf("delete %v of a pod that ignores TERM took %s", flags, took)
		}
	}
}

func serverSide(c *cluster) {
	const manifest = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"owned"},"data":{"k":"%s"}}`
	c.kWith(fmt.Sprintf(manifest, "1"), "apply", "--server-side", "--field-manager=one", "-f", "-")
	c.want("managers", c.k("get", "cm", "owned", "-o", "yaml", "--show-managed-fields"), "manager: one", "operation: Apply")
	cmd := c.kubectlCommand("apply", "--server-side", "--field-manager=two", "-f", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(manifest, "2"))
	if r := c.run(cmd); r.err == nil || !strings.Contains(r.errs, "conflict") || !strings.Contains(r.errs, ".data.k") {
		c.t.Errorf("apply over another's field: %q", r.errs)
	}
	c.kWith(fmt.Sprintf(manifest, "2"), "apply", "--server-side", "--field-manager=two", "--force-conflicts", "-f", "-")
	if got := c.k("get", "cm", "owned", "-o", "jsonpath={.data.k}"); got != "2" {
		c.t.Errorf("after --force-conflicts the value is %q", got)
	}
}

func diff(c *cluster) {
	manifest := c.k("get", "cm", "kube-root-ca.crt", "-o", "json")
	cmd := c.kubectlCommand("diff", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if r := c.run(cmd); r.code() != 0 {
		c.t.Errorf("diff of the same: %d %s %s", r.code(), r.out, r.errs)
	}
	cmd = c.kubectlCommand("diff", "-f", filepath.Join("..", "..", "examples", "manifests", "counter-statefulset.yaml"))
	if r := c.run(cmd); r.code() != 1 || !strings.Contains(r.out, "+  serviceName: counter-app") {
		c.t.Errorf("diff of what is not there: %d\n%s%s", r.code(), r.out, r.errs)
	}
}

func explain(c *cluster) {
	c.want("deployment", c.k("explain", "deployment.spec.strategy"), "GROUP:", "apps", "rollingUpdate", "FIELD: strategy")
	c.want("pod", c.k("explain", "pods.spec.containers", "--recursive"), "imagePullPolicy")
}

func label(c *cluster) {
	c.k("create", "configmap", "labelled")
	c.k("label", "cm", "labelled", "tier=one")
	if r := c.try("label", "cm", "labelled", "tier=two"); r.err == nil {
		c.t.Error("label overwrites without --overwrite")
	}
	c.k("label", "cm", "labelled", "tier=two", "--overwrite")
	c.want("selector", c.k("get", "cm", "-l", "tier=two", "-o", "name"), "configmap/labelled")
	c.k("label", "cm", "labelled", "tier-")
	if got := c.k("get", "cm", "-l", "tier", "-o", "name"); got != "" {
		c.t.Errorf("after the label's removal the selector finds %q", got)
	}
	c.k("annotate", "cm", "labelled", "note=text")
	if got := c.k("get", "cm", "labelled", "-o", "jsonpath={.metadata.annotations.note}"); got != "text" {
		c.t.Errorf("annotation is %q", got)
	}
}

func edit(c *cluster) {
	c.k("create", "configmap", "edited", "--from-literal=k=old")
	editor := filepath.Join(c.root, "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nsed -i 's/k: old/k: new/' \"$1\"\n"), 0o755); err != nil {
		c.t.Fatal(err)
	}
	cmd := c.kubectlCommand("edit", "cm", "edited")
	cmd.Env = append(cmd.Env, "KUBE_EDITOR="+editor)
	if r := c.run(cmd); r.err != nil {
		c.t.Fatalf("edit: %v %s", r.err, r.errs)
	}
	if got := c.k("get", "cm", "edited", "-o", "jsonpath={.data.k}"); got != "new" {
		c.t.Errorf("after edit the value is %q", got)
	}
}

func wait(c *cluster) {
	c.k("wait", "pod/shell", "--for=condition=Ready", "--timeout=20s")
	c.k("wait", "pod/shell", "--for=jsonpath={.status.phase}=Running", "--timeout=20s")
	if r := c.try("wait", "pod/shell", "--for=delete", "--timeout=1s"); r.err == nil {
		c.t.Error("wait for the deletion of a pod that stays succeeds")
	}
}

func restart(c *cluster) {
	before := c.k("get", "pods", "-l", "app=counter", "-o", "name")
	c.k("rollout", "restart", "deployment/counter")
	c.k("rollout", "status", "deployment/counter", "--timeout=60s")
	eventually(c.t, patience, "another pod", func() bool {
		after := c.k("get", "pods", "-l", "app=counter", "-o", "name")
		return strings.Count(after, "\n") == 1 && after != before
	})
}

func topLevel(c *cluster) {
	c.want("version", c.k("version"), "Server Version: v1.37")
	c.want("api-resources", c.k("api-resources"), "deployments", "deploy", "apps/v1", "persistentvolumeclaims", "pvc")
	c.want("cluster-info", c.k("cluster-info"), "is running at")
	c.want("auth", c.k("auth", "can-i", "delete", "pods"), "yes")
	c.want("whoami", c.k("auth", "whoami"), "coracle-admin")
	c.want("readyz", c.k("get", "--raw", "/readyz"), "ok")
}

func createRun(c *cluster) {
	c.k("create", "deployment", "made", "--image=e2e/tools:1", "--replicas=2", "--", "sh", "-c", "trap 'exit 0' TERM; while true; do sleep 1; done")
	c.k("rollout", "status", "deployment/made", "--timeout=60s")
	c.k("expose", "deployment", "made", "--port=80")
	c.want("endpoints", c.k("get", "endpointslices", "-l", "kubernetes.io/service-name=made", "-o", "jsonpath={.items[*].endpoints[*].addresses[*]}"), "10.")
	c.k("delete", "deployment,service", "made")
	c.k("wait", "pod", "-l", "app=made", "--for=delete", "--timeout=60s")
	r := c.try("run", "once", "--image=e2e/tools:1", "--restart=Never", "--rm", "-i", "--command", "--", "sh", "-c", "echo done; exit 3")
	if !strings.Contains(r.out, "done") {
		c.t.Errorf("run --rm -i: %d %q %q", r.code(), r.out, r.errs)
	}
}

// invalid: what the API refuses names the field.
func invalid(c *cluster) {
	for _, test := range []struct{ name, manifest, want string }{
		{"selector mismatch", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"bad"},"spec":{"selector":{"matchLabels":{"a":"1"}},"template":{"metadata":{"labels":{"a":"2"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`, "spec.template.metadata.labels: Invalid value"},
		{"no containers", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad"},"spec":{"containers":[]}}`, "spec.containers: Required value"},
		{"bad name", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"Bad_Name"}}`, `metadata.name: Invalid value: "Bad_Name"`},
		{"negative replicas", `{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"bad"},"spec":{"replicas":-1,"selector":{"matchLabels":{"a":"1"}},"template":{"metadata":{"labels":{"a":"1"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`, "spec.replicas: Invalid value: -1"},
		{"unknown field", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad"},"spec":{"containerz":[]}}`, `unknown field "spec.containerz"`},
		{"volume not there", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad"},"spec":{"containers":[{"name":"c","image":"i","volumeMounts":[{"name":"v","mountPath":"/v"}]}]}}`, `spec.containers[0].volumeMounts[0].name: Not found: "v"`},
	} {
		cmd := c.kubectlCommand("apply", "-f", "-")
		cmd.Stdin = strings.NewReader(test.manifest)
		if r := c.run(cmd); r.code() != 1 || !strings.Contains(r.errs, test.want) {
			c.t.Errorf("%s: code %d, %q; want %q", test.name, r.code(), r.errs, test.want)
		}
	}
	c.k("create", "configmap", "fixed", "--from-literal=a=1")
	if r := c.try("patch", "pod", "shell", "-p", `{"spec":{"nodeName":"node-9"}}`); !strings.Contains(r.errs, "pod updates may not change fields other than") {
		c.t.Errorf("change of a fixed field: %q", r.errs)
	}
}

func cordonDrain(c *cluster) {
	c.k("scale", "deployment/counter", "--replicas=3")
	c.k("rollout", "status", "deployment/counter", "--timeout=60s")
	c.k("cordon", "node-1")
	c.want("nodes", c.k("get", "nodes"), "Ready,SchedulingDisabled")
	c.k("delete", "pod", "shell", "--now")
	c.k("drain", "node-1", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s")
	c.k("rollout", "status", "deployment/counter", "--timeout=60s")
	if on := strings.Fields(c.k("get", "pods", "-l", "app=counter", "-o", "jsonpath={.items[*].spec.nodeName}")); strings.Join(on, " ") != "node-2 node-2 node-2" {
		c.t.Errorf("after the drain the pods are on %v", on)
	}
	c.k("uncordon", "node-1")
	if r := c.try("get", "node", "node-1"); strings.Contains(r.out, "SchedulingDisabled") {
		c.t.Errorf("after uncordon: %s", r.out)
	}
}
