package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	rollouts     = flag.Int("rollouts", 3, "how many times TestRolloutLosesNothing updates, scales, drains and evicts under load")
	rolloutRate  = flag.Int("rollouts.rate", 400, "requests a second of that load")
	rolloutLeast = flag.Int64("rollouts.requests", 1000, "how many requests there are at least")
)

// nginxRoot names the root file system of an image with Debian's nginx, which scripts/debian-rootfs makes; without one the
// test leaves it out.
const nginxRoot = "CORACLE_E2E_NGINX"

// web is a Deployment of a server and its Service: name, target port, image, arguments, how it is told to end.
const web = `
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {type: NodePort, selector: {app: %[1]s}, ports: [{port: 80, targetPort: %[2]d}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: 3
  selector: {matchLabels: {app: %[1]s}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: %[1]s, set: web}}
    spec:
      terminationGracePeriodSeconds: 10
      os: {name: linux}
      containers:
      - name: c
        image: %[3]s
        args: %[4]s
        lifecycle: {stopSignal: %[5]s}
        readinessProbe: {httpGet: {path: /, port: %[2]d}, periodSeconds: 1}
`

// servers have the cluster run what is rolled, and return the names of the Deployments: a Go server that closes its listener at
// once when it is told to end, and nginx as Debian has it, which then ends at once and cuts all its connections, or which goes on
// with what it has begun where it is sent SIGQUIT.
func (c *cluster) servers() (names []string) {
	c.t.Helper()
	server := filepath.Join(c.root, "abrupt")
	if err := goBuild("0", "-trimpath", "-ldflags", "-s -w", "-o", server, "./test/e2e/abrupt"); err != nil {
		c.t.Fatal(err)
	}
	c.coracle("image", "build", "-t", "e2e/abrupt:1", server)
	c.apply(fmt.Sprintf(web, "abrupt", 8080, "e2e/abrupt:1", "[first]", "SIGTERM"))
	names = []string{"abrupt"}
	if root := os.Getenv(nginxRoot); root != "" {
		c.coracle("image", "build", "-t", "e2e/nginx:1", "--entrypoint", "/usr/sbin/nginx", root)
		c.apply(fmt.Sprintf(web, "nginx", 80, "e2e/nginx:1", `["-g", "daemon off;"]`, "SIGTERM"))
		c.apply(fmt.Sprintf(web, "nginx-quit", 80, "e2e/nginx:1", `["-g", "daemon off;"]`, "SIGQUIT"))
		names = append(names, "nginx", "nginx-quit")
	}
	for _, name := range names {
		c.rolled(name)
	}
	c.k("wait", "pod", "-l", "set=web", "--for=condition=Ready", "--timeout=60s")
	return names
}

func (c *cluster) rolled(name string) {
	c.t.Helper()
	c.k("rollout", "status", "deployment/"+name, "--timeout=120s")
}

// addresses are the ways to a service: by its own address and by a node port.
func (c *cluster) addresses(name string) []string {
	c.t.Helper()
	address := c.k("get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
	port := c.k("get", "service", name, "-o", "jsonpath={.spec.ports[0].nodePort}")
	urls := []string{"http://" + address, "http://127.0.0.1:" + port}
	for _, url := range urls {
		eventually(c.t, patience, url+" to answer", func() bool {
			resp, err := http.Get(url)
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}
	return urls
}

// load sends requests at a steady rate until it is stopped, and counts what became of them.
type load struct {
	// method is GET, or POST for requests that no client library sends again by itself.
	method       string
	sent, failed atomic.Int64
	mu           sync.Mutex
	errors       []string
	lost         map[string]int // by URL
}

// run shares the rate among workers; every other one makes a connection for each request.
func (l *load) run(ctx context.Context, rate int, urls []string) {
	const workers = 8
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			transport := &http.Transport{DisableKeepAlives: i%2 == 0, MaxIdleConnsPerHost: 4}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
			tick := time.NewTicker(time.Duration(workers) * time.Second / time.Duration(rate))
			defer tick.Stop()
			for n := i / 2; ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				l.one(client, urls[n%len(urls)])
			}
		})
	}
	all.Wait()
}

func (l *load) one(client *http.Client, url string) {
	l.sent.Add(1)
	began := time.Now()
	req, err := http.NewRequest(l.method, url, nil)
	if err != nil {
		panic(err)
	}
	resp, err := client.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		answered := resp.StatusCode == http.StatusOK || l.method == http.MethodPost && resp.StatusCode == http.StatusMethodNotAllowed
		if err == nil && !answered {
			err = fmt.Errorf("status %s", resp.Status)
		}
	}
	if err == nil {
		return
	}
	l.failed.Add(1)
	l.mu.Lock()
	if l.lost == nil {
		l.lost = map[string]int{}
	}
	l.lost[url]++
	l.errors = append(l.errors, fmt.Sprintf("begun at %s, after %s: %v", began.UTC().Format("15:04:05.000"), time.Since(began).Round(time.Millisecond), err))
	l.mu.Unlock()
}

