package app

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// readOnly is a server that has a node and nothing else, and notes what it is asked to write.
func readOnly(t *testing.T) (kubeconfig string, writes *[]string) {
	t.Helper()
	writes = &[]string{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		w.Header().Set("Content-Type", "application/json")
		if req.Method == http.MethodGet {
			parts := strings.Split(req.URL.Path, "/")
			version := strings.TrimPrefix(strings.Join(parts[2:len(parts)-1], "/"), "/")
			kind := strings.ToUpper(parts[len(parts)-1][:1]) + parts[len(parts)-1][1:]
			_, _ = io.WriteString(w, `{"apiVersion":"`+version+`","kind":"`+kinds[kind]+`List","metadata":{"resourceVersion":"5"},"items":[]}`)
			return
		}
		*writes = append(*writes, req.Method+" "+req.URL.Path+" dryRun="+req.URL.Query().Get("dryRun")+" "+req.Header.Get("Content-Type"))
		_, _ = w.Write(body)
	}))
	t.Cleanup(server.Close)
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	text := `{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], users: [{name: a}],
		clusters: [{name: a, cluster: {server: "` + server.URL + `"}}]}`
	text = strings.ReplaceAll(text, "\t", " ")
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig, writes
}

// kinds are the kinds of plurals.
var kinds = map[string]string{
	"Namespaces": "Namespace", "Nodes": "Node", "Pods": "Pod", "Podtemplates": "PodTemplate", "Replicationcontrollers": "ReplicationController",
	"Services": "Service", "Endpoints": "Endpoints", "Configmaps": "ConfigMap", "Secrets": "Secret", "Serviceaccounts": "ServiceAccount",
	"Events": "Event", "Persistentvolumes": "PersistentVolume", "Persistentvolumeclaims": "PersistentVolumeClaim", "Resourcequotas": "ResourceQuota",
	"Limitranges": "LimitRange", "Deployments": "Deployment", "Replicasets": "ReplicaSet", "Statefulsets": "StatefulSet", "Daemonsets": "DaemonSet",
	"Controllerrevisions": "ControllerRevision", "Endpointslices": "EndpointSlice", "Storageclasses": "StorageClass", "Leases": "Lease",
	"Priorityclasses": "PriorityClass", "Poddisruptionbudgets": "PodDisruptionBudget", "Runtimeclasses": "RuntimeClass",
	"Roles": "Role", "Rolebindings": "RoleBinding", "Clusterroles": "ClusterRole", "Clusterrolebindings": "ClusterRoleBinding",
	"Networkpolicies": "NetworkPolicy", "Ingresses": "Ingress", "Ingressclasses": "IngressClass", "Ipaddresses": "IPAddress", "Servicecidrs": "ServiceCIDR",
}

func rehearseWith(stdin string, args ...string) (string, error) {
	cmd := newRehearse()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetArgs(args)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(context.Background())
	return out.String(), err
}

const twoDocuments = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c, namespace: shop}
data: {a: b}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: d, namespace: there}
`

// TestRehearseOnlyAsks: all that a server is asked besides reading are dry runs.
func TestRehearseOnlyAsks(t *testing.T) {
	kubeconfig, writes := readOnly(t)
	out, err := rehearseWith(twoDocuments, "--kubeconfig", kubeconfig, "-f", "-")
	// The last document's namespace is not there in the virtual cluster either.
	if err == nil || !strings.Contains(err.Error(), `namespaces "there" not found`) {
		t.Errorf("%v\n%s", err, out)
	}
	if len(*writes) != 2 {
		t.Errorf("writes: %v", *writes)
	}
	for _, w := range *writes {
		if !strings.HasPrefix(w, "PATCH ") || !strings.Contains(w, "dryRun=All application/apply-patch+yaml") {
			t.Errorf("the cluster was asked to %s", w)
		}
	}
	*writes = nil
	out, err = rehearseWith(strings.Join(strings.Split(twoDocuments, "---\n")[:2], "---\n"), "--kubeconfig", kubeconfig, "-f", "-")
	if err != nil || !strings.Contains(out, "namespace/shop") || !strings.Contains(out, "created") || !strings.Contains(out, "Note: 1 of the objects") ||
		!strings.Contains(out, "Converges in 0s.") {
		t.Errorf("%v\n%s", err, out)
	}
	if len(*writes) != 1 {
		t.Errorf("only the namespace can be asked for: %v", *writes)
	}
}

// TestRehearseRefusals: what is wrong, and what to do.
func TestRehearseRefusals(t *testing.T) {
	kubeconfig, _ := readOnly(t)
	for args, message := range map[string]string{
		"":                                "nothing to rehearse: give a manifest (-f FILE)",
		"-f /no/such/file":                `the path "/no/such/file" does not exist`,
		"--scale deploy/web":              "it is KIND/NAME=N",
		"--scale deploy/web=-1":           "it is KIND/NAME=N",
		"--scale deploy/web=3":            `deployments.apps "web" not found`,
		"--restart frog/web":              "the server doesn't have a resource type",
		"--drain-node n":                  `nodes "n" not found`,
		"--fail-node n --cordon m":        "not found",
		"--cordon n -o yaml":              "it is text or json",
		"--cordon n --within 0s":          "nothing happens in no time",
		"--cordon n --ready-after -1s":    "not less than nothing",
		"--delete pod/x --stop-after 10s": `pods "x" not found`,
	} {
		_, err := rehearseWith("", append([]string{"--kubeconfig", kubeconfig}, strings.Fields(args)...)...)
		var code exitCode
		if err == nil || errors.As(err, &code) || !strings.Contains(err.Error(), message) {
			t.Errorf("%q: %v, want %q", args, err, message)
		}
	}
}
