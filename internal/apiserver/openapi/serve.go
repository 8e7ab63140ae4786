package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	"github.com/munnerz/goautoneg"
	"k8s.io/apimachinery/pkg/runtime"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	jsonType = "application/json"
	v2Proto  = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	v3Proto  = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

// Documents serves /openapi/v2 and /openapi/v3. A document is built when it is first asked for
// and kept as compressed bytes only; its ETag needs no document, so that the v3 index, which
// carries the ETags of all groups, builds none of them.
type Documents struct {
	v2 *document
	v3 map[string]*document
	// index is the body of /openapi/v3.
	index []byte
	tag   string
	since time.Time
}

// document is one lazily built document in its two encodings.
type document struct {
	tag         string
	since       time.Time
	json, proto func() ([]byte, error)
}

// newDocument makes a document of build, which returns JSON, and toProto, which converts it.
func newDocument(tag string, since time.Time, build func() ([]byte, error), toProto func([]byte) ([]byte, error)) *document {
	d := &document{tag: tag, since: since}
	d.json = sync.OnceValues(func() ([]byte, error) {
		body, err := build()
		if err != nil {
			return nil, err
		}
		return pack(body)
	})
	d.proto = sync.OnceValues(func() ([]byte, error) {
		body, err := d.json()
		if err != nil {
			return nil, err
		}
		if body, err = unpack(body); err != nil {
			return nil, err
		}
		if body, err = toProto(body); err != nil {
			return nil, err
		}
		return pack(body)
	})
	return d
}

// NewDocuments describes the web services of a container, whose types scheme knows. version names
// the API; title heads the documents.
func NewDocuments(scheme *runtime.Scheme, services []*restful.WebService, title, version string) *Documents {
	d := &Documents{v3: map[string]*document{}, since: time.Now()}
	info := spec.Info{InfoProps: spec.InfoProps{Title: title, Version: version}}
	base := fingerprint(version, packed)
	d.v2 = newDocument(tagOf(base, services), d.since, func() ([]byte, error) {
		return buildV2(scheme, services, info)
	}, handler.ToProtoBinary)

	type groupVersion struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	paths := map[string]groupVersion{}
	for _, ws := range services {
		name := strings.Trim(ws.RootPath(), "/")
		one := []*restful.WebService{ws}
		doc := newDocument(tagOf(base, one), d.since, func() ([]byte, error) {
			return buildV3(scheme, one, info)
		}, handler3.ToV3ProtoBinary)
		d.v3[name] = doc
		u := url.URL{Path: "/openapi/v3/" + name, RawQuery: url.Values{"hash": {doc.tag}}.Encode()}
		paths[name] = groupVersion{u.String()}
	}
	// A map of strings always encodes.
	d.index, _ = json.Marshal(map[string]any{"paths": paths})
	d.tag = fingerprint("", d.index)
	return d
}

func fingerprint(seed string, data []byte) string {
	h := sha256.New()
	io.WriteString(h, seed)
	h.Write(data)
	return strings.ToUpper(hex.EncodeToString(h.Sum(nil)))
}

// tagOf names what a document is made of: the models and version in base, and the routes.
func tagOf(base string, services []*restful.WebService) string {
	h := sha256.New()
	io.WriteString(h, base)
	for _, ws := range services {
		for _, r := range ws.Routes() {
			io.WriteString(h, r.Method+" "+r.Path+" "+r.Operation+"\n")
		}
	}
	return strings.ToUpper(hex.EncodeToString(h.Sum(nil)))
}

func buildV2(scheme *runtime.Scheme, services []*restful.WebService, info spec.Info) ([]byte, error) {
	models, err := load()
	if err != nil {
		return nil, err
	}
	doc, err := builder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(services), &common.Config{
		ProtocolList: []string{"https"},
		Info:         &info,
		GetDefinitions: func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
			return definitions(models, ref)
		},
		GetDefinitionName:     namer(scheme),
		DefaultResponse:       &spec.Response{ResponseProps: spec.ResponseProps{Description: "Default Response."}},
		GetOperationIDAndTags: openapinamer.GetOperationIDAndTags,
		SecurityDefinitions:   bearer(),
	})
	if err != nil {
		return nil, fmt.Errorf("openapi: build v2: %w", err)
	}
	doc.Definitions = handler.PruneDefaults(doc.Definitions)
	return doc.MarshalJSON()
}

