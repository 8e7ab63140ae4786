package services

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"coracle/internal/network/nft"
	"coracle/internal/network/proxy"
	"coracle/internal/object"
)

// TestKilledAtEachWrite: an agent that is killed after any of its writes, and whose successor goes on, leaves what one leaves
// that was let be: the same routes, clients led where they must be, no flow of others broken, and nothing more.
func TestKilledAtEachWrite(t *testing.T) {
	inMachine(t, func(w *world) {
		w.stop()
		w.cfg.Log = slog.New(slog.DiscardHandler)
		var a, b, c, client string
		var pods [3]netip.Addr
		a, pods[0] = w.sandbox("a")
		b, pods[1] = w.sandbox("b")
		c, pods[2] = w.sandbox("c")
		for path, name := range map[string]string{a: "a", b: "b", c: "c"} {
			w.serve(path, "tcp4", ":8080", name)
			w.serve(path, "udp4", ":8053", name)
		}
		client, _ = w.sandbox("client")
		accept, shut := w.accepting(c, ":9000")
		defer shut()
		want := w.life(client, pods, accept, 0)
		kills := 0
		for n := 1; ; n++ {
			before := w.died
			got := w.life(client, pods, accept, n)
			if w.died == before {
				break
			}
			kills++
			if d := gocmp.Diff(want, got); d != "" {
				t.Errorf("killed after write %d (-undisturbed +killed):\n%s", n, d)
			}
		}
		if kills < 20 {
			t.Errorf("%d writes only: the test's world has shrunk", kills)
		}
		t.Logf("killed after each of %d writes", kills)
		w.start() // for the end of the test
	})
}

// life has an agent live through some changes, killed after its n-th write if n is not 0, and returns what is in the kernel
// then. All begins and ends without a table.
func (w *world) life(client string, pods [3]netip.Addr, accept func() *net.TCPConn, n int) (state []string) {
	w.t.Helper()
	w.mortal(n)
	defer func() {
		w.stop()
		w.must(Remove(w.cfg.Table))
		w.must(netlink.ConntrackTableFlush(netlink.ConntrackTable))
	}()
	a, b, c := pods[0], pods[1], pods[2]
	web := service("web", "10.96.0.10", port("http", corev1.ProtocolTCP, 80), port("dns", corev1.ProtocolUDP, 53))
	web.Spec.Type, web.Spec.Ports[0].NodePort, web.Spec.Ports[1].NodePort = corev1.ServiceTypeNodePort, 30080, 30053
	keep := service("keep", "10.96.0.12", port("", corev1.ProtocolTCP, 80))
	keep.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	local := service("local", "10.96.0.13", port("", corev1.ProtocolTCP, 80))
	local.Spec.Type, local.Spec.Ports[0].NodePort = corev1.ServiceTypeLoadBalancer, 30081
	local.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	local.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.1"}}
	local.Spec.LoadBalancerSourceRanges = []string{"10.244.0.0/16"}
	old := service("old", "10.96.0.14", port("", corev1.ProtocolUDP, 53))
	oldSlice := slice("old", "", corev1.ProtocolUDP, 8053, a)
	still := service("still", "10.96.0.15", port("", corev1.ProtocolTCP, 80))
	all := []object.Object{
		web, slice("web", "http", corev1.ProtocolTCP, 8080, a, b), slice("web", "dns", corev1.ProtocolUDP, 8053, a),
		keep, slice("keep", "", corev1.ProtocolTCP, 8080, a), local, slice("local", "", corev1.ProtocolTCP, 8080, a),
		old, oldSlice, still, slice("still", "", corev1.ProtocolTCP, 9000, c),
	}
	w.put(all...)
	w.settle()
	flow := stream{client: w.dialFrom(client, 0, "10.96.0.15:80"), server: accept()}
	asks := map[string]func() string{
		"cluster IP": w.socket(client, "10.96.0.10:53"), "node port": w.socket("", "127.0.0.1:30053"), "old": w.socket(client, "10.96.0.14:53"),
	}
	for name, ask := range asks {
		if got := ask(); got != "a" {
			w.t.Errorf("write %d: %s: at first %q answers", n, name, got)
		}
	}
	w.want(client, "tcp4", "10.96.0.12:80", "a")

	w.put(slice("web", "http", corev1.ProtocolTCP, 8080, b, c), slice("web", "dns", corev1.ProtocolUDP, 8053, b), slice("keep", "", corev1.ProtocolTCP, 8080, b))
	w.drop(old, oldSlice)
	w.settle()
	web = web.DeepCopy()
	web.Spec.SessionAffinity, web.Spec.Ports[0].TargetPort = corev1.ServiceAffinityClientIP, intstr.FromInt32(8080)
	local = local.DeepCopy()
	local.Spec.LoadBalancerSourceRanges = []string{"10.244.1.0/24", "192.0.2.0/24"}
	w.put(web, local, slice("local", "", corev1.ProtocolTCP, 8080, a, b, c), service("new", "10.96.0.16", port("", corev1.ProtocolTCP, 80)))
	w.settle()

	w.alive(flow)
	w.must(flow.client.Close())
	w.must(flow.server.Close())
	for _, name := range []string{"cluster IP", "node port"} {
		if got := asks[name](); got != "b" {
			w.t.Errorf("write %d: %s: %q answers in the end", n, name, got)
		}
	}
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	w.must(err)
	for _, f := range flows {
		if f.Forward.DstIP.String() == old.Spec.ClusterIP {
			w.t.Errorf("write %d: the service is gone, and the flow goes on: %s", n, f)
		}
	}
	w.want(client, "tcp4", "10.96.0.12:80", "b")
	w.wantRefused(client, "tcp4", "10.96.0.16:80")
	state = w.held()
	w.drop(append(all, service("new", "10.96.0.16"))...)
	return state
}

