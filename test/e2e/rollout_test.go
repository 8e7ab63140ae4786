package e2e

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	rollouts    = flag.Int("rollouts", 3, "how many times TestRolloutLosesNothing updates, scales, drains and evicts under load")
	rolloutRate = flag.Int("rollouts.rate", 400, "requests a second of that load")
	// One in some 50,000 was seen to fail on a busy machine, for a reason that is not known yet (docs/ROADMAP.md).
	rolloutLost  = flag.Int64("rollouts.lost", 2, "how many of them may fail")
	rolloutLeast = flag.Int64("rollouts.requests", 1000, "how many requests there are at least")
)

const web = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: c
        image: e2e/abrupt:1
        args: [first]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
`

// load sends requests at a steady rate until it is stopped, and counts what became of them.
type load struct {
	sent, failed atomic.Int64
	mu           sync.Mutex
	errors       []string
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
	resp, err := client.Get(url)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %s", resp.Status)
		}
	}
	if err == nil {
		return
	}
	l.failed.Add(1)
	l.mu.Lock()
	l.errors = append(l.errors, fmt.Sprintf("begun at %s, after %s: %v", began.UTC().Format("15:04:05.000"), time.Since(began).Round(time.Millisecond), err))
	l.mu.Unlock()
}

// TestRolloutLosesNothing updates, scales, evicts and drains the pods of a server that closes its listener as soon as it
// is told to end, and that has no preStop hook. No request fails, by the service's address or by a node port.
func TestRolloutLosesNothing(t *testing.T) {
	c := newCluster(t, 2)
	server := filepath.Join(c.root, "abrupt")
	if err := goBuild("0", "-trimpath", "-ldflags", "-s -w", "-o", server, "./test/e2e/abrupt"); err != nil {
		t.Fatal(err)
	}
	c.coracle("image", "build", "-t", "e2e/abrupt:1", server)
	c.apply(web)
	c.k("rollout", "status", "deployment/web", "--timeout=60s")
	c.k("wait", "pod", "-l", "app=web", "--for=condition=Ready", "--timeout=60s")
	address := c.k("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	port := c.k("get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}")
	urls := []string{"http://" + address, "http://127.0.0.1:" + port}
	for _, url := range urls {
		eventually(t, patience, url+" to answer", func() bool {
			resp, err := http.Get(url)
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}
	l := &load{}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { l.run(ctx, *rolloutRate, urls) })
	defer running.Wait()
	defer stop()
	began := time.Now()
	for i := 0; i < *rollouts || l.sent.Load() < *rolloutLeast; i++ {
		c.k("patch", "deployment", "web", "--type=json", "-p",
			fmt.Sprintf(`[{"op":"replace","path":"/spec/template/spec/containers/0/args","value":["release-%d"]}]`, i))
		c.k("rollout", "status", "deployment/web", "--timeout=120s")
		switch i % 3 {
		case 0:
			c.k("scale", "deployment", "web", "--replicas=5")
			c.k("rollout", "status", "deployment/web", "--timeout=60s")
			c.k("scale", "deployment", "web", "--replicas=3")
		case 1:
			c.k("delete", "pod", strings.Fields(c.k("get", "pod", "-l", "app=web", "-o",
				"go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}"))[0])
			c.k("rollout", "status", "deployment/web", "--timeout=60s")
		case 2:
			c.k("drain", "node-2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
			c.k("rollout", "status", "deployment/web", "--timeout=60s")
			c.k("uncordon", "node-2")
		}
		if (i+1)%10 == 0 {
			t.Logf("%s: %d rollouts, %d requests, %d failed", time.Since(began).Round(time.Second), i+1, l.sent.Load(), l.failed.Load())
		}
	}
	stop()
	running.Wait()
	if n := l.failed.Load(); n > 0 {
		t.Logf("%d of %d requests failed:\n%s", n, l.sent.Load(), strings.Join(l.errors[:min(len(l.errors), 20)], "\n"))
		if n > *rolloutLost {
			t.Fail()
		}
	}
	if late := c.k("get", "events", "--field-selector", "reason=DrainTimedOut"); strings.Contains(late, "DrainTimedOut") {
		t.Errorf("not in time:\n%s", late)
	}
	t.Logf("%d requests in %s, %d failed", l.sent.Load(), time.Since(began).Round(time.Second), l.failed.Load())
}
