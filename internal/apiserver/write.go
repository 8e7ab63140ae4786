package apiserver

import (
	"net/http"
	"strings"
	"unicode"

	"github.com/emicklei/go-restful/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/apiserver/managed"
	"coracle/internal/client"
	"coracle/internal/resource"
)

// writer is a short way for the plain POST or PUT of an object: no dry run, nothing wrong with it,
// the answer in the form it was sent. It differs from upstream's handler, which keeps everything
// else, in taking managed fields from package managed and in making no goroutine. Whatever is
// out of the ordinary is handed to upstream's handler before anything has been done, so that
// refusals and warnings are its own.
type writer struct {
	s           *Server
	object      *registry
	subresource string
	target      rest.Updater
	fields      *managed.Tracker
	upstream    restful.RouteFunction
}

// shorten puts writers in the place of upstream's handlers for plain writes.
func (s *Server) shorten(r *routes) {
	for res, o := range s.objects {
		if res == resource.Namespaces || res == resource.ResourceQuotas {
			continue // a namespace's request is in itself; quotas are written in turn
		}
		key := routeKey{group: res.Group, version: res.Version, resource: res.Plural, namespaced: res.Namespaced}
		whole := writer{s: s, object: o, target: o, fields: o.fields}
		key.method = http.MethodPost
		r.replace(key, func(f restful.RouteFunction) restful.RouteFunction { return whole.with(f).create })
		key.method, key.item = http.MethodPut, true
		r.replace(key, func(f restful.RouteFunction) restful.RouteFunction { return whole.with(f).update })
		if p, ok := o.parts["status"]; ok {
			status := writer{s: s, object: o, subresource: "status", target: p, fields: p.fields}
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
	accepted, err := negotiation.NegotiateInputSerializer(req, false, h.s.codecs)
	if err != nil {
		return w, false
	}
	body, ok := req.Body.(*read)
	if !ok {
		return w, false
	}
	gvk := h.object.kind.GVK()
	hub := schema.GroupVersion{Group: gvk.Group, Version: runtime.APIVersionInternal}
	defaults := gvk
	// Strictly: what is unknown is for upstream's handler to warn about or to refuse.
	obj, got, err := h.s.codecs.DecoderToVersion(accepted.StrictSerializer, hub).Decode(body.raw, &defaults, h.object.kind.New())
	if err != nil || *got != gvk {
		return w, false
	}
	if w.obj, ok = obj.(client.Object); !ok || len(w.obj.GetOwnerReferences()) > 1 {
		return w, false // several owners are checked for being one
	}
	namespace := rest.ExpectedNamespaceForResource(w.info.Namespace, h.object.kind.GVR())
	return w, rest.EnsureObjectNamespaceMatchesRequestNamespace(namespace, w.obj) == nil
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

func (h *writer) attributes(w *plainWrite, obj, old runtime.Object, name string, op admission.Operation, options runtime.Object) admission.Attributes {
	k := &h.object.kind
	return admission.NewAttributesRecord(obj, old, k.GVK(), w.info.Namespace, name, k.GVR(), h.subresource, op, options, false, w.user)
}

// create serves POST.
func (h *writer) create(req *restful.Request, resp *restful.Response) {
	w, ok := h.read(req.Request)
	if !ok {
		h.upstream(req, resp)
		return
	}
	rest.WipeObjectMetaSystemFields(w.obj)
	options := &metav1.CreateOptions{FieldManager: w.manager}
	err := h.fields.Create(w.obj, w.manager)
	if err != nil {
		h.fail(req, resp, apierrors.NewInternalError(err))
		return
	}
	ctx := request.WithNamespace(req.Request.Context(), w.info.Namespace)
	a := h.attributes(&w, w.obj, nil, w.obj.GetName(), admission.Create, options)
	if err := h.s.admit.Admit(ctx, a, nil); err != nil {
		h.fail(req, resp, err)
		return
	}
	out, err := h.object.Create(ctx, w.obj, rest.AdmissionToValidateObjectFunc(h.s.admit, a, nil), options)
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
		_, ok = h.s.peek(h.object.kind.Resource, w.info.Namespace, w.info.Name)
	}
	if !ok || w.obj.GetName() != w.info.Name {
		h.upstream(req, resp)
		return
	}
	options := &metav1.UpdateOptions{FieldManager: w.manager}
	u := &replacement{
		chain: h.s.admit, object: h.object, obj: w.obj, fields: h.fields, manager: w.manager,
		attributes: func(next, live runtime.Object) admission.Attributes {
			return h.attributes(&w, next, live, w.info.Name, admission.Update, options)
		},
	}
	validate := rest.AdmissionToValidateObjectUpdateFunc(h.s.admit, u.attributes(nil, nil), nil)
	ctx := request.WithNamespace(req.Request.Context(), w.info.Namespace)
	out, _, err := h.target.Update(ctx, w.info.Name, u, nil, validate, false, options)
	if err != nil {
		h.fail(req, resp, err)
		return
	}
	h.answer(req, resp, http.StatusOK, out)
}

func (h *writer) answer(req *restful.Request, resp *restful.Response, code int, obj runtime.Object) {
	responsewriters.WriteObjectNegotiated(h.s.codecs, negotiation.DefaultEndpointRestrictions, h.object.kind.GVK().GroupVersion(),
		resp.ResponseWriter, req.Request, code, obj, false)
}

func (h *writer) fail(req *restful.Request, resp *restful.Response, err error) {
	responsewriters.ErrorNegotiated(err, h.s.codecs, h.object.kind.GVK().GroupVersion(), resp.ResponseWriter, req.Request)
}
