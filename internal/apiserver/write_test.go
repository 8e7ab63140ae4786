package apiserver

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// settled is an answer without what differs from one write to the next: identity and times. That
// a manager's entry has a time stays.
func settled(t *testing.T, a answer) any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatal(err)
	}
	meta, ok := v["metadata"].(map[string]any)
	if !ok {
		return v
	}
	for _, key := range []string{"uid", "resourceVersion", "creationTimestamp"} {
		delete(meta, key)
	}
	entries, _ := meta["managedFields"].([]any)
	for _, e := range entries {
		e.(map[string]any)["time"] = e.(map[string]any)["time"] != nil
	}
	return v
}

// TestShortWayAnswersAsUpstream sends each write twice: as a dry run, which upstream's handler
// serves, and plainly, which ours does.
func TestShortWayAnswersAsUpstream(t *testing.T) {
	c := start(t)
	account(t, c)
	deployment := `{"metadata":{"name":"d","labels":{"x":"y"}},"spec":{"replicas":%d,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}]}]}}}}`
	deployments := "/apis/apps/v1/namespaces/default/deployments"
	lease := `{"metadata":{"name":"l"},"spec":{"holderIdentity":%q}}`
	leases := "/apis/coordination.k8s.io/v1/namespaces/default/leases"
	for _, x := range []struct{ method, path, body string }{
		{"POST", configMaps, `{"metadata":{"name":"c"},"data":{"a":"1"}}`},
		{"POST", configMaps, `{"metadata":{"name":"c"}}`},
		{"POST", configMaps, `{"metadata":{"name":"C!"}}`},
		{"POST", configMaps, `{"metadata":{"name":"w"},"dta":{}}`},
		{"POST", configMaps, `{"metadata":{"name":"n","namespace":"other"}}`},
		{"POST", configMaps, `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"n"}}`},
		{"POST", configMaps, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"k"}}`},
		{"POST", configMaps, `{"metadata":{"name":"o","ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"},{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"}]}}`},
		{"POST", configMaps, `{"kind":"ConfigMap","metadata":{"name":"k1"}}`},
		{"POST", configMaps, `{"apiVersion":"v1","metadata":{"name":"k2"}}`},
		{"POST", configMaps, `{"apiVersion":"a/b/c","metadata":{"name":"k3"}}`},
		{"POST", configMaps, `{"apiVersion":"apps/v1","kind":"ConfigMap","metadata":{"name":"k4"}}`},
		{"POST", configMaps, `{"Kind":"ConfigMap","metadata":{"name":"k5"}}`},
		{"POST", configMaps, `{"kind":"ConfigMap","kind":"Secret","metadata":{"name":"k6"}}`},
		{"POST", configMaps, `null`},
		{"POST", configMaps, `[]`},
		{"PUT", configMaps + "/c", `{"metadata":{"name":"c"},"data":{"a":"2","b":"3"}}`},
		{"PUT", configMaps + "/c", `{"metadata":{"name":"c"},"data":{"b":"3"}}`},
		{"PUT", configMaps + "/c", `{"metadata":{"name":"other"}}`},
		{"PUT", configMaps + "/c", `{"metadata":{"name":"c","resourceVersion":"1"}}`},
		{"PUT", configMaps + "/c", `{"metadata":{"name":"c","uid":"other"}}`},
		{"PUT", configMaps + "/none", `{"metadata":{"name":"none"}}`},
		{"POST", deployments + "?fieldManager=me", fmt.Sprintf(deployment, 1)},
		{"PUT", deployments + "/d?fieldManager=me", fmt.Sprintf(deployment, 2)},
		{"PUT", deployments + "/d?fieldManager=you", fmt.Sprintf(deployment, 3)},
		{"PUT", deployments + "/d/status?fieldManager=controller", strings.Replace(fmt.Sprintf(deployment, 9), `"spec"`, `"status":{"replicas":3,"observedGeneration":2},"spec"`, 1)},
		{"PUT", deployments + "/d", `{"metadata":{"name":"d"}}`},
		{"POST", pods, `{"metadata":{"name":"p"},"spec":{"automountServiceAccountToken":false,"containers":[{"name":"c","image":"i"}]}}`},
		{"POST", pods, `{"metadata":{"name":"q"},"spec":{"containers":[{"name":"c"}]}}`},
		{"PUT", pods + "/p/status", `{"metadata":{"name":"p"},"status":{"phase":"Running"}}`},
		{"POST", leases, fmt.Sprintf(lease, "a")},
		{"PUT", leases + "/l", fmt.Sprintf(lease, "b")},
		{"PUT", leases + "/m", strings.Replace(fmt.Sprintf(lease, "b"), `"l"`, `"m"`, 1)},
		{"POST", "/api/v1/namespaces", `{"metadata":{"name":"ns"}}`},
		{"PUT", "/api/v1/namespaces/ns", `{"metadata":{"name":"ns","labels":{"a":"b"}}}`},
		{"POST", "/api/v1/nodes", `{"metadata":{"name":"node"}}`},
	} {
		mark := "?"
		if strings.Contains(x.path, "?") {
			mark = "&"
		}
		want := c.call(c.http, x.method, x.path+mark+"dryRun=All", x.body)
		got := c.call(c.http, x.method, x.path, x.body)
		name := x.method + " " + x.path + " " + x.body
		if want.code != got.code || want.header.Get("Warning") != got.header.Get("Warning") || want.header.Get("Content-Type") != got.header.Get("Content-Type") {
			t.Errorf("%s:\nupstream %d %v\nours %d %v", name, want.code, want.header, got.code, got.header)
		}
		if d := cmp.Diff(settled(t, want), settled(t, got)); d != "" {
			t.Errorf("%s (-upstream +ours):\n%s", name, d)
		}
	}
}
