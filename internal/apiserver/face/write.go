package face

import (
	"net/http"
	"strings"
	"unicode"

	"github.com/emicklei/go-restful/v3"
	metainternalscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	kjson "sigs.k8s.io/json"

	"coracle/internal/apiserver/body"
	"coracle/internal/apiserver/codec"
	"coracle/internal/apiserver/registry"
	"coracle/internal/client"
	"coracle/internal/resource"
	"coracle/internal/scheme"
)

// writer is a short way for the plain POST or PUT of an object: no dry run, nothing wrong with it,
// the answer in the form it was sent. It differs from upstream's handler, which keeps everything
// else, in taking managed fields from package managed and in making no goroutine. Whatever is
// out of the ordinary is handed to upstream's handler before anything has been done, so that
// refusals and warnings are its own.
type writer struct {
	codecs      codec.Codecs
	object      *registry.Registry
	subresource string
	upstream    restful.RouteFunction
}

// shorten puts writers in the place of upstream's handlers for plain writes.
func (r *routes) shorten(c codec.Codecs, kinds *registry.Set) {
	for res, o := range kinds.All {
		if res == resource.Namespaces || res == resource.ResourceQuotas {
			continue // a namespace's request is in itself; quotas are written in turn
		}
		key := routeKey{group: res.Group, version: res.Version, resource: res.Plural, namespaced: res.Namespaced}
		whole := writer{codecs: c, object: o}
		key.method = http.MethodPost
		r.replace(key, func(f restful.RouteFunction) restful.RouteFunction { return whole.with(f).create })
		key.method, key.item = http.MethodPut, true
		r.replace(key, func(f restful.RouteFunction) restful.RouteFunction { return whole.with(f).update })
		if _, ok := o.Parts["status"]; ok {
			status := writer{codecs: c, object: o, subresource: "status"}
			key.subresource = "status"
			r.replace(key, func(f restful.RouteFunction) restful.RouteFunction { return status.with(f).update })
		}
	}
}

func (h writer) with(upstream restful.RouteFunction) *writer {
	h.upstream = upstream
	return &h
}

// replace wraps the handler of an operation, if there is one.
func (r *routes) replace(key routeKey, wrap func(restful.RouteFunction) restful.RouteFunction) {
	if f, ok := r.table[key]; ok {
		r.table[key] = wrap(f)
	}
}

// plainWrite is a write that needs nothing special.
type plainWrite struct {
	obj     client.Object
	info    *request.RequestInfo
	user    user.Info
	manager string
}

// read returns the write that a request is, or false when upstream's handler must look at it; the
// request can then be read again.
func (h *writer) read(req *http.Request) (w plainWrite, ok bool) {
	ctx := req.Context()
	w.info, ok = request.RequestInfoFrom(ctx)
	if !ok || strings.Contains(req.Header.Get("Accept"), "as=") {
		return w, false
	}
	if w.user, ok = request.UserFrom(ctx); !ok {
		return w, false
	}
	if w.manager, ok = managerOf(req); !ok {
		return w, false
	}
	accepted, err := negotiation.NegotiateInputSerializer(req, false, h.codecs)
	if err != nil {
		return w, false
	}
	body, ok := req.Body.(*body.Body)
	if !ok {
		return w, false
	}
	obj, ok := h.decode(accepted, body.Raw)
	if !ok {
		return w, false
	}
	if w.obj, ok = obj.(client.Object); !ok || len(w.obj.GetOwnerReferences()) > 1 {
		return w, false // several owners are checked for being one
	}
	namespace := rest.ExpectedNamespaceForResource(w.info.Namespace, h.object.Kind.GVR())
	return w, rest.EnsureObjectNamespaceMatchesRequestNamespace(namespace, w.obj) == nil
}

