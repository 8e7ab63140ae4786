package e2e

import (
	"strings"
	"testing"
)

// TestSystemsNodeExporter: the exporter runs on a node that takes no other pod, sees the host through its mounts, and is scraped from
// a pod by the headless service's name. It has a cluster of one node: nodes of one machine share the ports of its network.
func TestSystemsNodeExporter(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1).images()
	c.systemImages("node-exporter")
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: scraper}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "e2e/tools:1", command: [sleep, "1000"]}]
`)
	c.pods("default", 1)
	c.k("taint", "node", "node-1", "dedicated=metrics:NoSchedule")
	c.system("node-exporter")
	c.rolledOut("monitoring", "daemonset/node-exporter")
	var metrics string
	eventually(t, patience, "metrics by the service's name", func() bool {
		metrics = c.try("exec", "scraper", "--", "wget", "-q", "-O", "-", "http://node-exporter.monitoring:9100/metrics").out
		return strings.Contains(metrics, "node_exporter_build_info")
	})
	// Of the host: its load and memory, its file systems by their own names, its network's links.
	for _, want := range []string{
		"node_load1 ", "node_memory_MemTotal_bytes ", `mountpoint="/"`,
		`node_network_receive_bytes_total{device="cor-`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in %d bytes of metrics", want, len(metrics))
		}
	}
}
