// Package measure counts what requests come to, for /metrics.
//
// It owns the counts, under the names and labels of the Kubernetes API server
// (https://kubernetes.io/docs/reference/instrumentation/metrics/), and their bound: one series for each operation that is
// served, whatever clients ask for. It refuses to look at requests and to serve anything.
package measure

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Operation is what requests are counted by. Its values come from what is served, never from a request alone.
type Operation struct {
	Verb, Group, Version, Resource, Subresource, Scope string
}

// buckets are the upper bounds of the histogram of durations, in seconds: upstream's.
var buckets = [...]float64{
	0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60,
}

// series is what is known of one operation.
type series struct {
	mu      sync.Mutex
	codes   map[int]uint64
	within  [len(buckets)]uint64 // each counted once, in its first bucket
	timed   uint64
	seconds float64
	long    int64 // long requests under way
}

// Requests counts the requests of one server. The zero value is ready.
type Requests struct {
	mu  sync.RWMutex
	ops map[Operation]*series
}

func (r *Requests) of(op Operation) *series {
	r.mu.RLock()
	s := r.ops[op]
	r.mu.RUnlock()
	if s != nil {
		return s
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ops == nil {
		r.ops = map[Operation]*series{}
	}
	if s = r.ops[op]; s == nil {
		s = &series{codes: map[int]uint64{}}
		r.ops[op] = s
	}
	return s
}

// Short counts a request that was answered with a status code after a time.
func (r *Requests) Short(op Operation, code int, took time.Duration) {
	s, seconds := r.of(op), took.Seconds()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[code]++
	s.timed++
	s.seconds += seconds
	for i, bound := range buckets {
		if seconds <= bound {
			s.within[i]++
			return
		}
	}
}

// Begin counts a request that lasts as long as its client likes; End must follow.
func (r *Requests) Begin(op Operation) {
	s := r.of(op)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.long++
}

// End counts the end of a long request.
func (r *Requests) End(op Operation, code int) {
	s := r.of(op)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.long--
	s.codes[code]++
}

var (
	labels = []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}
	total  = prometheus.NewDesc("apiserver_request_total", "Requests, by operation and status code of the answer.",
		append(labels[:len(labels):len(labels)], "code", "dry_run"), nil)
	durations = prometheus.NewDesc("apiserver_request_duration_seconds", "How long requests took that have an end.",
		append(labels[:len(labels):len(labels)], "dry_run"), nil)
	running = prometheus.NewDesc("apiserver_longrunning_requests", "Watches, logs, terminals and proxies under way.", labels, nil)
)

// Describe implements prometheus.Collector.
func (r *Requests) Describe(to chan<- *prometheus.Desc) {
	to <- total
	to <- durations
	to <- running
}

// Collect implements prometheus.Collector.
func (r *Requests) Collect(to chan<- prometheus.Metric) {
	r.mu.RLock()
	ops := make(map[Operation]*series, len(r.ops))
	for op, s := range r.ops {
		ops[op] = s
	}
	r.mu.RUnlock()
	for op, s := range ops {
		s.collect(op, to)
	}
}

func (s *series) collect(op Operation, to chan<- prometheus.Metric) {
	values := []string{op.Verb, op.Group, op.Version, op.Resource, op.Subresource, op.Scope, "apiserver"}
	values = values[:len(values):len(values)]
	s.mu.Lock()
	defer s.mu.Unlock()
	for code, n := range s.codes {
		to <- prometheus.MustNewConstMetric(total, prometheus.CounterValue, float64(n), append(values, strconv.Itoa(code), "")...)
	}
	if s.timed > 0 {
		sum, upTo := uint64(0), make(map[float64]uint64, len(buckets))
		for i, bound := range buckets {
			sum += s.within[i]
			upTo[bound] = sum
		}
		to <- prometheus.MustNewConstHistogram(durations, s.timed, s.seconds, upTo, append(values, "")...)
	}
	if s.long > 0 {
		to <- prometheus.MustNewConstMetric(running, prometheus.GaugeValue, float64(s.long), values...)
	}
}
