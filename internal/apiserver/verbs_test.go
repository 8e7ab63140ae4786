package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/store"
)

const configMaps = "/api/v1/namespaces/default/configmaps"

func TestErrorsAreStatuses(t *testing.T) {
	c := start(t)
	for _, x := range []struct {
		method, path, body string
		code               int
		reason             string
	}{
		{"GET", "/api/v1/namespaces/default/nothings", "", 404, "NotFound"},
		{"GET", "/apis/none/v1/things", "", 404, "NotFound"},
		{"GET", "/nowhere", "", 404, "NotFound"},
		{"GET", configMaps + "/none", "", 404, "NotFound"},
		{"PUT", configMaps, "{}", 405, "MethodNotAllowed"},
		{"POST", configMaps + "/x", "{}", 405, "MethodNotAllowed"},
		{"POST", configMaps, "{", 400, "BadRequest"},
		{"POST", configMaps, `{"kind":"Secret","apiVersion":"v1"}`, 400, "BadRequest"},
		{"POST", configMaps, `{"metadata":{"name":"UPPER"}}`, 422, "Invalid"},
		{"POST", configMaps, `{"metadata":{"name":"a","namespace":"other"}}`, 400, "BadRequest"},
		{"POST", "/api/v1/namespaces/none/configmaps", `{"metadata":{"name":"a"}}`, 404, "NotFound"},
		{"DELETE", "/api/v1/namespaces/kube-system", "", 403, "Forbidden"},
		{"GET", configMaps + "?fieldSelector=spec.none=x", "", 400, "BadRequest"},
		{"GET", configMaps + "?labelSelector=%21%21", "", 400, "BadRequest"},
		{"GET", configMaps + "?continue=rubbish&limit=1", "", 400, "BadRequest"},
	} {
		t.Run(x.method+x.path, func(t *testing.T) {
			a := c.call(c.http, x.method, x.path, x.body).want(x.code)
			a.t = t
			a.wantField("kind", "Status").wantField("reason", x.reason).wantField("status", "Failure")
		})
	}
	a := c.call(c.http, "PATCH", configMaps+"/x", "{}", "Content-Type", "text/plain")
	if a.code != http.StatusUnsupportedMediaType {
		t.Errorf("a patch in plain text gave %d", a.code)
	}
}

func TestHealth(t *testing.T) {
	c := start(t)
	c.get("/readyz").want(200).wantBody("ok")
	c.get("/readyz?verbose").want(200).wantBody("[+]store ok\nreadyz check passed")
	if err := c.cfg.Store.Close(); err != nil {
		t.Fatal(err)
	}
	c.get("/readyz").want(500).wantBody("[-]store failed")
}

func TestFieldValidation(t *testing.T) {
	c := start(t)
	body := func(name string) string { return fmt.Sprintf(`{"metadata":{"name":%q},"dta":{}}`, name) }
	c.post(configMaps+"?fieldValidation=Strict", body("a")).want(400).
		wantBody(`strict decoding error: unknown field \"dta\"`)
	warned := c.post(configMaps+"?fieldValidation=Warn", body("b")).want(201)
	if w := warned.header.Get("Warning"); !strings.Contains(w, `unknown field \"dta\"`) {
		t.Errorf("warning %q", w)
	}
	ignored := c.post(configMaps+"?fieldValidation=Ignore", body("c")).want(201)
	if w := ignored.header.Get("Warning"); w != "" {
		t.Errorf("warning %q", w)
	}
	c.post(configMaps+"?fieldValidation=Strict", `{"metadata":{"name":"d"},"data":{"a":"1","a":"2"}}`).want(400).
		wantBody(`duplicate field \"data.a\"`)
}

func TestDryRun(t *testing.T) {
	c := start(t)
	c.post(configMaps+"?dryRun=All", `{"metadata":{"name":"a"}}`).want(201).wantField("metadata.name", "a")
	c.get(configMaps + "/a").want(404)
	c.post(configMaps, `{"metadata":{"name":"a"},"data":{"k":"1"}}`).want(201)
	merge := "application/merge-patch+json"
	c.call(c.http, "PATCH", configMaps+"/a?dryRun=All", `{"data":{"k":"2"}}`, "Content-Type", merge).want(200).wantField("data.k", "2")
	c.call(c.http, "DELETE", configMaps+"/a?dryRun=All", "").want(200)
	c.get(configMaps+"/a").want(200).wantField("data.k", "1")
	before := c.get("/api/v1/namespaces/default/services").field("metadata.resourceVersion")
	c.post("/api/v1/namespaces/default/services?dryRun=All", `{"metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}`).want(201)
	if after := c.get("/api/v1/namespaces/default/services").field("metadata.resourceVersion"); after != before {
		t.Errorf("a dry run moved the revision from %s to %s", before, after)
	}
}

