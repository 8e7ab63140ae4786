package measure

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
)

func TestRequests(t *testing.T) {
	r := &Requests{}
	get := Operation{Verb: "GET", Version: "v1", Resource: "pods", Scope: "resource"}
	watch := Operation{Verb: "WATCH", Version: "v1", Resource: "pods", Scope: "cluster"}
	r.Short(get, 200, 3*time.Millisecond)
	r.Short(get, 200, 30*time.Millisecond)
	r.Short(get, 404, time.Hour)
	r.Begin(watch)
	r.Begin(watch)
	r.End(watch, 200)
	const pods = `component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="",verb="GET",version="v1"`
	want := `
# HELP apiserver_longrunning_requests Watches, logs, terminals and proxies under way.
# TYPE apiserver_longrunning_requests gauge
apiserver_longrunning_requests{component="apiserver",group="",resource="pods",scope="cluster",subresource="",verb="WATCH",version="v1"} 1
# HELP apiserver_request_total Requests, by operation and status code of the answer.
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",` + pods + `} 2
apiserver_request_total{code="404",` + pods + `} 1
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="WATCH",version="v1"} 1
`
	if err := testutil.CollectAndCompare(r, strings.NewReader(want), "apiserver_longrunning_requests", "apiserver_request_total"); err != nil {
		t.Error(err)
	}
	text, err := testutil.CollectAndFormat(r, expfmt.TypeTextPlain, "apiserver_request_duration_seconds")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`le="0.005"} 1`, `le="0.025"} 1`, `le="0.05"} 2`, `le="60"} 2`, `le="+Inf"} 3`, "_count{" + pods + "} 3"} {
		if !strings.Contains(string(text), line) {
			t.Errorf("%q is missing in\n%s", line, text)
		}
	}
}

func BenchmarkShort(b *testing.B) {
	r := &Requests{}
	op := Operation{Verb: "GET", Version: "v1", Resource: "pods", Scope: "resource"}
	b.ReportAllocs()
	for b.Loop() {
		r.Short(op, 200, time.Millisecond)
	}
}
