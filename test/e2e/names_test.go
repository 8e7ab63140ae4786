package e2e

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/resource"
)

var lateNames = flag.Int("names", 100, "of how many pods TestNames measures how late their names come; 250 at most")

// peers is a StatefulSet whose pods find each other by name, and a Service beside it.
const peers = `
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: sql, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 3
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "e2e/tools:1", command: [sleep, "1000"]}]
`

// outside is a name server of the world outside, on loopback: it knows *.example.test.
type outside struct {
	at netip.AddrPort

	mu    sync.Mutex
	asked []string
}

func startOutside(t *testing.T) *outside {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &outside{at: netip.MustParseAddrPort(conn.LocalAddr().String())}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		name := strings.ToLower(m.Question[0].Name)
		r := new(dns.Msg).SetReply(m)
		if !strings.Contains(name, ".loop.") {
			o.mu.Lock()
			o.asked = append(o.asked, name)
			o.mu.Unlock()
		}
		switch {
		case !strings.HasSuffix(name, ".example.test."):
			r.Rcode = dns.RcodeNameError
		case m.Question[0].Qtype == dns.TypeA:
			r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 7)}}
		}
		_ = w.WriteMsg(r)
	})}
	done := make(chan error, 1)
	go func() { done <- server.ActivateAndServe() }()
	t.Cleanup(func() {
		_ = server.Shutdown()
		<-done
	})
	return o
}

func (o *outside) took() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := o.asked
	o.asked = nil
	return out
}

// resolves has a pod resolve a name as its programs do, and fails the test unless it leads to the address.
func (c *cluster) resolves(pod, name, want string) {
	c.t.Helper()
	// What ping says first is what it resolved; whether the address answers is another matter.
	r := c.try("exec", pod, "--", "busybox", "ping", "-c", "1", "-W", "1", name)
	if !strings.Contains(r.out, "("+want+")") {
		c.t.Errorf("%s resolves %s to %q %q, want %s", pod, name, r.out, r.errs, want)
	}
}

// TestNames: the pods of a StatefulSet find each other, services and the world by name, and no question is lost when the
// agent is killed and started again.
func TestNames(t *testing.T) {
	t.Parallel()
	world := startOutside(t)
	c := emptyCluster(t)
	c.up(1, "--listen", "127.0.0.1:0", "--dns-forward", ".="+world.at.String())
	c.connect()
	c.images()
	c.apply(peers)
	pods := c.pods("default", 3)
	server := strings.TrimSpace(c.k("get", "node", "node-1", "-o", "jsonpath={.spec.podCIDR}"))
	server = netip.MustParsePrefix(server).Addr().Next().String()
	if got := c.k("exec", "db-0", "--", "cat", "/etc/resolv.conf"); !strings.Contains(got, "nameserver "+server+"\n") ||
		!strings.Contains(got, "search default.svc.cluster.local svc.cluster.local cluster.local") || !strings.Contains(got, "ndots:5") {
		t.Errorf("resolv.conf:\n%s", got)
	}
	for _, from := range pods {
		for _, to := range pods {
			if from.Name != to.Name {
				c.resolves(from.Name, to.Name+".db", to.Status.PodIP)
				c.resolves(from.Name, to.Name+".db.default.svc.cluster.local", to.Status.PodIP)
			}
		}
	}
	c.resolves("db-0", "web", c.k("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"))
	own := c.k("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}")
	if got := c.k("exec", "db-1", "--", "busybox", "nslookup", "kubernetes.default.svc.cluster.local"); !strings.Contains(got, own) || !strings.Contains(got, server) {
		t.Errorf("nslookup:\n%s", got)
	}
	world.took()
	c.resolves("db-2", "www.example.test", "192.0.2.7")
	if asked := world.took(); len(asked) == 0 || slices.ContainsFunc(asked, func(name string) bool { return name != "www.example.test." }) {
		t.Errorf("the world was asked %q: the search list costs round trips", asked)
	}

	t.Log("a name follows its pod's address")
	name, seen := c.nameLatency(server+":53", *lateNames)
	t.Logf("from the API's acceptance of a pod's address until its name resolves: %s; until a watch shows it: %s", name, seen)
	if p99 := name.of(99); p99 > 2*time.Second { // 10 ms is the aim; the machine may be busy with other tests
		t.Errorf("p99 is %s", p99)
	}

	t.Log("the agent is killed and started again under questions")
	stop := askAlways(t, server+":53", "db-0.db.default.svc.cluster.local.", pods[0].Status.PodIP)
	c.kill("node-node-1")
	c.up(1)
	asked, lost, longest := stop()
	t.Logf("%d questions, %d lost, the longest took %s", asked, lost, longest)
	if lost != 0 || asked < 50 { // an agent is back within a fraction of a second
		t.Errorf("%d of %d questions are lost, want 0 of 50 at least", lost, asked)
	}

	t.Log("known names resolve while the server is down")
	c.kill("server")
	for _, name := range []string{"db-1.db.default.svc.cluster.local.", "web.default.svc.cluster.local."} {
		m, err := dns.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), server+":53")
		if err != nil || len(m.Answer) != 1 {
			t.Errorf("%s without a server: %v %v", name, m, err)
		}
	}
	c.up(1)
}