func buildV3(scheme *runtime.Scheme, services []*restful.WebService, info spec.Info) ([]byte, error) {
	models, err := load()
	if err != nil {
		return nil, err
	}
	doc, err := builder3.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(services), &common.OpenAPIV3Config{
		Info: &info,
		GetDefinitions: func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
			return definitions(models, ref)
		},
		GetDefinitionName:     namer(scheme),
		GetOperationIDAndTags: openapinamer.GetOperationIDAndTags,
	})
	if err != nil {
		return nil, fmt.Errorf("openapi: build v3 of %s: %w", services[0].RootPath(), err)
	}
	return json.Marshal(doc)
}

// Match says whether a path is of OpenAPI.
func Match(path string) bool {
	return path == "/openapi/v2" || path == "/openapi/v3" || strings.HasPrefix(path, "/openapi/v3/")
}

// ServeHTTP implements http.Handler for the paths that Match accepts.
func (d *Documents) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch req.URL.Path {
	case "/openapi/v2":
		serve(w, req, d.v2, v2Proto, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
	case "/openapi/v3":
		w.Header().Set("Content-Type", jsonType)
		w.Header().Set("Etag", strconv.Quote(d.tag))
		http.ServeContent(w, req, "", d.since, bytes.NewReader(d.index))
	default:
		name := strings.TrimPrefix(req.URL.Path, "/openapi/v3/")
		doc, ok := d.v3[name]
		if !ok {
			http.NotFound(w, req)
			return
		}
		if hash := req.URL.Query().Get("hash"); hash != "" {
			if hash != doc.tag {
				u := url.URL{Path: req.URL.Path, RawQuery: url.Values{"hash": {doc.tag}}.Encode()}
				http.Redirect(w, req, u.String(), http.StatusMovedPermanently)
				return
			}
			w.Header().Set("Cache-Control", "public, immutable")
			w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
		}
		serve(w, req, doc, v3Proto, "application/com.github.proto-openapi.spec.v3@v1.0+protobuf")
	}
}

// serve answers in the encoding asked for. The protobuf media types come in two spellings, of
// which the one with @ is deprecated and still what older kubectl sends.
func serve(w http.ResponseWriter, req *http.Request, doc *document, proto, deprecated string) {
	w.Header().Add("Vary", "Accept")
	w.Header().Add("Vary", "Accept-Encoding")
	accept := req.Header.Get("Accept")
	if accept == "" {
		accept = "*/*"
	}
	for _, clause := range goautoneg.ParseAccept(accept) {
		build, contentType := doc.json, jsonType
		switch got := clause.Type + "/" + clause.SubType; got {
		case jsonType, "application/*", "*/*":
		case proto, deprecated:
			build, contentType = doc.proto, proto
		default:
			continue
		}
		body, err := build()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Etag", strconv.Quote(doc.tag))
		if acceptsGzip(req) {
			w.Header().Set("Content-Encoding", "gzip")
		} else if body, err = unpack(body); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		http.ServeContent(w, req, "", doc.since, bytes.NewReader(body))
		return
	}
	w.WriteHeader(http.StatusNotAcceptable)
}

func acceptsGzip(req *http.Request) bool {
	for _, part := range strings.Split(req.Header.Get("Accept-Encoding"), ",") {
		if name, _, _ := strings.Cut(strings.TrimSpace(part), ";"); name == "gzip" {
			return true
		}
	}
	return false
}

func pack(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return bytes.Clone(out.Bytes()), nil
}

func unpack(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func bearer() *spec.SecurityDefinitions {
	return &spec.SecurityDefinitions{"BearerToken": {SecuritySchemeProps: spec.SecuritySchemeProps{
		Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication",
	}}}
}
