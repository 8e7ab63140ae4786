package face

import (
	"net/http"
	"slices"
	"strings"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apiserver/pkg/endpoints/request"

	"coracle/internal/apiserver/registry"
)

// listShared marks the plain lists of all kinds, under the version that is stored.
func (r *routes) listShared(kinds *registry.Set) {
	for res := range kinds.All {
		key := routeKey{group: res.Group, version: res.Version, resource: res.Plural, method: http.MethodGet}
		for _, key.namespaced = range []bool{false, true} {
			r.replace(key, markPlain)
		}
	}
}

// markPlain marks the lists among the requests of a route.
func markPlain(next restful.RouteFunction) restful.RouteFunction {
	return func(req *restful.Request, resp *restful.Response) {
		ctx := req.Request.Context()
		if info, ok := request.RequestInfoFrom(ctx); ok && info.Verb == "list" && asStored(req.Request.Header["Accept"]) {
			req = restful.NewRequest(req.Request.WithContext(registry.PlainList(ctx)))
		}
		next(req, resp)
	}
}

// asStored says whether a header Accept asks for no transformation, which the parameter "as" does. No media type that
// is served has these letters.
func asStored(accept []string) bool {
	return !slices.ContainsFunc(accept, func(a string) bool { return strings.Contains(a, "as") })
}