func TestApply(t *testing.T) {
	c := start(t)
	apply := func(manager, value, more string) answer {
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":%q}}`, value)
		return c.call(c.http, "PATCH", configMaps+"/a?fieldManager="+manager+more, body, "Content-Type", "application/apply-patch+yaml")
	}
	apply("one", "1", "").want(201)
	apply("one", "2", "").want(200)
	apply("two", "3", "").want(409).wantBody(`conflict with \"one\": .data.k`)
	apply("two", "3", "&force=true").want(200).wantField("data.k", "3")
	// A field that its only owner drops goes.
	c.call(c.http, "PATCH", configMaps+"/a?fieldManager=two", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`,
		"Content-Type", "application/apply-patch+yaml").want(200).wantField("data.k", "")
	c.call(c.http, "PATCH", configMaps+"/a", `{}`, "Content-Type", "application/apply-patch+yaml").want(422).wantBody("fieldManager")
}

// TestApplyMergesLists holds lists with keys apart by key: what the schema is for.
func TestApplyMergesLists(t *testing.T) {
	c := start(t)
	path := "/apis/apps/v1/namespaces/default/deployments/d"
	apply := func(manager, containers string) answer {
		body := fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},
			"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":%s}}}}`, containers)
		return c.call(c.http, "PATCH", path+"?fieldManager="+manager, body, "Content-Type", "application/apply-patch+yaml")
	}
	apply("one", `[{"name":"x","image":"i"}]`).want(201)
	apply("two", `[{"name":"y","image":"j"}]`).want(200)
	var d struct {
		Spec struct {
			Template struct {
				Spec struct{ Containers []struct{ Name string } }
			}
		}
	}
	if err := json.Unmarshal(c.get(path).want(200).body, &d); err != nil {
		t.Fatal(err)
	}
	if n := len(d.Spec.Template.Spec.Containers); n != 2 {
		t.Errorf("%d containers after two managers applied one each", n)
	}
	strategic := `{"spec":{"template":{"spec":{"containers":[{"name":"x","image":"i:2"},{"name":"y","$patch":"delete"}]}}}}`
	c.call(c.http, "PATCH", path, strategic, "Content-Type", "application/strategic-merge-patch+json").want(200).
		wantBody(`"image":"i:2"`)
	if err := json.Unmarshal(c.get(path).body, &d); err != nil {
		t.Fatal(err)
	}
	if n := len(d.Spec.Template.Spec.Containers); n != 1 {
		t.Errorf("%d containers after the strategic patch deleted one", n)
	}
}

func TestPagination(t *testing.T) {
	c := start(t)
	for n := range 5 {
		c.post("/api/v1/namespaces/kube-public/configmaps", fmt.Sprintf(`{"metadata":{"name":"c%d"}}`, n)).want(201)
	}
	path := "/api/v1/namespaces/kube-public/configmaps?limit=2"
	first := c.get(path).want(200).wantField("metadata.remainingItemCount", "3")
	token := first.field("metadata.continue")
	if token == "" {
		t.Fatal("no continue token")
	}
	// What is written after the first page does not show in the later ones.
	c.post("/api/v1/namespaces/kube-public/configmaps", `{"metadata":{"name":"c2x"}}`).want(201)
	seen := 2
	for token != "" {
		page := c.get(path + "&continue=" + url.QueryEscape(token)).want(200)
		var list struct{ Items []json.RawMessage }
		if err := json.Unmarshal(page.body, &list); err != nil {
			t.Fatal(err)
		}
		seen += len(list.Items)
		token = page.field("metadata.continue")
	}
	if seen != 5 {
		t.Errorf("%d items in all pages, want 5", seen)
	}
}

