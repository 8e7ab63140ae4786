package face

import (
	"net/http"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"

	"coracle/internal/apiserver/body"
	"coracle/internal/apiserver/codec"
	"coracle/internal/apiserver/registry"
)

// bounded lets through what package bounds lets a request hold: it reads the body once, and leaves it to be read
// again from memory.
type bounded struct {
	codecs codec.Codecs
	kinds  *registry.Set
	next   http.Handler
}

// ServeHTTP implements http.Handler.
func (b bounded) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	info, ok := request.RequestInfoFrom(req.Context())
	if !ok || isLongRunning(info) || info.Verb == "get" { // one object, from memory
		b.next.ServeHTTP(w, req)
		return
	}
	ctx := req.Context()
	switch req.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		read, err := body.Read(req, func() schema.GroupVersionKind { return b.kinds.KindOf(info) })
		if err != nil {
			gv := schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}
			responsewriters.ErrorNegotiated(err, b.codecs, gv, w, req)
			return
		}
		ctx = body.With(ctx, read)
	}
	b.next.ServeHTTP(w, req.WithContext(ctx))
}
