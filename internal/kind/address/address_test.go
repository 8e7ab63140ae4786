package address

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"coracle/internal/servicerange"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func service(name string, kind corev1.ServiceType, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: kind, Ports: ports}}
}

func book(t testing.TB, prefix string, ports [2]int) *Services {
	t.Helper()
	b, err := New(netip.MustParsePrefix(prefix), ports)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRanges(t *testing.T) {
	for _, c := range []struct {
		prefix      string
		first, last string
	}{
		{"10.96.0.0/16", "10.96.0.1", "10.96.255.254"},
		{"10.0.0.4/30", "10.0.0.5", "10.0.0.6"},
		{"fd00::/120", "fd00::1", "fd00::ff"},
		{"fd00:1::/64", "fd00:1::1", "fd00:1::f:ffff"},
	} {
		p, err := newIPPool(netip.MustParsePrefix(c.prefix))
		if err != nil {
			t.Fatal(err)
		}
		if a, b := p.address(p.first).String(), p.address(p.end-1).String(); a != c.first || b != c.last {
			t.Errorf("%s: %s to %s, want %s to %s", c.prefix, a, b, c.first, c.last)
		}
		for _, n := range []int{p.first, p.end - 1, (p.first + p.end) / 2} {
			if back, ok := p.offset(p.address(n)); !ok || back != n {
				t.Errorf("%s: place %d is %s, whose place is %d", c.prefix, n, p.address(n), back)
			}
		}
	}
	for _, bad := range []string{"10.0.0.0/31", "10.0.0.1/32"} {
		if _, err := New(netip.MustParsePrefix(bad), [2]int{}); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
	if _, err := New(netip.MustParsePrefix("10.0.0.0/24"), [2]int{5, 4}); err == nil {
		t.Error("node ports 5-4 are accepted")
	}
}

func TestAssign(t *testing.T) {
	for _, c := range []struct {
		name  string
		svc   func() *corev1.Service
		err   string
		check func(*corev1.Service) bool
	}{
		{"an address is given", func() *corev1.Service { return service("a", corev1.ServiceTypeClusterIP) }, "",
			func(s *corev1.Service) bool {
				return s.Spec.ClusterIP != "" && s.Spec.ClusterIPs[0] == s.Spec.ClusterIP && s.Spec.IPFamilies[0] == corev1.IPv4Protocol
			}},
		{"headless has none", func() *corev1.Service {
			s := service("a", corev1.ServiceTypeClusterIP)
			s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.Selector = "None", []string{"None"}, map[string]string{"a": "b"}
			return s
		}, "", func(s *corev1.Service) bool {
			return s.Spec.ClusterIP == "None" && len(s.Spec.IPFamilies) == 1 && *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
		}},
		{"headless without selector leaves the families open", func() *corev1.Service {
			s := service("a", corev1.ServiceTypeClusterIP)
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"}
			return s
		}, "", func(s *corev1.Service) bool { return len(s.Spec.IPFamilies) == 2 }},
		{"external name has nothing", func() *corev1.Service { return service("a", corev1.ServiceTypeExternalName) }, "",
			func(s *corev1.Service) bool { return s.Spec.ClusterIP == "" && s.Spec.IPFamilyPolicy == nil }},
		{"an address outside", func() *corev1.Service {
			s := service("a", corev1.ServiceTypeClusterIP)
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.1.0.1", []string{"10.1.0.1"}
			return s
		}, "failed to allocate IP 10.1.0.1: the provided IP (10.1.0.1) is not in the valid range. The range of valid IPs is 10.0.0.0/24", nil},
		{"the network itself", func() *corev1.Service {
			s := service("a", corev1.ServiceTypeClusterIP)
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.0.0.0", []string{"10.0.0.0"}
			return s
		}, "not in the valid range", nil},
		{"two families", func() *corev1.Service {
			s := service("a", corev1.ServiceTypeClusterIP)
			policy := corev1.IPFamilyPolicyRequireDualStack
			s.Spec.IPFamilyPolicy = &policy
			return s
		}, `spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`, nil},
		{"the other family", func() *corev1.Service {
			s := service("a", corev1.ServiceTypeClusterIP)
			s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
			return s
		}, `spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`, nil},
		{"a port outside", func() *corev1.Service {
			return service("a", corev1.ServiceTypeNodePort, corev1.ServicePort{Port: 80, NodePort: 80})
		}, "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767", nil},
		{"one number for two protocols", func() *corev1.Service {
			return service("a", corev1.ServiceTypeNodePort, corev1.ServicePort{Port: 53, Protocol: "TCP"}, corev1.ServicePort{Port: 53, Protocol: "UDP"})
		}, "", func(s *corev1.Service) bool {
			return s.Spec.Ports[0].NodePort != 0 && s.Spec.Ports[0].NodePort == s.Spec.Ports[1].NodePort
		}},
		{"the later protocol asks", func() *corev1.Service {
			return service("a", corev1.ServiceTypeNodePort, corev1.ServicePort{Port: 53, Protocol: "TCP"}, corev1.ServicePort{Port: 53, Protocol: "UDP", NodePort: 30053})
		}, "", func(s *corev1.Service) bool { return s.Spec.Ports[0].NodePort == 30053 }},
		{"a load balancer without node ports", func() *corev1.Service {
			s := service("a", corev1.ServiceTypeLoadBalancer, corev1.ServicePort{Port: 80})
			no := false
			s.Spec.AllocateLoadBalancerNodePorts = &no
			return s
		}, "", func(s *corev1.Service) bool { return s.Spec.Ports[0].NodePort == 0 }},
		{"a health check port", func() *corev1.Service {
			s := service("a", corev1.ServiceTypeLoadBalancer, corev1.ServicePort{Port: 80})
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			return s
		}, "", func(s *corev1.Service) bool {
			return s.Spec.HealthCheckNodePort != 0 && s.Spec.HealthCheckNodePort != s.Spec.Ports[0].NodePort
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := c.svc()
			_, err := book(t, "10.0.0.0/24", [2]int{}).Assign(s, nil, false)
			switch {
			case c.err == "" && err != nil:
				t.Fatal(err)
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
				t.Fatalf("error %v, want %s", err, c.err)
			case c.check != nil && !c.check(s):
				t.Errorf("%+v", s.Spec)
			}
		})
	}
}

func TestDryRunTakesNothing(t *testing.T) {
	b := book(t, "10.0.0.0/30", [2]int{30000, 30000})
	for range 5 {
		s := service("a", corev1.ServiceTypeNodePort, corev1.ServicePort{Port: 80})
		finish, err := b.Assign(s, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		finish(true)
		if s.Spec.ClusterIP == "" || s.Spec.Ports[0].NodePort != 30000 {
			t.Errorf("a dry run shows %+v", s.Spec)
		}
	}
}

func TestFailureGivesBack(t *testing.T) {
	b := book(t, "10.0.0.0/30", [2]int{30000, 30000})
	for range 5 {
		finish, err := b.Assign(service("a", corev1.ServiceTypeNodePort, corev1.ServicePort{Port: 80}), nil, false)
		if err != nil {
			t.Fatal(err)
		}
		finish(false)
	}
}

func TestFull(t *testing.T) {
	b := book(t, "10.0.0.0/30", [2]int{30000, 30000})
	for i := range 2 {
		if _, err := b.Assign(service(fmt.Sprint(i), corev1.ServiceTypeClusterIP), nil, false); err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.Assign(service("c", corev1.ServiceTypeClusterIP), nil, false)
	if err == nil || !strings.Contains(err.Error(), "failed to allocate a serviceIP: range is full") {
		t.Errorf("a third Service in a range of two: %v", err)
	}
}

// TestConcurrent: whoever asks at once, no two get the same address.
func TestConcurrent(t *testing.T) {
	b := book(t, "10.0.0.0/22", [2]int{30000, 30999})
	var mu sync.Mutex
	var wg sync.WaitGroup
	ips, ports := map[string]bool{}, map[int32]bool{}
	for range 16 {
		wg.Go(func() {
			for range 50 {
				s := service("a", corev1.ServiceTypeNodePort, corev1.ServicePort{Port: 80})
				finish, err := b.Assign(s, nil, false)
				if err != nil {
					t.Error(err)
					return
				}
				finish(true)
				mu.Lock()
				if ips[s.Spec.ClusterIP] || ports[s.Spec.Ports[0].NodePort] {
					t.Errorf("%s or %d was given twice", s.Spec.ClusterIP, s.Spec.Ports[0].NodePort)
				}
				ips[s.Spec.ClusterIP], ports[s.Spec.Ports[0].NodePort] = true, true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// TestBookMatchesServices: after any history, what is taken is exactly what the Services hold,
// and a book restored from them knows the same.
func TestBookMatchesServices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, err := New(netip.MustParsePrefix("10.0.0.0/27"), [2]int{30000, 30015})
		if err != nil {
			t.Fatal(err)
		}
		stored := map[string]*corev1.Service{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g"}).Draw(t, "name")
			old := stored[name]
			if old != nil && rapid.Bool().Draw(t, "delete") {
				b.Release(old)
				delete(stored, name)
				continue
			}
			kind := rapid.SampledFrom([]corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeExternalName}).Draw(t, "type")
			next := service(name, kind)
			if old != nil && kind != corev1.ServiceTypeExternalName && old.Spec.ClusterIP != "" {
				next.Spec.ClusterIP, next.Spec.ClusterIPs = old.Spec.ClusterIP, old.Spec.ClusterIPs
			}
			if kind == corev1.ServiceTypeNodePort {
				for i := range rapid.IntRange(0, 3).Draw(t, "ports") {
					asked := rapid.SampledFrom([]int32{0, 0, 30000, 30001, 30002}).Draw(t, "asked")
					next.Spec.Ports = append(next.Spec.Ports, corev1.ServicePort{Port: int32(i + 1), NodePort: asked})
				}
			}
			dry := rapid.Bool().Draw(t, "dry")
			finish, err := b.Assign(next, old, dry)
			if err != nil {
				continue
			}
			success := rapid.Bool().Draw(t, "success")
			finish(success)
			if success && !dry {
				stored[name] = next
			}
		}
		again, _ := New(netip.MustParsePrefix("10.0.0.0/27"), [2]int{30000, 30015})
		owner := map[string]string{}
		for name, s := range stored {
			again.Restore(s)
			if ip := s.Spec.ClusterIP; ip != "" {
				if other := owner[ip]; other != "" {
					t.Fatalf("%s and %s share %s", name, other, ip)
				}
				owner[ip] = name
			}
		}
		for n := range 32 {
			if b.ips.pools[0].taken.has(n) != again.ips.pools[0].taken.has(n) {
				t.Fatalf("address %d: taken %v, held %v", n, b.ips.pools[0].taken.has(n), again.ips.pools[0].taken.has(n))
			}
		}
		if !maps.Equal(b.ips.taken, again.ips.taken) {
			t.Fatalf("taken %v, held %v", b.ips.taken, again.ips.taken)
		}
		for n := range 16 {
			if b.ports.taken.has(n) != again.ports.taken.has(n) {
				t.Fatalf("port %d: taken %v, held %v", n, b.ports.taken.has(n), again.ports.taken.has(n))
			}
		}
	})
}

func BenchmarkAssign(b *testing.B) {
	pool := book(b, "10.96.0.0/12", [2]int{})
	b.ReportAllocs()
	for range b.N {
		s := service("a", corev1.ServiceTypeClusterIP)
		finish, err := pool.Assign(s, nil, false)
		if err != nil {
			b.Fatal(err)
		}
		finish(false)
	}
}

// TestAskedPorts: a load balancer that is to be given no node ports has those that it names, and nobody else has them.
func TestAskedPorts(t *testing.T) {
	b := book(t, "10.96.0.0/16", [2]int{30000, 30015})
	bare := func(name string, node int32) *corev1.Service {
		s := service(name, corev1.ServiceTypeLoadBalancer, corev1.ServicePort{Port: 80, NodePort: node}, corev1.ServicePort{Port: 81})
		no := false
		s.Spec.AllocateLoadBalancerNodePorts = &no
		return s
	}
	take := func(s *corev1.Service) error {
		finish, err := b.Assign(s, nil, false)
		if err == nil {
			finish(true)
		}
		return err
	}
	first := bare("a", 30007)
	if err := take(first); err != nil || first.Spec.Ports[0].NodePort != 30007 || first.Spec.Ports[1].NodePort != 0 {
		t.Fatalf("ports %v, %v", first.Spec.Ports, err)
	}
	for _, s := range []*corev1.Service{bare("b", 30007), service("c", corev1.ServiceTypeNodePort, corev1.ServicePort{Port: 80, NodePort: 30007})} {
		if err := take(s); err == nil || !strings.Contains(err.Error(), ErrTakenPort.Error()) {
			t.Errorf("%s has a port of another's too: %v", s.Name, err)
		}
	}
	if err := take(bare("d", 29000)); err == nil || !strings.Contains(err.Error(), "not in the valid range") {
		t.Errorf("a port out of the range is given: %v", err)
	}
	b.Release(first)
	if err := take(bare("b", 30007)); err != nil {
		t.Errorf("a port that was given back: %v", err)
	}
}

// TestSeveralRanges: addresses come from each range, the first's before the others'; overlapping ones share what is taken; a
// range that goes takes nothing from those who have its addresses, and what an IPAddress reserves is given to nobody.
func TestSeveralRanges(t *testing.T) {
	b := book(t, "10.0.0.0/30", [2]int{})
	give := func() (string, error) {
		s := service("a", corev1.ServiceTypeClusterIP)
		finish, err := b.Assign(s, nil, false)
		if err == nil {
			finish(true)
		}
		return s.Spec.ClusterIP, err
	}
	for range 2 {
		if ip, err := give(); err != nil || !strings.HasPrefix(ip, "10.0.0.") {
			t.Fatalf("%s, %v", ip, err)
		}
	}
	if _, err := give(); err == nil || !strings.Contains(err.Error(), "no address of 10.0.0.0/30 is free") || !strings.Contains(err.Error(), "ServiceCIDR") {
		t.Errorf("a range that is full: %v", err)
	}
	set := func(name string, prefixes ...string) {
		t.Helper()
		var list []netip.Prefix
		for _, p := range prefixes {
			list = append(list, netip.MustParsePrefix(p))
		}
		if err := b.SetRange(name, list...); err != nil {
			t.Fatal(err)
		}
	}
	set("more", "10.1.0.0/30", "fd00::/120")
	set("over", "10.1.0.0/29")
	set(servicerange.Own, "10.9.0.0/16")
	if err := b.Reserve(netip.MustParseAddr("10.1.0.1")); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for range 5 {
		ip, err := give()
		if err != nil || got[ip] || !strings.HasPrefix(ip, "10.1.0.") || ip == "10.1.0.1" {
			t.Fatalf("%q after %v: %v", ip, got, err)
		}
		got[ip] = true
	}
	if _, err := give(); err == nil {
		t.Error("an address too many")
	}
	if err := b.Reserve(netip.MustParseAddr("10.1.0.2")); !errors.Is(err, ErrOfService) {
		t.Errorf("a service's address is reserved: %v", err)
	}
	set("over")
	set("more")
	asked := service("b", corev1.ServiceTypeClusterIP)
	asked.Spec.ClusterIP, asked.Spec.ClusterIPs = "10.1.0.6", []string{"10.1.0.6"}
	if _, err := b.Assign(asked, nil, false); err == nil || !strings.Contains(err.Error(), "not in the valid range. The range of valid IPs is 10.0.0.0/30") {
		t.Errorf("an address of a range that is gone: %v", err)
	}
	set("again", "10.1.0.0/29")
	if ip, err := give(); err == nil {
		t.Errorf("%s is given twice, because its range was away", ip)
	}
	b.Unreserve(netip.MustParseAddr("10.1.0.1"))
	if ip, err := give(); err != nil || ip != "10.1.0.1" {
		t.Errorf("what was reserved: %s, %v", ip, err)
	}
	if err := b.SetRange("tiny", netip.MustParsePrefix("10.2.0.0/32")); err == nil {
		t.Error("a range of one address is taken")
	}
}
