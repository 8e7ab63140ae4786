package local

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"coracle/internal/apiserver/registry"
	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/resource"
	"coracle/internal/scheme"
)

// CreateSub implements client.Interface.
func (l Client) CreateSub(ctx context.Context, ref object.Ref, subresource string, obj any) (any, error) {
	body, ok := obj.(runtime.Object)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%T is not an API object", obj))
	}
	o, err := l.registry(ref.Resource)
	if err != nil {
		return nil, err
	}
	creater, ok := o.Subresources[subresource].(rest.NamedCreater)
	if !ok {
		return nil, apierrors.NewNotFound(ref.Resource.GroupResource(), ref.Name+"/"+subresource)
	}
	ctx = registry.Inside(ctx, ref.Namespace)
	options := &metav1.CreateOptions{}
	body = body.DeepCopyObject()
	if m, ok := body.(metav1.Object); ok && m.GetNamespace() == "" {
		m.SetNamespace(ref.Namespace)
	}
	a := admission.NewAttributesRecord(body, nil, ref.Resource.GVK(), ref.Namespace, ref.Name, ref.Resource.GVR(), subresource,
		admission.Create, options, false, registry.Self)
	if err := l.chain.Admit(ctx, a, nil); err != nil {
		return nil, err
	}
	return creater.Create(ctx, ref.Name, body, rest.AdmissionToValidateObjectFunc(l.chain, a, nil), options)
}

// Patch implements client.Interface. It runs the HTTP handler on a request made here: patches
// have four forms, and in process they are rare.
func (l Client) Patch(ctx context.Context, ref object.Ref, kind types.PatchType, body []byte, subresource string) (client.Object, error) {
	if _, err := l.registry(ref.Resource); err != nil {
		return nil, err
	}
	query := url.Values{"fieldManager": {client.ManagerFrom(ctx, defaultManager)}}
	if kind == types.ApplyPatchType || kind == types.ApplyYAMLPatchType {
		query.Set("force", "true")
	}
	path := pathOf(ref, subresource)
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, (&url.URL{Path: path, RawQuery: query.Encode()}).String(), bytes.NewReader(body))
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	req.Header.Set("Content-Type", string(kind))
	req.Header.Set("Accept", runtime.ContentTypeProtobuf)
	info := &request.RequestInfo{
		IsResourceRequest: true, Path: path, Verb: "patch", APIPrefix: "apis",
		APIGroup: ref.Resource.Group, APIVersion: ref.Resource.Version,
		Namespace: ref.Namespace, Resource: ref.Resource.Plural, Subresource: subresource, Name: ref.Name,
		Parts: []string{ref.Resource.Plural, ref.Name},
	}
	if subresource != "" {
		info.Parts = append(info.Parts, subresource)
	}
	if ref.Resource == resource.Namespaces {
		info.Namespace = ref.Name
	}
	ctx = request.WithRequestInfo(registry.Inside(ctx, info.Namespace), info)
	w := &recorder{header: http.Header{}, code: http.StatusOK}
	l.patches.ServeHTTP(w, req.WithContext(ctx))
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(w.body.Bytes(), nil, nil)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("patch answered %d: %w", w.code, err))
	}
	if status, ok := obj.(*metav1.Status); ok {
		return nil, apierrors.FromObject(status)
	}
	return asObject(obj)
}

// pathOf returns the URL path of an object or of one of its subresources.
func pathOf(ref object.Ref, subresource string) string {
	path := "/apis/" + ref.Resource.Group + "/" + ref.Resource.Version
	if ref.Resource.Group == "" {
		path = "/api/" + ref.Resource.Version
	}
	if ref.Resource.Namespaced {
		path += "/namespaces/" + ref.Namespace
	}
	path += "/" + ref.Resource.Plural + "/" + ref.Name
	if subresource != "" {
		path += "/" + subresource
	}
	return path
}

// recorder is an http.ResponseWriter into memory.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(code int)        { r.code = code }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
