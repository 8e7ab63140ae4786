package fleet

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

// TestAddresses lets addresses be picked and given back: none is out twice, all lie within the
// range, and none is refused while one is free.
func TestAddresses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cidr := netip.MustParsePrefix(rapid.SampledFrom([]string{
			"10.0.0.0/24", "10.0.0.248/29", "10.0.255.128/25", "10.0.0.0/30", "10.0.0.0/31", "10.0.0.0/32", "10.1.0.0/15", "fd00::/64", "fd00::8/125",
		}).Draw(t, "range"))
		a := newAddresses(&corev1.Node{Spec: corev1.NodeSpec{PodCIDR: cidr.String()}})
		free := 1<<min(cidr.Addr().BitLen()-cidr.Bits(), 16) - 3
		out := map[netip.Addr]bool{}
		for range rapid.IntRange(0, 400).Draw(t, "steps") {
			if len(out) > 0 && rapid.IntRange(0, 2).Draw(t, "what") == 0 {
				for addr := range out {
					a.give(addr)
					delete(out, addr)
					break
				}
				continue
			}
			addr, ok := a.pick()
			if want := len(out) < free; ok != want {
				t.Fatalf("picked %v with %d of %d out", ok, len(out), free)
			}
			if !ok {
				continue
			}
			host := cidr.Addr().Next()
			if out[addr] || !cidr.Contains(addr) || addr == cidr.Addr() || addr == host {
				t.Fatalf("picked %s of %s", addr, cidr)
			}
			out[addr] = true
		}
	})
}

// TestStrangeAddresses are let be: a pod may tell of one that is not of its node's range.
func TestStrangeAddresses(t *testing.T) {
	a := newAddresses(&corev1.Node{Spec: corev1.NodeSpec{PodCIDR: "10.0.1.0/24"}})
	for _, addr := range []string{"10.0.0.255", "10.0.2.0", "192.168.0.1", "fd00::1", "::ffff:10.0.1.7"} {
		a.take(netip.MustParseAddr(addr))
		a.give(netip.MustParseAddr(addr))
	}
	if len(a.taken) != 0 {
		t.Errorf("taken: %b", a.taken)
	}
	var none *addresses
	none.take(netip.MustParseAddr("10.0.0.1"))
	none.give(netip.MustParseAddr("10.0.0.1"))
	if newAddresses(&corev1.Node{}) != nil {
		t.Error("a node without a range has addresses")
	}
}
