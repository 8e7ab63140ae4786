package face

import (
	"cmp"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
	"k8s.io/component-base/metrics/legacyregistry"

	"coracle/internal/apiserver/measure"
	"coracle/internal/apiserver/registry"
)

// gauges are what /metrics tells beside the counts of requests: it is looked up when somebody asks.
type gauges struct{ *Face }

var (
	objectsDesc = prometheus.NewDesc("apiserver_resource_objects", "Objects stored, by resource.", []string{"group", "resource"}, nil)
	bytesDesc   = prometheus.NewDesc("coracle_store_object_bytes", "Bytes of the stored objects, about, by resource.", []string{"group", "resource"}, nil)
	diskDesc    = prometheus.NewDesc("coracle_store_disk_bytes", "Bytes of the store on disk: compacted, and written since.", []string{"part"}, nil)
	revision    = prometheus.NewDesc("coracle_store_revision", "The newest durable revision.", nil, nil)
	writable    = prometheus.NewDesc("coracle_store_writable", "1 while the store takes writes, else 0.", nil, nil)
	seats       = prometheus.NewDesc("apiserver_current_inflight_seats", "Seats that requests have (priority and fairness).", nil, nil)
	queued      = prometheus.NewDesc("apiserver_current_inqueue_requests", "Requests that wait for a seat.", nil, nil)
)

// Describe implements prometheus.Collector.
func (g gauges) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{objectsDesc, bytesDesc, diskDesc, revision, writable, seats, queued} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (g gauges) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for res, o := range g.kinds.All {
		objects, bytes := o.Stored.Weight(registry.KeyRoot(res), 0)
		gauge(objectsDesc, float64(objects), res.Group, res.Plural)
		gauge(bytesDesc, float64(bytes), res.Group, res.Plural)
	}
	compacted, since := g.store.Size()
	gauge(diskDesc, float64(compacted), "compacted")
	gauge(diskDesc, float64(since), "since")
	gauge(revision, float64(g.store.Revision()))
	takes := 1.0
	if g.store.Ready() != nil {
		takes = 0
	}
	gauge(writable, takes)
	taken, waiting := g.gate.Load()
	gauge(seats, float64(taken))
	gauge(queued, float64(waiting))
}

// newMetrics serves what is counted of this server, and what the runtime and the libraries count of the process.
func newMetrics(requests *measure.Requests, f *Face) http.Handler {
	own := prometheus.NewRegistry()
	own.MustRegister(requests, gauges{f})
	return promhttp.HandlerFor(prometheus.Gatherers{own, legacyregistry.DefaultGatherer}, promhttp.HandlerOpts{MaxRequestsInFlight: 2})
}

// operations are what is served, by what requests are counted.
type operations map[measure.Operation]struct{}

// newOperations notes which resources are served with which subresources.
func newOperations(r *routes) operations {
	known := operations{}
	for key := range r.table {
		known[measure.Operation{Group: key.group, Version: key.version, Resource: key.resource, Subresource: key.subresource}] = struct{}{}
	}
	return known
}

// verbs are the words of metrics for those of requests.
var verbs = map[string]string{
	"get": "GET", "list": "LIST", "watch": "WATCH", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE",
	"deletecollection": "DELETECOLLECTION", "head": "GET", "post": "POST", "put": "PUT",
}

// of returns by what a request is counted: all requests for what is not served are one, as are all for other paths.
func (k operations) of(info *request.RequestInfo, req *http.Request) measure.Operation {
	op := measure.Operation{}
	if info.IsResourceRequest {
		op = measure.Operation{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource, Subresource: info.Subresource}
		if _, ok := k[op]; !ok {
			op = measure.Operation{Resource: "unknown"}
		}
		switch {
		case info.Name != "" || info.Verb == "create" || info.Subresource != "":
			op.Scope = "resource"
		case info.Namespace != "":
			op.Scope = "namespace"
		default:
			op.Scope = "cluster"
		}
	}
	op.Verb = verbs[info.Verb]
	switch {
	case op.Verb == "":
		op.Verb = "other"
	case info.IsResourceRequest && isConnection(info.Subresource):
		op.Verb = "CONNECT"
	case op.Verb == "PATCH" && strings.HasPrefix(req.Header.Get("Content-Type"), "application/apply-patch"):
		op.Verb = "APPLY"
	}
	return op
}

func isConnection(subresource string) bool {
	switch subresource {
	case "attach", "exec", "proxy", "portforward":
		return true
	}
	return false
}

// counting remembers the status code of an answer.
type counting struct {
	http.ResponseWriter
	code int
}

// WriteHeader implements http.ResponseWriter.
func (c *counting) WriteHeader(code int) {
	if c.code == 0 && code >= 200 {
		c.code = code
	}
	c.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (c *counting) Write(b []byte) (int, error) {
	if c.code == 0 {
		c.code = http.StatusOK
	}
	return c.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (c *counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// count returns the writer for a request's answer, and what counts the request when it has ended.
func (c *chain) count(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, long bool) (http.ResponseWriter, func()) {
	op, answer, began := c.known.of(info, req), &counting{ResponseWriter: w}, time.Now()
	w = responsewriter.WrapForHTTP1Or2(answer)
	if long {
		c.counts.Begin(op)
		return w, func() { c.counts.End(op, cmp.Or(answer.code, unsaid(op))) }
	}
	return w, func() { c.counts.Short(op, cmp.Or(answer.code, unsaid(op)), time.Since(began)) }
}

// unsaid is the status code of an answer for which none was written: of a connection that was taken over, or empty.
func unsaid(op measure.Operation) int {
	if op.Verb == "CONNECT" {
		return http.StatusSwitchingProtocols
	}
	return http.StatusOK
}