func TestSelectors(t *testing.T) {
	c := start(t)
	account(t, c)
	for n, node := range []string{"n1", "n1", "n2"} {
		c.post("/api/v1/namespaces/default/pods", fmt.Sprintf(
			`{"metadata":{"name":"p%d","labels":{"n":"%d"}},"spec":{"nodeName":%q,"containers":[{"name":"c","image":"i"}]}}`, n, n, node)).want(201)
	}
	for query, want := range map[string]int{
		"fieldSelector=spec.nodeName%3Dn1":                              2,
		"fieldSelector=spec.nodeName%21%3Dn1":                           1,
		"fieldSelector=status.phase%3DPending,spec.nodeName%3Dn2":       1,
		"fieldSelector=metadata.name%3Dp1":                              1,
		"fieldSelector=metadata.namespace%3Dother":                      0,
		"labelSelector=n+in+(0,2)":                                      2,
		"labelSelector=%21n":                                            0,
		"labelSelector=n%3D1&fieldSelector=spec.nodeName%3Dn1":          1,
		"fieldSelector=spec.restartPolicy%3DAlways&labelSelector=n%3D2": 1,
	} {
		for _, path := range []string{"/api/v1/pods", "/api/v1/namespaces/default/pods"} {
			var list struct{ Items []json.RawMessage }
			if err := json.Unmarshal(c.get(path+"?"+query).want(200).body, &list); err != nil {
				t.Fatal(err)
			}
			if len(list.Items) != want {
				t.Errorf("%s?%s: %d items, want %d", path, query, len(list.Items), want)
			}
		}
	}
}

func TestTables(t *testing.T) {
	c := start(t)
	table := "application/json;as=Table;v=v1;g=meta.k8s.io"
	a := c.get("/api/v1/namespaces", "Accept", table).want(200).wantField("kind", "Table").wantField("apiVersion", "meta.k8s.io/v1")
	a.wantBody(`"name":"Status"`).wantBody(`"cells":["default","Active",`)
	partial := "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
	c.get("/api/v1/namespaces", "Accept", partial).want(200).wantField("kind", "PartialObjectMetadataList")
	// The watches of kubectl get -w, beside one of the objects themselves: they share events.
	plain := c.watch(t, "/api/v1/namespaces?watch=1")
	whole := c.watch(t, "/api/v1/namespaces?watch=1&includeObject=Object", "Accept", table)
	for range 4 {
		if e, ok := plain.next(); !ok || e.Object.Kind != "Namespace" {
			t.Errorf("watch gave %+v", e)
		}
		if e, ok := whole.next(); !ok || e.Object.Kind != "Table" {
			t.Errorf("watch of tables gave %+v", e)
		}
	}
}

func TestDiscovery(t *testing.T) {
	c := start(t)
	c.get("/api").want(200).wantField("kind", "APIVersions")
	c.get("/apis").want(200).wantField("kind", "APIGroupList").wantBody(`"name":"apps"`)
	c.get("/apis/apps").want(200).wantField("kind", "APIGroup")
	c.get("/apis/apps/v1").want(200).wantField("kind", "APIResourceList").wantBody(`"name":"deployments/scale"`)
	c.get("/api/v1").want(200).wantBody(`"name":"pods/eviction"`).wantBody(`"shortNames":["po"]`)
	aggregated := "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	c.get("/apis", "Accept", aggregated).want(200).wantField("kind", "APIGroupDiscoveryList").wantBody(`"singularResource":"deployment"`)
	c.get("/api", "Accept", aggregated).want(200).wantBody(`"resource":"pods"`)
}

