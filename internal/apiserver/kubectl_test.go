package apiserver

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"coracle/internal/pki"
)

// kubectl runs the machine's own kubectl against a cluster.
type kubectl struct {
	t    *testing.T
	path string
	env  []string
}

func (c *cluster) kubectl(t *testing.T) *kubectl {
	t.Helper()
	path, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("kubectl is not installed")
	}
	home := t.TempDir()
	config := filepath.Join(home, "config")
	pair, err := c.pki.ClientCert("admin", pki.MastersGroup)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString
	body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
		"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
		"clusters":[{"name":"c","cluster":{"server":%q,"certificate-authority-data":%q}}],
		"users":[{"name":"u","user":{"client-certificate-data":%q,"client-key-data":%q}}]}`,
		c.url, text(c.pki.CACert()), text(pair.Certificate), text(pair.Key))
	if err := os.WriteFile(config, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	return &kubectl{t, path, append(os.Environ(), "HOME="+home, "KUBECONFIG="+config)}
}

// run returns what kubectl printed, errors included, and whether it was content.
func (k *kubectl) run(stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(k.t.Context(), k.path, args...)
	cmd.Env = k.env
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// says runs kubectl, which must succeed and print each of want.
func (k *kubectl) says(stdin string, args []string, want ...string) {
	k.t.Helper()
	out, err := k.run(stdin, args...)
	if err != nil {
		k.t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		return
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			k.t.Errorf("kubectl %s lacks %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
}

// refuses runs kubectl, which must fail and print each of want.
func (k *kubectl) refuses(stdin string, args []string, want ...string) {
	k.t.Helper()
	out, err := k.run(stdin, args...)
	if err == nil {
		k.t.Errorf("kubectl %s succeeded:\n%s", strings.Join(args, " "), out)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			k.t.Errorf("kubectl %s lacks %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
}

func words(s string) []string { return strings.Fields(s) }

const manifest = `apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 1
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec:
      containers:
      - {name: c, image: "i:1", ports: [{containerPort: 80}]}
`

func TestKubectl(t *testing.T) {
	c := start(t)
	k := c.kubectl(t)
	k.says("", words("version"), "Server Version: v1.37.2+coracle")
	k.says("", words("api-resources"), "deployments", "poddisruptionbudgets")
	k.says("", words("explain deployment.spec.strategy.rollingUpdate"), "maxSurge", "<IntOrString>")
	k.says("", words("explain pod.spec.containers --recursive"), "livenessProbe", "<[]ContainerPort>")
	k.says(manifest, words("apply -f -"), "deployment.apps/d created")
	k.says(manifest, words("apply -f -"), "deployment.apps/d unchanged")
	k.says("", words("get deploy,svc -o wide"), "deployment.apps/d   0/1     0            0", "i:1", "service/kubernetes   ClusterIP   10.96.0.1")
	next := strings.ReplaceAll(manifest, "i:1", "i:2")
	k.refuses(next, words("diff -f -"), `-      - image: i:1`, `+      - image: i:2`)
	k.says(next, words("apply -f - --dry-run=server"), "configured (server dry run)")
	k.says("", words("get deploy d -o jsonpath={.spec.template.spec.containers[0].image}"), "i:1")
	k.says(next, words("apply -f -"), "configured")
	k.says(manifest, words("apply -f - --server-side --force-conflicts"), "serverside-applied")
	k.refuses(next, words("apply -f - --server-side --field-manager=other"), `conflict with "kubectl"`)
	k.refuses(strings.ReplaceAll(manifest, "image:", "imgae:"), words("apply -f -"), `unknown field "spec.template.spec.containers[0].imgae"`)
	k.refuses(strings.ReplaceAll(manifest, "{a: b}}\n    spec", "{a: c}}\n    spec"), words("apply -f -"), "`selector` does not match template `labels`")
	k.says("", words("scale deploy d --replicas=3"), "scaled")
	k.says("", words("label deploy d x=y"), "labeled")
	k.says("", words("get deploy -l x=y -o name"), "deployment.apps/d")
	k.says("", words("annotate deploy d x=y"), "annotated")
	k.says("", words("set image deploy/d c=i:3"), "image updated")
	k.says("", words("get deploy d -o yaml --show-managed-fields"), "manager: kubectl-set", "replicas: 3", "image: i:3")
	k.says("", words("rollout restart deploy d"), "restarted")
	k.says("", words("create configmap cm --from-literal=a=b"), "created")
	k.says("", words("wait --for=jsonpath={.data.a}=b cm/cm --timeout=10s"), "condition met")
	k.says("", words("describe deploy d"), "Replicas:", "3 desired")
	k.says("", words("auth can-i create pods"), "yes")
	k.says("", words("auth can-i --list"), "*.*")
	k.says("", words("auth whoami"), "system:masters")
	k.says("", words("create sa robot"), "created")
	k.says("", words("create token robot"), "eyJ")
	k.refuses("", words("get nothings"), `the server doesn't have a resource type "nothings"`)
	k.says("", words("delete deploy d --wait=true --cascade=background"), "deleted")
	k.says("", words("get all"), "service/kubernetes")
}
