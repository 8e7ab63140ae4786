package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/resource"
)

// journal is written by a client, all the while, until it is stopped: entry after entry, each again until it is
// acknowledged. Entries that were acknowledged may never be missing.
type journal struct {
	// put writes an entry, and returns nil when it was acknowledged.
	put func(ctx context.Context, n int) error

	mu       sync.Mutex
	acked    int // entries 0 to acked-1 were acknowledged
	last     time.Time
	longest  time.Duration // between two acknowledgements
	refusals int
	why      string // of the last refusal
}

// keep writes until ctx ends.
func (j *journal) keep(ctx context.Context) {
	j.last = time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; {
		limited, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := j.put(limited, n)
		cancel()
		j.mu.Lock()
		if now := time.Now(); err == nil {
			n++
			j.acked, j.longest, j.last = n, max(j.longest, now.Sub(j.last)), now
		} else if ctx.Err() == nil {
			j.refusals++
			j.why = err.Error()
		}
		j.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (j *journal) so() (acked int, told string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	told = fmt.Sprintf("%d writes acknowledged, at most %s apart; %d tries failed", j.acked, j.longest.Round(time.Millisecond), j.refusals)
	if j.why != "" {
		told += ", the last: " + j.why
	}
	return j.acked, told
}

// more waits until so many entries more are acknowledged: the system takes writes again.
func (j *journal) more(c *cluster, n int) {
	c.t.Helper()
	from, _ := j.so()
	eventually(c.t, patience, "more acknowledged writes", func() bool { now, _ := j.so(); return now >= from+n })
}

// during writes a journal while f runs, and returns how many entries were acknowledged.
func (j *journal) during(c *cluster, f func()) int {
	c.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var writing sync.WaitGroup
	writing.Go(func() { j.keep(ctx) })
	defer writing.Wait()
	defer stop()
	j.more(c, 5)
	f()
	j.more(c, 5)
	stop()
	writing.Wait()
	acked, told := j.so()
	c.t.Log(told)
	return acked
}

// etcdCall is a call of etcd's JSON gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/).
func etcdCall(ctx context.Context, client *http.Client, at, method string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+at+"/v3/"+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, raw)
	}
	return errors.Join(err, json.Unmarshal(raw, out))
}

type etcdPair struct {
	Key   string `json:"key"`
	Value string `json:"value,omitempty"`
}

func entryKey(n int) string { return fmt.Sprintf("entry-%08d", n) }

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func etcdPut(ctx context.Context, client *http.Client, at, key, value string) error {
	var out struct{ Header struct{ Revision string } }
	if err := etcdCall(ctx, client, at, "kv/put", etcdPair{b64(key), b64(value)}, &out); err != nil {
		return err
	}
	if out.Header.Revision == "" {
		return errors.New("no revision in the answer")
	}
	return nil
}

// etcdEntries reads all entries of the journal, by a read that goes through the quorum.
func etcdEntries(client *http.Client, at string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var out struct{ KVs []etcdPair }
	err := etcdCall(ctx, client, at, "kv/range", map[string]string{"key": b64("entry-"), "range_end": b64("entry.")}, &out)
	if err != nil {
		return nil, err
	}
	got := map[string]string{}
	for _, kv := range out.KVs {
		key, kerr := base64.StdEncoding.DecodeString(kv.Key)
		value, verr := base64.StdEncoding.DecodeString(kv.Value)
		if err := errors.Join(kerr, verr); err != nil {
			return nil, err
		}
		got[string(key)] = string(value)
	}
	return got, nil
}

// etcdQuorum is how long the manifest takes from the start of its application to a member that knows a leader, and to the first
// write that the client service takes.
func etcdQuorum(c *cluster, client *http.Client) (service string) {
	c.t.Helper()
	began := time.Now()
	c.system("etcd")
	applied := time.Since(began)
	service = c.k("get", "service", "-n", "etcd", "client", "-o", "jsonpath={.spec.clusterIP}") + ":2379"
	pod := await(c, patience, "an address", resource.Pods, "etcd", func(pods []*corev1.Pod) bool {
		return len(pods) > 0 && pods[0].Status.PodIP != ""
	})[0]
	var quorum, written time.Duration
	eventuallySoon(c, "a leader", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return etcdPut(ctx, client, pod.Status.PodIP+":2379", "first", "by a member") == nil
	})
	quorum = time.Since(began)
	eventuallySoon(c, "a write by the service", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return etcdPut(ctx, client, service, "first", "by the service") == nil
	})
	written = time.Since(began)
	c.t.Logf("applied within %s, quorum within %s, a write by the service within %s", applied.Round(time.Millisecond),
		quorum.Round(time.Millisecond), written.Round(time.Millisecond))
	return service
}

// etcd writes to three members while they are deleted, rolled and drained: each write that was acknowledged is read
// back, and no member ever lost its data or its name.
func etcd(c *cluster) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	at := etcdQuorum(c, client)
	c.rolledOut("etcd", "statefulset/etcd")
	j := &journal{put: func(ctx context.Context, n int) error { return etcdPut(ctx, client, at, entryKey(n), strconv.Itoa(n)) }}
	acked := j.during(c, func() {
		c.k("delete", "pod", "-n", "etcd", "etcd-1")
		c.rolledOut("etcd", "statefulset/etcd")
		c.k("rollout", "restart", "-n", "etcd", "statefulset/etcd")
		c.rolledOut("etcd", "statefulset/etcd")
		node := c.k("get", "pod", "-n", "etcd", "etcd-2", "-o", "jsonpath={.spec.nodeName}")
		c.k("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=app=etcd", "--timeout=60s")
		j.more(c, 20) // two members are a quorum
		c.k("uncordon", node)
		c.rolledOut("etcd", "statefulset/etcd")
	})
	got, err := etcdEntries(client, at)
	if err != nil {
		c.t.Fatal(err)
	}
	for n := range acked {
		if got[entryKey(n)] != strconv.Itoa(n) {
			c.t.Errorf("%s was acknowledged and is %q", entryKey(n), got[entryKey(n)])
		}
	}
	if out := c.k("get", "pods", "-n", "etcd", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"); strings.Trim(out, "0 ") != "" {
		c.t.Errorf("members were restarted: %s", out)
	}
}

// eventuallySoon is eventually for what is measured: it asks again every 20 ms.
func eventuallySoon(c *cluster, what string, cond func() bool) {
	c.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			c.t.Fatalf("not within %s: %s", patience, what)
		case <-tick.C:
		}
	}
}