// mortal starts an agent that dies after its n-th write. One that does not comes after it (settle).
func (w *world) mortal(n int) {
	w.t.Helper()
	r := w.open()
	r.room = 1 // each destination is written by itself
	writes := 0
	r.wrote = func() {
		if writes++; writes == n {
			runtime.Goexit()
		}
	}
	w.live(r)
}

// held is what is in the kernel, in words in which it does not matter how endpoints and classes are numbered.
func (w *world) held() (out []string) {
	w.t.Helper()
	s, err := nft.Open()
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	chains := map[string]string{}
	all := sets()
	slices.SortStableFunc(all, func(a, b nft.Set) int { // what a class is before who is of it
		return cmp.Compare(slices.Index([]string{string(refusals), string(proxy.Classes)}, b.Name), slices.Index([]string{string(refusals), string(proxy.Classes)}, a.Name))
	})
	for _, set := range all {
		numbers := map[string][]int{}
		err := s.Elements(w.cfg.table(), set.Name, func(e nft.Element) error {
			name := proxy.Set(set.Name)
			switch name {
			case proxy.Classes, refusals, remembered:
				chains[string(e.Key)] = e.Goto
				out = append(out, fmt.Sprintf("%s: %s", name, e.Goto))
			case proxy.Services, proxy.ServicesOutside:
				out = append(out, fmt.Sprintf("%s: %x leads to %s", name, e.Key, chains[string(e.Data)]))
			case proxy.Endpoints, proxy.EndpointsOutside:
				of := string(e.Key[:len(e.Key)-4])
				numbers[of] = append(numbers[of], int(binary.NativeEndian.Uint32(e.Key[len(e.Key)-4:])))
				out = append(out, fmt.Sprintf("%s: %x has %x", name, of, e.Data))
			default:
				out = append(out, fmt.Sprintf("%s: %x %x %x", name, e.Key, e.End, e.Data))
			}
			return nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
		for of, list := range numbers {
			slices.Sort(list)
			out = append(out, fmt.Sprintf("%s: %x has the numbers %v", set.Name, of, list))
		}
	}
	slices.Sort(out)
	return out
}