// decode decodes a body that is of our kind, or does not say. Strictly: what is unknown is for upstream's handler to
// warn about or to refuse.
func (h *writer) decode(accepted runtime.SerializerInfo, raw []byte) (runtime.Object, bool) {
	if accepted.MediaType == runtime.ContentTypeJSON {
		if obj, ok := h.decodeJSON(raw); ok {
			return obj, true
		}
	}
	gvk := h.object.Kind.GVK()
	hub := schema.GroupVersion{Group: gvk.Group, Version: runtime.APIVersionInternal}
	defaults := gvk
	obj, got, err := h.codecs.DecoderToVersion(accepted.StrictSerializer, hub).Decode(raw, &defaults, h.object.Kind.New())
	return obj, err == nil && *got == gvk
}

// decodeJSON reads a body once, straight into our kind's type, and looks afterwards whether it says that it is of
// another kind. Upstream's serializer reads it twice, because it must find out the kind first.
func (h *writer) decodeJSON(raw []byte) (runtime.Object, bool) {
	obj := h.object.Kind.New()
	if wrong, err := kjson.UnmarshalStrict(raw, obj); err != nil || len(wrong) > 0 {
		return nil, false
	}
	said, ok := obj.GetObjectKind().(*metav1.TypeMeta)
	if !ok {
		return nil, false
	}
	apiVersion, kind := h.object.Kind.GVK().ToAPIVersionAndKind()
	if *said != (metav1.TypeMeta{}) && *said != (metav1.TypeMeta{Kind: kind, APIVersion: apiVersion}) {
		return nil, false
	}
	*said = metav1.TypeMeta{}
	scheme.Scheme.Default(obj)
	return obj, true
}

// managerOf returns the field manager of a write with no other options.
func managerOf(req *http.Request) (string, bool) {
	options := &metav1.UpdateOptions{}
	if req.URL.RawQuery != "" {
		values := req.URL.Query()
		if values.Has("dryRun") {
			return "", false
		}
		if err := metainternalscheme.ParameterCodec.DecodeParameters(values, metav1.SchemeGroupVersion, options); err != nil {
			return "", false
		}
		if len(metav1validation.ValidateUpdateOptions(options)) > 0 {
			return "", false
		}
	}
	if options.FieldManager != "" {
		return options.FieldManager, true
	}
	// Else it is the beginning of the user agent.
	name, _, _ := strings.Cut(req.UserAgent(), "/")
	strange := len(name) > metav1validation.FieldManagerMaxLength || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
	return name, !strange
}

func (h *writer) write(w *plainWrite, name string) *registry.Write {
	return &registry.Write{
		Registry: h.object, Subresource: h.subresource, Namespace: w.info.Namespace, Name: name, User: w.user, Manager: w.manager,
	}
}

// create serves POST.
func (h *writer) create(req *restful.Request, resp *restful.Response) {
	w, ok := h.read(req.Request)
	if !ok {
		h.upstream(req, resp)
		return
	}
	out, err := h.write(&w, w.obj.GetName()).Create(req.Request.Context(), w.obj)
	if err != nil {
		h.fail(req, resp, err)
		return
	}
	h.answer(req, resp, http.StatusCreated, out)
}

// update serves PUT of an object that is there, or of its status. What is not there may have to be
// made, with other rights: that is upstream's handler's.
func (h *writer) update(req *restful.Request, resp *restful.Response) {
	w, ok := h.read(req.Request)
	if ok {
		_, err := h.object.Object(w.info.Namespace, w.info.Name)
		ok = err == nil
	}
	if !ok || w.obj.GetName() != w.info.Name {
		h.upstream(req, resp)
		return
	}
	out, err := h.write(&w, w.info.Name).Update(req.Request.Context(), w.obj)
	if err != nil {
		h.fail(req, resp, err)
		return
	}
	h.answer(req, resp, http.StatusOK, out)
}

func (h *writer) answer(req *restful.Request, resp *restful.Response, code int, obj runtime.Object) {
	responsewriters.WriteObjectNegotiated(h.codecs, negotiation.DefaultEndpointRestrictions, h.object.Kind.GVK().GroupVersion(),
		resp.ResponseWriter, req.Request, code, obj, false)
}

func (h *writer) fail(req *restful.Request, resp *restful.Response, err error) {
	responsewriters.ErrorNegotiated(err, h.codecs, h.object.Kind.GVK().GroupVersion(), resp.ResponseWriter, req.Request)
}
