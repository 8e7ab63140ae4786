package face

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/emicklei/go-restful/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"

	"coracle/internal/apiserver/openapi"
	"coracle/internal/scheme"
	"coracle/internal/version"
)

// root serves the paths that are not resources and hands the rest to the routes.
type root struct {
	routes *routes
	face   *Face
	// limited serves what the routes do, within bounds.
	limited http.Handler
}

// ServeHTTP implements http.Handler.
func (r *root) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path := req.URL.Path
	switch {
	case strings.HasPrefix(path, "/api/"), strings.HasPrefix(path, "/apis/"), path == "/api", path == "/apis":
		r.limited.ServeHTTP(w, req)
	case openapi.Match(path):
		r.face.docs.ServeHTTP(w, req)
	case path == "/version", path == "/version/":
		writeJSON(w, version.Info())
	case path == "/healthz", path == "/livez", path == "/readyz":
		r.face.serveHealth(w, req)
	case path == "/metrics":
		r.face.metrics.ServeHTTP(w, req)
	case path == "/":
		writeJSON(w, metav1.RootPaths{Paths: r.paths()})
	default:
		responsewriters.ErrorNegotiated(
			apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "404 page not found", 0, false),
			r.face.codecs, schema.GroupVersion{}, w, req)
	}
}

func (r *root) paths() []string {
	paths := []string{"/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"}
	for _, ws := range r.routes.container.RegisteredWebServices() {
		if p := ws.RootPath(); p != "/api" && p != "/apis" {
			paths = append(paths, p)
		}
	}
	return paths
}

// serveHealth answers 200 while the store takes writes. Serve is only called once the server can
// answer, so that ready and healthy are one.
func (f *Face) serveHealth(w http.ResponseWriter, req *http.Request) {
	check := strings.Trim(req.URL.Path, "/")
	if err := f.store.Ready(); err != nil {
		http.Error(w, "[-]store failed: "+err.Error()+"\n"+check+" check failed", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if req.URL.Query().Has("verbose") {
		fmt.Fprintf(w, "[+]store ok\n%s check passed\n", check)
		return
	}
	io.WriteString(w, "ok")
}

func writeJSON(w http.ResponseWriter, value any) {
	body, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(body)
}

// newDocuments describes the groups of a container; the roots themselves have no schema.
func newDocuments(container *restful.Container) *openapi.Documents {
	return openapi.NewDocuments(scheme.Scheme, container.RegisteredWebServices(), "Kubernetes", version.Version)
}
