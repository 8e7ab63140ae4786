package apiserver

import (
	"fmt"
	"strings"
	"testing"
)

// TestMetrics: administrators, and who is let see them, read what was counted; what clients make up adds nothing to it.
func TestMetrics(t *testing.T) {
	c := start(t)
	c.post(configMaps, `{"metadata":{"name":"a"}}`).want(201)
	c.get(configMaps + "/a").want(200)
	c.get(configMaps + "/none").want(404)
	w := c.watch(t, configMaps+"?watch=1")
	if _, ok := w.next(); !ok {
		t.Fatal("the watch does not begin")
	}
	c.as("").CloseIdleConnections()
	c.call(c.as("bob", "friends"), "GET", configMaps+"/a", "").want(403)
	body := string(c.get("/metrics").want(200).body)
	const of = `component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",verb=`
	for _, line := range []string{
		`apiserver_request_total{code="201",` + of + `"POST",version="v1"} 1`,
		`apiserver_request_total{code="200",` + of + `"GET",version="v1"} 1`,
		`apiserver_request_total{code="404",` + of + `"GET",version="v1"} 1`,
		`apiserver_request_total{code="403",` + of + `"GET",version="v1"} 1`,
		`apiserver_request_duration_seconds_count{` + of + `"GET",version="v1"} 3`,
		`apiserver_longrunning_requests{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="WATCH",version="v1"} 1`,
		`apiserver_resource_objects{group="",resource="configmaps"} 1`,
		"coracle_store_writable 1", "coracle_store_revision ", "coracle_store_disk_bytes{", "go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(body, line) {
			t.Errorf("%q is missing", line)
		}
	}
	c.call(c.as("scraper", "system:monitoring"), "GET", "/metrics", "").want(200)
	c.call(c.as("scraper", "system:monitoring"), "DELETE", "/metrics", "").want(403)
	c.call(c.as("scraper", "system:monitoring"), "GET", configMaps, "").want(403)
	c.call(c.as("bob", "friends"), "GET", "/metrics", "").want(403)
	c.call(c.as(""), "GET", "/metrics", "").want(401)

	series := func() int {
		return strings.Count(string(c.get("/metrics").want(200).body), "\napiserver_request_total{")
	}
	c.get("/api/v1/namespaces/default/frogs/x").want(404)
	c.get("/frogs/x")
	before := series()
	for i := range 50 {
		c.get(fmt.Sprintf("/api/v1/namespaces/default/frogs%d/x", i)).want(404)
		c.get(fmt.Sprintf("/apis/frogs%d/v1/namespaces/n%d/ponds/x/sub%d", i, i, i)).want(404)
		c.get(fmt.Sprintf("/frogs/%d", i)).want(404)
		c.call(c.http, fmt.Sprintf("FROG%d", i), configMaps+"/a", "")
	}
	if now := series(); now > before+8 {
		t.Errorf("%d series, were %d: clients make them up", now, before)
	}
}