func TestNamespaceLingers(t *testing.T) {
	c := start(t)
	all := "/api/v1/namespaces"
	c.post(all, `{"metadata":{"name":"a"}}`).want(201).wantField("spec.finalizers", `["kubernetes"]`)
	c.call(c.http, "DELETE", all+"/a?dryRun=All", "").want(200)
	c.get(all+"/a").want(200).wantField("status.phase", "Active")
	c.call(c.http, "DELETE", all+"/a", `{"preconditions":{"uid":"other"}}`).want(409)
	c.call(c.http, "DELETE", all+"/a", "").want(200).wantField("status.phase", "Terminating")
	going := c.get(all+"/a").want(200).wantField("status.phase", "Terminating")
	if going.field("metadata.deletionTimestamp") == "" {
		t.Error("no deletion timestamp")
	}
	c.call(c.http, "DELETE", all+"/a", "").want(200)
	c.post(all+"/a/configmaps", `{"metadata":{"name":"c"}}`).want(403).
		wantBody("unable to create new content in namespace a because it is being terminated").wantBody(`"NamespaceTerminating"`)
	c.call(c.http, "PUT", all+"/a/finalize", `{"metadata":{"name":"a"},"spec":{}}`).want(200)
	c.get(all + "/a").want(404)
	c.call(c.http, "DELETE", all, "").want(405)
	// The same in process, to the end.
	i, ctx, ok := c.Client(), ctxOf(t), must[client.Object](t)
	ns := ok(i.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "b"}}))
	left := ok(i.Delete(ctx, object.RefOf(ns), metav1.DeleteOptions{})).DeepCopyObject().(*corev1.Namespace)
	if left.Status.Phase != corev1.NamespaceTerminating {
		t.Errorf("phase %s", left.Status.Phase)
	}
	left.Spec.Finalizers = nil
	ok(i.Update(ctx, left, "finalize"))
	c.get(all + "/b").want(404)
}

func TestWhatEveryClusterHas(t *testing.T) {
	c := start(t)
	for _, path := range []string{
		"/api/v1/namespaces/default", "/api/v1/namespaces/kube-system", "/api/v1/namespaces/kube-public", "/api/v1/namespaces/kube-node-lease",
		"/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical", "/apis/scheduling.k8s.io/v1/priorityclasses/system-cluster-critical",
		"/apis/storage.k8s.io/v1/storageclasses/local", "/apis/storage.k8s.io/v1/storageclasses/shared",
	} {
		c.get(path).want(200)
	}
	c.call(c.http, "DELETE", "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical", "").want(403)
	service := "/api/v1/namespaces/default/services/kubernetes"
	old := c.get(service).want(200).wantField("spec.clusterIP", "10.96.0.1").field("metadata.uid")
	w := c.watch(t, "/api/v1/namespaces/default/services?watch=1&fieldSelector=metadata.name%3Dkubernetes")
	if e, ok := w.next(); !ok || e.Type != "ADDED" {
		t.Fatalf("watch gave %+v", e)
	}
	c.call(c.http, "DELETE", service, "").want(200)
	for _, want := range []string{"DELETED", "ADDED"} {
		if e, ok := w.next(); !ok || e.Type != want {
			t.Fatalf("watch gave %+v, want %s", e, want)
		}
	}
	if again := c.get(service).want(200).wantField("spec.clusterIP", "10.96.0.1").field("metadata.uid"); again == old {
		t.Error("the service is the old one")
	}
}

func TestDeleteCollection(t *testing.T) {
	c := start(t)
	for n := range 4 {
		c.post(configMaps, fmt.Sprintf(`{"metadata":{"name":"c%d","labels":{"odd":"%d"}}}`, n, n%2)).want(201)
	}
	c.call(c.http, "DELETE", configMaps+"?labelSelector=odd%3D1", "").want(200)
	c.get(configMaps + "/c0").want(200)
	c.get(configMaps + "/c1").want(404)
	c.get(configMaps + "/c3").want(404)
}

// TestRestart finds everything again after the server has gone.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	c := startOn(t, store.Config{Dir: dir})
	c.post("/api/v1/namespaces/default/services", `{"metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}`).want(201)
	made := c.get("/api/v1/namespaces/default/services/s")
	c.stop()
	if err := c.cfg.Store.Close(); err != nil {
		t.Fatal(err)
	}
	c = startOn(t, store.Config{Dir: dir})
	after := c.get("/api/v1/namespaces/default/services/s").want(200)
	if string(after.body) != string(made.body) {
		t.Errorf("before:\n%s\nafter:\n%s", made.body, after.body)
	}
	// Its address is still taken.
	ip := made.field("spec.clusterIP")
	c.post("/api/v1/namespaces/default/services", fmt.Sprintf(`{"metadata":{"name":"t"},"spec":{"clusterIP":%q,"ports":[{"port":80}]}}`, ip)).
		want(422).wantBody("already allocated")
}
