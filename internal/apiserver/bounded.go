package apiserver

import (
	"net/http"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// bounded lets through what package bounds lets a request hold: it reads the body once, and leaves it to be read
// again from memory.
type bounded struct {
	codecs codecs
	kinds  *set
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
		body, err := readBody(req, func() schema.GroupVersionKind { return b.kinds.kindOf(info) })
		if err != nil {
			gv := schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}
			responsewriters.ErrorNegotiated(err, b.codecs, gv, w, req)
			return
		}
		ctx = withBody(ctx, body)
	}
	b.next.ServeHTTP(w, req.WithContext(ctx))
}
