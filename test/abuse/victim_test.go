package abuse

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// client speaks to the target as one user, on connections that it keeps.
type client struct {
	*http.Client
	t      testing.TB
	target *target
}

func (s *target) client(t testing.TB, user string, groups ...string) *client {
	transport := &http.Transport{TLSClientConfig: s.as(user, groups...), ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 32}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{&http.Client{Transport: transport, Timeout: 30 * time.Second}, t, s}
}

// send sends a request and returns the answer.
func (c *client) send(ctx context.Context, method, path, body string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.target.address+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if method == "PATCH" {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, raw, err
}

// must sends a request that has to succeed.
func (c *client) must(method, path, body string) []byte {
	c.t.Helper()
	code, raw, err := c.send(context.Background(), method, path, body)
	if err != nil || code > 201 {
		c.t.Fatalf("%s %s: %d %v %.300s", method, path, code, err, raw)
	}
	return raw
}

// token makes a service account and returns a token of its.
func (c *client) token(name string) string {
	c.t.Helper()
	const accounts = "/api/v1/namespaces/default/serviceaccounts"
	if code, raw, err := c.send(context.Background(), "POST", accounts, fmt.Sprintf(`{"metadata":{"name":%q}}`, name)); err != nil || code != 201 && code != 409 {
		c.t.Fatalf("service account %s: %d %v %s", name, code, err, raw)
	}
	c.t.Cleanup(func() { _, _, _ = c.send(context.Background(), "DELETE", accounts+"/"+name, "") })
	var out struct {
		Status struct{ Token string }
	}
	if err := json.Unmarshal(c.must("POST", accounts+"/"+name+"/token", `{"spec":{"expirationSeconds":3600}}`), &out); err != nil || out.Status.Token == "" {
		c.t.Fatal("no token: ", err)
	}
	return out.Status.Token
}

// victim does the same thing again and again, and notes how it fared.
type victim struct {
	name  string
	every time.Duration
	once  func(ctx context.Context) (int, []byte, error)

	times  []time.Duration
	failed map[string]int
}

// live lets victims live until stop is called, which returns when all have finished what they were at.
func live(victims []*victim) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, v := range victims {
		v.times, v.failed = nil, map[string]int{}
		all.Go(func() {
			tick := time.NewTicker(v.every)
			defer tick.Stop()
			for ctx.Err() == nil {
				began := time.Now()
				code, raw, err := v.once(context.WithoutCancel(ctx))
				v.times = append(v.times, time.Since(began))
				switch {
				case err != nil:
					v.failed[err.Error()]++
				case code != http.StatusOK:
					v.failed[strconv.Itoa(code)+" "+string(bytes.TrimSpace(raw))]++
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

func (v *victim) String() string {
	slices.Sort(v.times)
	at := func(part int) time.Duration { return v.times[len(v.times)*part/100].Round(100 * time.Microsecond) }
	return fmt.Sprintf("%s: %d requests, p50 %v p99 %v max %v", v.name, len(v.times), at(50), at(99), v.times[len(v.times)-1].Round(100*time.Microsecond))
}

// victims are an administrator who reads, and nodes that renew their leases.
func victims(t *testing.T, s *target) []*victim {
	admin := s.client(t, "abuse-admin", "system:masters")
	all := []*victim{{name: "administrator", every: 20 * time.Millisecond, once: func(ctx context.Context) (int, []byte, error) {
		return admin.send(ctx, "GET", "/api/v1/namespaces/default", "")
	}}}
	for n := range 3 {
		name := fmt.Sprint("abuse-node-", n)
		node := s.client(t, "system:node:"+name, "system:nodes")
		const leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
		lease := func() string {
			return fmt.Sprintf(`{"metadata":{"name":%q,"namespace":"kube-node-lease"},"spec":{"holderIdentity":%q,"leaseDurationSeconds":40,"renewTime":%q}}`,
				name, name, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z07:00"))
		}
		node.must("POST", leases, lease())
		t.Cleanup(func() { _, _, _ = admin.send(context.Background(), "DELETE", leases+"/"+name, "") })
		all = append(all, &victim{name: "heartbeat of " + name, every: 100 * time.Millisecond, once: func(ctx context.Context) (int, []byte, error) {
			return node.send(ctx, "PATCH", leases+"/"+name, lease())
		}})
	}
	return all
}