// some are the first errors, and how many there were by URL.
func (l *load) some() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintln(l.lost) + strings.Join(l.errors[:min(len(l.errors), 20)], "\n")
}

// TestRolloutLosesNothing updates, scales, evicts and drains the pods of servers that stop serving as soon as they are told to
// end, and that have no preStop hook. No request fails, by the service's address or by a node port, each with a
// connection of its own or by one that is kept. And no connection is remembered of an address that is nobody's.
func TestRolloutLosesNothing(t *testing.T) {
	c := newCluster(t, 2)
	names := c.servers()
	var urls []string
	for _, name := range names {
		at := c.addresses(name)
		t.Logf("%s: %s", name, strings.Join(at, ", "))
		urls = append(urls, at...)
	}
	l, posts := &load{method: http.MethodGet}, &load{method: http.MethodPost}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { l.run(ctx, *rolloutRate, urls) })
	running.Go(func() { posts.run(ctx, max(1, *rolloutRate/10), urls) })
	defer running.Wait()
	defer stop()
	began := time.Now()
	for i := 0; i < *rollouts || l.sent.Load() < *rolloutLeast; i++ {
		for _, name := range names {
			c.k("patch", "deployment", name, "-p", fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"release":"%d"}}}}}`, i))
		}
		for _, name := range names {
			c.rolled(name)
		}
		c.disturb(i, names)
		if (i+1)%10 == 0 {
			t.Logf("%s: %d rollouts, %d requests, %d failed", time.Since(began).Round(time.Second), i+1, l.sent.Load(), l.failed.Load())
		}
	}
	stop()
	running.Wait()
	if n := l.failed.Load(); n > 0 {
		t.Errorf("%d of %d requests failed:\n%s", n, l.sent.Load(), l.some())
	}
	// A server that is told to end may close a connection that is kept just as a request comes by it; clients send again what
	// may be sent twice. What may not is lost then, and that is the server's to see to (docs/draining.md).
	t.Logf("of %d POST requests, %d failed:\n%s", posts.sent.Load(), posts.failed.Load(), posts.some())
	if late := c.k("get", "events", "--field-selector", "reason=DrainTimedOut"); strings.Contains(late, "DrainTimedOut") {
		t.Errorf("not in time:\n%s", late)
	}
	eventually(t, patience, "no connection to be remembered of an address that is nobody's", func() bool { return len(c.strays()) == 0 })
	t.Logf("%d requests in %s, %d failed", l.sent.Load(), time.Since(began).Round(time.Second), l.failed.Load())
}

// disturb takes pods away in one of the ways there are, and waits until all is there again.
func (c *cluster) disturb(i int, names []string) {
	c.t.Helper()
	switch i % 3 {
	case 0:
		for _, replicas := range []string{"5", "3"} {
			for _, name := range names {
				c.k("scale", "deployment", name, "--replicas="+replicas)
			}
			for _, name := range names {
				c.rolled(name)
			}
		}
	case 1:
		for _, name := range names {
			c.k("delete", "pod", strings.Fields(c.k("get", "pod", "-l", "app="+name, "-o",
				"go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}"))[0])
		}
	case 2:
		c.k("drain", "node-2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
	}
	for _, name := range names {
		c.rolled(name)
	}
	if i%3 == 2 {
		c.k("uncordon", "node-2")
	}
}

// strays are the connections that the kernel leads to addresses of the cluster's pods which no pod has.
func (c *cluster) strays() (out []string) {
	c.t.Helper()
	taken := map[string]bool{}
	var ranges []netip.Prefix
	for _, text := range strings.Fields(c.k("get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}")) {
		r := netip.MustParsePrefix(text)
		ranges = append(ranges, r)
		taken[r.Addr().Next().String()] = true
	}
	for _, ip := range strings.Fields(c.k("get", "pods", "-A", "-o", "jsonpath={.items[*].status.podIP}")) {
		taken[ip] = true
	}
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		c.t.Fatal(err)
	}
	for _, f := range flows {
		to, ok := netip.AddrFromSlice(f.Reverse.SrcIP)
		if !ok || taken[to.Unmap().String()] || f.Forward.DstIP.Equal(f.Reverse.SrcIP) {
			continue
		}
		if slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(to.Unmap()) }) {
			out = append(out, f.String())
		}
	}
	return out
}
