package face

import (
	"net/http"
	"strings"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// routeKey names one operation on resources. The request info, which every request has parsed
// already, says all of it, so that a request costs one map look-up: go-restful would match the
// path against each of a group's routes in turn.
type routeKey struct {
	group, version        string
	resource, subresource string
	method                string
	namespaced, item      bool
}

// routes dispatches: operations on resources by key, all else (discovery, the deprecated watch
// paths, unknown resources and methods, which must be answered as upstream does) to go-restful.
type routes struct {
	table     map[routeKey]restful.RouteFunction
	container *restful.Container
}

func newRoutes(container *restful.Container) *routes {
	r := &routes{table: map[routeKey]restful.RouteFunction{}, container: container}
	for _, ws := range container.RegisteredWebServices() {
		for _, route := range ws.Routes() {
			if key, ok := keyOfRoute(&route); ok {
				r.table[key] = route.Function
			}
		}
	}
	return r
}

// keyOfRoute reads a path such as /apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale.
func keyOfRoute(route *restful.Route) (routeKey, bool) {
	parts := strings.Split(strings.Trim(route.Path, "/"), "/")
	key := routeKey{method: route.Method}
	switch {
	case len(parts) > 2 && parts[0] == "api":
		key.version, parts = parts[1], parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		key.group, key.version, parts = parts[1], parts[2], parts[3:]
	default:
		return key, false
	}
	if parts[0] == "watch" {
		return key, false
	}
	if len(parts) > 2 && parts[0] == "namespaces" && parts[1] == "{namespace}" {
		key.namespaced, parts = true, parts[2:]
	}
	key.resource = parts[0]
	switch {
	case len(parts) == 1:
	case parts[1] != "{name}" || len(parts) > 3:
		return key, false
	case len(parts) == 3:
		key.subresource = parts[2]
		fallthrough
	default:
		key.item = true
	}
	return key, true
}

// ServeHTTP implements http.Handler.
func (r *routes) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if info, ok := request.RequestInfoFrom(req.Context()); ok && info.IsResourceRequest {
		if f := r.find(info, req); f != nil {
			f(restful.NewRequest(req), restful.NewResponse(w))
			return
		}
	}
	r.container.Dispatch(w, req)
}

func (r *routes) find(info *request.RequestInfo, req *http.Request) restful.RouteFunction {
	parts := len(info.Parts)
	if parts == 0 || parts > 3 || strings.HasSuffix(req.URL.Path, "/") {
		return nil
	}
	if info.Verb == "watch" && isWatchPath(req.URL.Path) {
		return nil
	}
	if req.Method == http.MethodPatch && !isPatchType(req.Header.Get("Content-Type")) {
		return nil // go-restful answers 415
	}
	return r.table[routeKey{
		group: info.APIGroup, version: info.APIVersion,
		resource: info.Resource, subresource: info.Subresource,
		method:     req.Method,
		namespaced: info.Namespace != "" && info.Resource != "namespaces",
		item:       parts > 1,
	}]
}

// isWatchPath recognises /api/v1/watch/... and /apis/GROUP/VERSION/watch/...
func isWatchPath(path string) bool {
	parts := strings.SplitN(path, "/", 6)
	return len(parts) > 3 && parts[1] == "api" && parts[3] == "watch" ||
		len(parts) > 4 && parts[1] == "apis" && parts[4] == "watch"
}

func isPatchType(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	switch types.PatchType(strings.TrimSpace(kind)) {
	case types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType:
		return true
	}
	return false
}
