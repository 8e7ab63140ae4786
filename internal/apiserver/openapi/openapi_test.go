package openapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/emicklei/go-restful/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/scheme"
)

func documents() *Documents {
	ws := new(restful.WebService)
	ws.Path("/api/v1").Consumes("*/*").Produces("application/json")
	ws.Route(ws.GET("/namespaces/{namespace}/pods/{name}").To(func(*restful.Request, *restful.Response) {}).
		Operation("readNamespacedPod").
		Param(ws.PathParameter("namespace", "").DataType("string")).Param(ws.PathParameter("name", "").DataType("string")).
		Returns(http.StatusOK, "OK", corev1.Pod{}).Writes(corev1.Pod{}))
	return NewDocuments(scheme.Scheme, []*restful.WebService{ws}, "Kubernetes", "v1")
}

func get(d *Documents, path string, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest("GET", path, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, req)
	return w
}

// shape is as much of a schema as the tests look at.
type shape struct {
	Properties map[string]shape
	Ref        string           `json:"$ref"`
	AllOf      []shape          `json:"allOf"`
	Items      *shape           `json:"items"`
	OneOf      []map[string]any `json:"oneOf"`
	Type       string
	ListType   string              `json:"x-kubernetes-list-type"`
	MapKeys    []string            `json:"x-kubernetes-list-map-keys"`
	Merge      string              `json:"x-kubernetes-patch-merge-key"`
	GVK        []map[string]string `json:"x-kubernetes-group-version-kind"`
}

func TestV3(t *testing.T) {
	d := documents()
	w := get(d, "/openapi/v3/api/v1")
	if w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	var doc struct {
		Components struct{ Schemas map[string]shape }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	schemas := doc.Components.Schemas
	pod := schemas["io.k8s.api.core.v1.Pod"]
	if len(pod.GVK) != 1 || pod.GVK[0]["kind"] != "Pod" || pod.GVK[0]["version"] != "v1" {
		t.Errorf("Pod is %v", pod.GVK)
	}
	ports := schemas["io.k8s.api.core.v1.Container"].Properties["ports"]
	if ports.ListType != "map" || len(ports.MapKeys) != 2 || ports.Merge != "containerPort" {
		t.Errorf("ports: %+v", ports)
	}
	if n := len(schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"].OneOf); n != 2 {
		t.Errorf("IntOrString is one of %d", n)
	}
	if _, ok := schemas["io.k8s.api.apps.v1.Deployment"]; ok {
		t.Error("a document holds models that its routes do not reach")
	}
}

func TestV2(t *testing.T) {
	d := documents()
	w := get(d, "/openapi/v2")
	var doc struct {
		Definitions map[string]shape
		Paths       map[string]any
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if s := doc.Definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]; s.Type != "string" || len(s.OneOf) != 0 {
		t.Errorf("IntOrString: %+v", s)
	}
	if len(doc.Paths) != 1 {
		t.Errorf("%d paths", len(doc.Paths))
	}
	for _, accept := range []string{v2Proto, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"} {
		w := get(d, "/openapi/v2", "Accept", accept)
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") != v2Proto || w.Body.Len() == 0 {
			t.Errorf("%s: %d %s", accept, w.Code, w.Header())
		}
	}
	if w := get(d, "/openapi/v2", "Accept", "image/png"); w.Code != http.StatusNotAcceptable {
		t.Errorf("a picture of the API: %d", w.Code)
	}
}

func TestIndexNamesCurrentDocuments(t *testing.T) {
	d := documents()
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal(get(d, "/openapi/v3").Body.Bytes(), &index); err != nil {
		t.Fatal(err)
	}
	where := index.Paths["api/v1"].ServerRelativeURL
	if !strings.HasPrefix(where, "/openapi/v3/api/v1?hash=") {
		t.Fatalf("index %+v", index)
	}
	w := get(d, where)
	if w.Code != http.StatusOK || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if again := get(d, where, "If-None-Match", w.Header().Get("Etag")); again.Code != http.StatusNotModified {
		t.Errorf("with its ETag: %d", again.Code)
	}
	if old := get(d, "/openapi/v3/api/v1?hash=old"); old.Code != http.StatusMovedPermanently || old.Header().Get("Location") != where {
		t.Errorf("an old hash: %d to %s", old.Code, old.Header().Get("Location"))
	}
	if zipped := get(d, where, "Accept-Encoding", "gzip"); zipped.Header().Get("Content-Encoding") != "gzip" || zipped.Body.Len() > w.Body.Len()/3 {
		t.Errorf("gzip: %v, %d bytes", zipped.Header(), zipped.Body.Len())
	}
	if none := get(d, "/openapi/v3/apis/none/v1"); none.Code != http.StatusNotFound {
		t.Errorf("a group that is not: %d", none.Code)
	}
}

// TestEveryServedTypeHasAModel fails when a group is served that gen does not describe.
func TestEveryServedTypeHasAModel(t *testing.T) {
	models, err := load()
	if err != nil {
		t.Fatal(err)
	}
	for gvk := range scheme.Scheme.AllKnownTypes() {
		if gvk.Version == "__internal" {
			continue
		}
		name, err := scheme.Scheme.ToOpenAPIDefinitionName(gvk)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := models[name]; !ok {
			t.Errorf("%s (%s): no model; add its package to gen and run go generate", gvk, name)
		}
	}
}

func TestTypesKnowListKeys(t *testing.T) {
	types := NewTypes(scheme.Scheme)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	v, err := types.ObjectToTyped(pod)
	if err != nil {
		t.Fatal(err)
	}
	set, err := v.ToFieldSet()
	if err != nil {
		t.Fatal(err)
	}
	if text := set.String(); !strings.Contains(text, `.spec.containers[name="c"].name`) {
		t.Errorf("fields: %s", text)
	}
}

// BenchmarkModels is what server-side apply costs before its first use.
func BenchmarkModels(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := NewTypes(scheme.Scheme).Schema(corev1.SchemeGroupVersion.WithKind("Pod")); err != nil {
			b.Fatal(err)
		}
	}
}
