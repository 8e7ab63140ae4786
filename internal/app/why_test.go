package app

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client/fake"
	"coracle/internal/loop"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
	"coracle/internal/why"
	whyserver "coracle/internal/why/server"
	"coracle/internal/workload/replicaset"
)

func TestParseObject(t *testing.T) {
	for _, tc := range []struct {
		args string
		res  resource.Resource
		name string
		err  string
	}{
		{args: "deploy/web", res: resource.Deployments, name: "web"},
		{args: "Deployment web", res: resource.Deployments, name: "web"},
		{args: "deployments.apps/web", res: resource.Deployments, name: "web"},
		{args: "sts/db", res: resource.StatefulSets, name: "db"},
		{args: "ds/a", res: resource.DaemonSets, name: "a"},
		{args: "rs/a", res: resource.ReplicaSets, name: "a"},
		{args: "po/a", res: resource.Pods, name: "a"},
		{args: "pvc/a", res: resource.PersistentVolumeClaims, name: "a"},
		{args: "no/a", res: resource.Nodes, name: "a"},
		{args: "svc/a", res: resource.Services, name: "a"},
		{args: "sc/a", res: resource.StorageClasses, name: "a"},
		{args: "deployments.example/web", err: "the server doesn't have a resource type"},
		{args: "frog/x", err: `the server doesn't have a resource type "frog"`},
		{args: "deploy", err: "name one object"},
		{args: "deploy/", err: "name one object"},
		{args: "deploy/a/b", err: "name one object"},
		{args: "deploy/a b", err: "name one object"},
	} {
		res, name, err := parseObject(strings.Fields(tc.args))
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%q: error %v, want %q", tc.args, err, tc.err)
			}
			continue
		}
		if err != nil || res != tc.res || name != tc.name {
			t.Errorf("%q: %v %q %v, want %v %q", tc.args, res, name, err, tc.res, tc.name)
		}
	}
}

// TestExplainer: the face answers as the API does.
func TestExplainer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, snapshot, e := fake.New(), view.New(), &whyserver.Explainer{}
	ask := func(method, path string) (int, metav1.Status, why.Report) {
		t.Helper()
		w := httptest.NewRecorder()
		answers(e.Explain).ServeHTTP(w, httptest.NewRequest(method, path, nil))
		var status metav1.Status
		var report why.Report
		var into any = &status
		if w.Code == http.StatusOK {
			into = &report
		}
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatalf("%s: %v: %s", path, err, w.Body)
		}
		return w.Code, status, report
	}
	if code, status, _ := ask("GET", "/coracle/why/pods/default/p"); code != 503 || status.Reason != metav1.StatusReasonServiceUnavailable {
		t.Errorf("before the controllers run: %d %v", code, status)
	}
	decide := loop.New(c, snapshot, []plan.Controller{replicaset.Controller()}, loop.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	following := view.Follow(ctx, c, snapshot, decide.Resources()...)
	e.Follow(c, snapshot, decide, following)
	if _, err := c.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q"}}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-following.Synced():
	case <-time.After(30 * time.Second):
		t.Fatal("the picture is never whole")
	}
	for path, want := range map[string]struct {
		code    int
		message string
	}{
		"/coracle/why/pods/default/p":                  {200, ""},
		"/coracle/why/resourcequotas/default/q":        {200, ""}, // no controller follows these: the API is asked
		"/coracle/why/pods/default/absent":             {404, `pods "absent" not found`},
		"/coracle/why/deployments.apps/default/absent": {404, `deployments.apps "absent" not found`},
		"/coracle/why/nodes/absent":                    {404, `nodes "absent" not found`},
		"/coracle/why/pods/p":                          {400, "the path must be"},
		"/coracle/why/nodes/default/n":                 {400, "the path must be"},
		"/coracle/why/frogs/default/p":                 {400, "the path must be"},
		"/coracle/why/":                                {400, "the path must be"},
		"/coracle/why/pods/default/p/log":              {400, "the path must be"},
	} {
		code, status, report := ask("GET", path)
		if code != want.code || !strings.Contains(status.Message, want.message) {
			t.Errorf("%s: %d %q, want %d %q", path, code, status.Message, want.code, want.message)
		}
		if code == 200 && (report.APIVersion != why.Version || report.Object.Name == "") {
			t.Errorf("%s: %+v", path, report)
		}
	}
	if code, _, _ := ask("DELETE", "/coracle/why/pods/default/p"); code != 405 {
		t.Errorf("DELETE: %d, want 405", code)
	}
	cancel()
	<-following.Done()
}