// askAlways asks a name server every few milliseconds, each question once, until the function returned is called. That
// waits for what is not answered yet, and says how many were asked, how many of them lost, and what the longest took.
func askAlways(t *testing.T, at, name, want string) func() (asked, lost int, longest time.Duration) {
	t.Helper()
	conn, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	open := map[uint16]time.Time{}
	asked, longest := 0, time.Duration(0)
	end, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-end:
				tick.Stop()
				return
			case <-tick.C:
			}
			m := new(dns.Msg).SetQuestion(name, dns.TypeA)
			m.Id = uint16(asked)
			raw, _ := m.Pack()
			mu.Lock()
			open[m.Id] = time.Now()
			asked++
			mu.Unlock()
			_, _ = conn.Write(raw)
		}
	}()
	heard := make(chan error, 1)
	go func() {
		buf := make([]byte, 2048)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				heard <- nil
				return
			}
			var m dns.Msg
			if err := m.Unpack(buf[:n]); err != nil || len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != want {
				heard <- fmt.Errorf("a wrong answer: %v %w", &m, err)
				return
			}
			mu.Lock()
			longest = max(longest, time.Since(open[m.Id]))
			delete(open, m.Id)
			mu.Unlock()
		}
	}()
	return func() (int, int, time.Duration) {
		close(end)
		<-over
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			mu.Lock()
			left := len(open)
			mu.Unlock()
			if left == 0 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		_ = conn.Close()
		if err := <-heard; err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		return asked, len(open), longest
	}
}

// nameLatency gives n pods an address, one after the other, and measures the time from when the API has accepted it
// until the pod's name resolves, and on the way until whoever watches the slices has seen it.
func (c *cluster) nameLatency(server string, n int) (name, seen latency) {
	c.t.Helper()
	ctx := c.t.Context()
	// A node that is there and runs nothing: of the pods bound to it this test says what addresses they have. They are not
	// ready, for the node is not heard of.
	c.apply("apiVersion: v1\nkind: Node\nmetadata: {name: nowhere}\n---\n" +
		"apiVersion: v1\nkind: Service\nmetadata: {name: late}\nspec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: late}}\n")
	for i := range n {
		name := fmt.Sprintf("late-%d", i)
		if _, err := c.api.Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": "late"}},
			Spec: corev1.PodSpec{
				NodeName: "nowhere", Hostname: name, Subdomain: "late", Containers: []corev1.Container{{Name: "main", Image: "none"}},
			},
		}); err != nil {
			c.t.Fatal(err)
		}
	}
	addresses, stop := c.addressesIn("late")
	defer stop()
	asker := dns.Client{Timeout: time.Second}
	conn, err := asker.Dial(server)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	// Who asks all the time takes the processors from those whom it waits for.
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for i := range n {
		obj, err := c.api.Get(ctx, resource.Pods, "default", fmt.Sprintf("late-%d", i))
		if err != nil {
			c.t.Fatal(err)
		}
		pod := obj.(*corev1.Pod).DeepCopy()
		pod.Status.Phase, pod.Status.PodIP = corev1.PodRunning, fmt.Sprintf("198.18.0.%d", i+1)
		pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
		if _, err := c.api.Update(ctx, pod, "status"); err != nil {
			c.t.Fatal(err)
		}
		began := time.Now()
		question := new(dns.Msg).SetQuestion(fmt.Sprintf("late-%d.late.default.svc.cluster.local.", i), dns.TypeA)
		for found := false; !found; {
			m, _, err := asker.ExchangeWithConn(question, conn)
			found = err == nil && len(m.Answer) == 1
			if time.Since(began) > patience {
				c.t.Fatalf("late-%d does not resolve: %v %v", i, m, err)
			}
			if !found {
				<-tick.C
			}
		}
		name = append(name, time.Since(began))
		seen = append(seen, addresses(pod.Status.PodIP).Sub(began))
	}
	c.k("delete", "pods", "-l", "app=late", "--force", "--grace-period=0")
	c.k("delete", "node", "nowhere")
	return name, seen
}

// addressesIn watches the slices of a service. It returns a function that waits until one has an address and says when that
// was, and one that ends the watch.
func (c *cluster) addressesIn(service string) (when func(ip string) time.Time, stop func()) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	opts := client.ListOptions{Namespace: "default", LabelSelector: discoveryv1.LabelServiceName + "=" + service}
	w, err := c.api.Watch(ctx, resource.EndpointSlices, opts)
	if err != nil {
		c.t.Fatal(err)
	}
	var mu sync.Mutex
	first := map[string]time.Time{}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for e := range w.ResultChan() {
			now := time.Now()
			s, ok := e.Object.(*discoveryv1.EndpointSlice)
			if !ok {
				continue
			}
			mu.Lock()
			for _, end := range s.Endpoints {
				for _, ip := range end.Addresses {
					if _, known := first[ip]; !known {
						first[ip] = now
					}
				}
			}
			mu.Unlock()
		}
	}()
	when = func(ip string) (at time.Time) {
		eventually(c.t, patience, "a slice with "+ip, func() (known bool) {
			mu.Lock()
			defer mu.Unlock()
			at, known = first[ip]
			return known
		})
		return at
	}
	return when, func() {
		cancel()
		w.Stop()
		<-over
	}
}

// latency is how long things took.
type latency []time.Duration

func (l latency) of(percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(l))
	return sorted[len(sorted)*percent/100].Round(10 * time.Microsecond)
}

func (l latency) String() string {
	return fmt.Sprintf("p50 %s, p90 %s, p99 %s", l.of(50), l.of(90), l.of(99))
}
