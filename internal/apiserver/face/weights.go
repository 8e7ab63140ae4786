package face

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apiserver/pkg/endpoints/request"

	"coracle/internal/apiserver/bounds"
	"coracle/internal/apiserver/fairness"
	"coracle/internal/apiserver/gate"
	"coracle/internal/apiserver/registry"
)

const (
	// headerTimeout bounds a handshake, and then the headers of a connection's first request.
	headerTimeout = 10 * time.Second
	// maxStreams bounds the requests of one HTTP/2 connection. A node watches each Secret and ConfigMap that its pods
	// use; clients open a second connection when one is full.
	maxStreams = 250
	// mostConnections and leastConnections bound how many connections there may be, whatever the process may open.
	mostConnections, leastConnections = 10_000, 256
)

// maxConnections leaves half of the descriptors to the store, the logs and the ways to the nodes.
func maxConnections() int {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return leastConnections
	}
	return int(min(max(files.Cur/2, leastConnections), mostConnections))
}

// newGate makes the gate of the HTTP face.
func newGate(kinds *registry.Set) (*gate.Gate, error) {
	policy, err := fairness.Defaults(gate.Seats())
	if err != nil {
		return nil, err
	}
	w := weights{}
	for res, o := range kinds.All {
		w[requestedKind{res.Group, res.Plural}] = o
		for _, alias := range o.Kind.Aliases {
			w[requestedKind{alias.Group, alias.Plural}] = o
		}
	}
	return gate.New(gate.Config{Policy: policy, MaxBody: bounds.Body, Weigh: w.of}), nil
}

// weights tells what requests cost, by the kinds that they name.
type weights map[requestedKind]*registry.Registry

type requestedKind struct{ group, plural string }

const (
	// openAPIWeight stands for the documents of the whole API, in bytes; they are megabytes, kept compressed.
	openAPIWeight = 1 << 20
	// objectWeight is what an object costs besides its bytes, counted in bytes.
	objectWeight = 500
)

// of tells about how many bytes a request will make the server encode, where they may be many.
func (w weights) of(req *http.Request, info *request.RequestInfo) int64 {
	if !info.IsResourceRequest {
		if strings.HasPrefix(info.Path, "/openapi/") {
			return openAPIWeight
		}
		return 0
	}
	var limit int64
	switch info.Verb {
	case "list":
		limit = limitOf(req)
	case "watch":
		if !wantsInitial(req) {
			return 0
		}
	case "deletecollection":
	default:
		return 0
	}
	o, ok := w[requestedKind{info.APIGroup, info.Resource}]
	if !ok || info.Name != "" {
		return 0
	}
	key := registry.KeyRoot(o.Kind.Resource)
	if info.Namespace != "" {
		key += "/" + info.Namespace
	}
	objects, bytes := o.Stored.Weight(key, limit)
	return objects*objectWeight + bytes
}

// limitOf returns how many objects a list asks for; 0 is all.
func limitOf(req *http.Request) int64 {
	if !strings.Contains(req.URL.RawQuery, "limit=") {
		return 0
	}
	n, err := strconv.ParseInt(req.URL.Query().Get("limit"), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// wantsInitial says whether a watch begins with what there is: it asks so, or names no revision to begin at.
func wantsInitial(req *http.Request) bool {
	query := req.URL.Query()
	if query.Has("sendInitialEvents") {
		return query.Get("sendInitialEvents") == "true"
	}
	revision := query.Get("resourceVersion")
	return revision == "" || revision == "0"
}
