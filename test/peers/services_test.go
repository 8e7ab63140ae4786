package peers

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/network/nstest"
)

// TestServices fills a cluster with services, has a proxy that finds nothing lead to them, and then changes one endpoint after another:
// in the time until packets go where the API says.
func TestServices(t *testing.T) {
	proxies := []proxy{{"coracle", startOurs}}
	if *kubeProxy != "" {
		proxies = append(proxies, proxy{"kube-proxy", startTheirs})
	}
	for size := range strings.SplitSeq(*sizes, ",") {
		var services, endpoints int
		if _, err := fmt.Sscanf(size, "%dx%d", &services, &endpoints); err != nil || services < 2 || endpoints < 1 || endpoints > 100 {
			t.Fatalf("-peers.sizes %s: give services x endpoints, of these 1 to 100", size)
		}
		t.Run(size, func(t *testing.T) {
			c := startCluster(t)
			led := c.fill(t, services, endpoints)
			for _, p := range proxies {
				t.Run(p.name, func(t *testing.T) {
					nstest.Run(t, func() { measure(t, c, led, p) })
				})
			}
		})
	}
}

// proxy is one who leads services.
type proxy struct {
	name  string
	start func(t *testing.T, kubeconfig string) *started
}

func startOurs(t *testing.T, kubeconfig string) *started {
	return start(t, []string{proxyConfig + "=" + kubeconfig}, os.Args[0])
}

// startTheirs starts kube-proxy in nftables mode, as it is by default but for what it would change of the machine (conntrack's
// limits) and where it would listen.
func startTheirs(t *testing.T, kubeconfig string) *started {
	return start(t, nil, *kubeProxy, "--kubeconfig", kubeconfig, "--proxy-mode", "nftables", "--hostname-override", nodeName,
		"--cluster-cidr", ofPods.String(), "--conntrack-max-per-core", "0", "--conntrack-tcp-timeout-established", "0",
		"--conntrack-tcp-timeout-close-wait", "0", "--healthz-bind-address", "127.0.0.1:10256", "--metrics-bind-address", "127.0.0.1:10249", "--v", "0")
}

// led is a service and where it leads.
type led struct {
	ip    netip.Addr
	slice *discoveryv1.EndpointSlice
	to    []netip.Addr
}

// podAddress is the address of a number.
func podAddress(n int) netip.Addr {
	base := ofPods.Addr().As4()
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(base[:])+uint32(n))))
}

func slice(name string, to []netip.Addr) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("dns"), Protocol: new(corev1.ProtocolUDP), Port: new(int32(8080))}},
	}
	for _, a := range to {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.String()}, NodeName: new(nodeName), Conditions: discoveryv1.EndpointConditions{Ready: new(true)}})
	}
	return s
}

// fill makes a node, and services with endpoints. The last service has one endpoint alone: the one that changes.
func (c *cluster) fill(t *testing.T, services, endpoints int) []led {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	made, err := c.api.Create(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	node = made.(*corev1.Node)
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: from}}
	if _, err := c.api.Update(t.Context(), node, "status"); err != nil {
		t.Fatal(err)
	}
	all := make([]led, services)
	work := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range work {
				n := endpoints
				if i == services-1 {
					n = 1
				}
				if all[i], err = c.service(t, i, endpoints, n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range services {
		work <- i
	}
	close(work)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return all
}

func (c *cluster) service(t *testing.T, i, stride, endpoints int) (led, error) {
	name := fmt.Sprintf("s-%d", i)
	obj, err := c.api.Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 80}}},
	})
	if err != nil {
		return led{}, err
	}
	out := led{ip: netip.MustParseAddr(obj.(*corev1.Service).Spec.ClusterIP)}
	for j := range endpoints {
		out.to = append(out.to, podAddress(1+i*stride+j))
	}
	var s client.Object
	if s, err = c.api.Create(t.Context(), slice(name, out.to)); err != nil {
		return led{}, err
	}
	out.slice = s.(*discoveryv1.EndpointSlice)
	return out, nil
}

// sampled are services that stand for all: the first, the last, and some between.
func sampled(all []led) (out []led) {
	const few = 20
	for i := range few {
		out = append(out, all[i*(len(all)-1)/(few-1)])
	}
	return out
}

// measure has a proxy lead services in the calling thread's network namespace, and prints what it takes.
func measure(t *testing.T, c *cluster, all []led, p proxy) {
	m := setUp(t, c.address)
	began := time.Now()
	s := p.start(t, c.kubeconfig(t, p.name, m.api))
	defer s.end()
	for _, l := range sampled(all) {
		m.until(l.ip, l.to)
	}
	took, cpu := time.Since(began), s.spent()
	now, most := s.resident()
	t.Logf("%s: from its start until packets to all services arrive: %s, processor %s, memory %d MiB (%d at most)", p.name, took.Round(time.Millisecond), cpu, now, most)

	last := &all[len(all)-1]
	var latencies []time.Duration
	cpu = s.spent()
	const enough = time.Minute
	began = time.Now()
	for i := 0; i < *changes && time.Since(began) < enough; i++ {
		to := []netip.Addr{podAddress(1<<21 + int(last.slice.Generation))}
		next := slice(last.slice.Name, to)
		next.ResourceVersion = last.slice.ResourceVersion
		obj, err := c.api.Update(t.Context(), next, "")
		if err != nil {
			t.Fatal(err)
		}
		accepted := time.Now()
		last.slice, last.to = obj.(*discoveryv1.EndpointSlice), to
		latencies = append(latencies, max(0, m.until(last.ip, to).Sub(accepted)))
	}
	slices.Sort(latencies)
	n := len(latencies)
	t.Logf("%s: from the API's acceptance of another endpoint until a packet arrives there, %d changes: p50 %s, p99 %s, processor %s for each",
		p.name, n, latencies[n/2].Round(10*time.Microsecond), latencies[n*99/100].Round(10*time.Microsecond), (s.spent()-cpu)/time.Duration(n))
	if *kubeProxy == "" && latencies[n/2] > 2*time.Second { // 3 ms is the aim; the machine may be busy with other tests
		t.Errorf("p50 is %s", latencies[n/2])
	}
}
