package nodelife

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"pgregory.net/rapid"

	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
)

// TestRangesNeverOverlap lets nodes come and go: no two have overlapping ranges, all lie within
// the cluster's, none ever changes, and a node goes without only while all are taken.
func TestRangesNeverOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(20, 26).Draw(t, "cluster bits")
		cfg := Config{PodRange: netip.PrefixFrom(netip.MustParseAddr("10.244.0.0"), bits), NodeBits: bits + rapid.IntRange(0, 3).Draw(t, "node bits")}
		if rapid.Bool().Draw(t, "two families") {
			cfg.PodRange6 = netip.PrefixFrom(netip.MustParseAddr("fd00:244::"), rapid.IntRange(40, 104).Draw(t, "IPv6 bits"))
			cfg.First6 = rapid.Bool().Draw(t, "IPv6 first")
		}
		ctl := ranges(cfg)
		v := view.New(ctl.Indexes...)
		given := map[string]string{}
		revision := uint64(0)
		apply := func(kind watch.EventType, n *corev1.Node) {
			revision++
			v.Apply(view.Event{Type: kind, Object: n, Revision: revision})
		}
		t.Repeat(map[string]func(*rapid.T){
			"come": func(t *rapid.T) {
				name := fmt.Sprintf("n%d", rapid.IntRange(0, 12).Draw(t, "node"))
				if _, ok := v.Get(resource.Nodes, "", name); !ok {
					apply(watch.Added, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(fmt.Sprint(revision))}})
				}
			},
			"go": func(t *rapid.T) {
				name := fmt.Sprintf("n%d", rapid.IntRange(0, 12).Draw(t, "node"))
				if o, ok := v.Get(resource.Nodes, "", name); ok {
					apply(watch.Deleted, o.(*corev1.Node))
					delete(given, name)
				}
			},
			"plan": func(t *rapid.T) {
				for _, a := range ctl.Plan(plan.Input{Reader: v}).Actions {
					n := a.(plan.Update).Object.(*corev1.Node)
					if given[n.Name] != "" {
						t.Fatalf("%s had %s and is given %s", n.Name, given[n.Name], n.Spec.PodCIDR)
					}
					given[n.Name] = cfg.both(t, n)
					apply(watch.Modified, n)
				}
				if waiting := len(v.List(resource.Nodes, "")) - len(given); waiting > 0 && len(given) < 1<<(cfg.NodeBits-bits) {
					t.Fatalf("%d nodes wait though only %d ranges are taken", waiting, len(given))
				}
			},
			"": func(t *rapid.T) {
				var all []netip.Prefix
				for name, cidr := range given {
					p, err := netip.ParsePrefix(cidr)
					if err != nil || p.Bits() != cfg.NodeBits || !cfg.PodRange.Overlaps(p) || p.Masked() != p {
						t.Fatalf("%s is given %s (%v)", name, cidr, err)
					}
					for _, other := range all {
						if p.Overlaps(other) {
							t.Fatalf("%s and %s overlap", p, other)
						}
					}
					all = append(all, p)
				}
			},
		})
	})
}

func TestAfter(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.0/24": "10.0.1.0", "10.0.255.0/24": "10.1.0.0", "10.0.0.128/25": "10.0.1.0", "10.255.255.255/32": "11.0.0.0",
		"255.255.255.0/24": "invalid IP", "0.0.0.0/0": "invalid IP", "fd00::/64": "fd00:0:0:1::", "fd00:0:0:ffff::/64": "fd00:0:1::",
	} {
		if got := after(netip.MustParsePrefix(in)).String(); got != want {
			t.Errorf("after %s: %s, want %s", in, got, want)
		}
	}
}

func TestTolerates(t *testing.T) {
	five, none, less := int64(5), int64(0), int64(-1)
	taint := corev1.Taint{Key: "k", Value: "v", Effect: corev1.TaintEffectNoExecute}
	for _, tt := range []struct {
		name string
		tol  []corev1.Toleration
		want string
	}{
		{"none", nil, "0s false false"},
		{"other key", []corev1.Toleration{{Key: "x", Operator: "Exists"}}, "0s false false"},
		{"other value", []corev1.Toleration{{Key: "k", Value: "x"}}, "0s false false"},
		{"other effect", []corev1.Toleration{{Key: "k", Operator: "Exists", Effect: "NoSchedule"}}, "0s false false"},
		{"equal", []corev1.Toleration{{Key: "k", Value: "v"}}, "0s true true"},
		{"exists", []corev1.Toleration{{Key: "k", Operator: "Exists"}}, "0s true true"},
		{"all", []corev1.Toleration{{Operator: "Exists"}}, "0s true true"},
		{"five", []corev1.Toleration{{Key: "k", Operator: "Exists", TolerationSeconds: &five}}, "5s false true"},
		{"zero", []corev1.Toleration{{Key: "k", Operator: "Exists", TolerationSeconds: &none}}, "0s false true"},
		{"negative is zero", []corev1.Toleration{{Key: "k", Operator: "Exists", TolerationSeconds: &less}}, "0s false true"},
		{"shortest", []corev1.Toleration{{Key: "k", Operator: "Exists", TolerationSeconds: &five}, {Operator: "Exists"}}, "5s false true"},
	} {
		d, forever, ok := tolerates(tt.tol, taint)
		if got := fmt.Sprint(d, forever, ok); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// both checks that a node has a range of each family of the cluster, in the order of the families, and notes the IPv6 one; it
// returns the IPv4 one.
func (cfg Config) both(t *rapid.T, n *corev1.Node) string {
	if !cfg.PodRange6.IsValid() {
		if len(n.Spec.PodCIDRs) != 1 {
			t.Fatalf("%s has %v", n.Name, n.Spec.PodCIDRs)
		}
		return n.Spec.PodCIDR
	}
	if len(n.Spec.PodCIDRs) != 2 || n.Spec.PodCIDR != n.Spec.PodCIDRs[0] {
		t.Fatalf("%s has %s, %v", n.Name, n.Spec.PodCIDR, n.Spec.PodCIDRs)
	}
	four, six := netip.MustParsePrefix(n.Spec.PodCIDRs[0]), netip.MustParsePrefix(n.Spec.PodCIDRs[1])
	if cfg.First6 {
		four, six = six, four
	}
	if !four.Addr().Is4() || !cfg.PodRange6.Contains(six.Addr()) || six.Masked() != six || 128-six.Bits() < 32-four.Bits() {
		t.Fatalf("%s has %v of %s", n.Name, n.Spec.PodCIDRs, cfg.PodRange6)
	}
	return four.String()
}

// TestBeside: parts of an IPv4 range have parts of the IPv6 one that do not overlap.
func TestBeside(t *testing.T) {
	cfg, seen := Config{}, map[netip.Prefix]bool{}
	whole, whole6 := netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/56")
	for i := range 256 {
		p := cfg.beside(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24), whole, whole6)
		if p.Bits() != 64 || !whole6.Contains(p.Addr()) || p.Masked() != p || seen[p] {
			t.Fatalf("part %d is %s", i, p)
		}
		seen[p] = true
	}
}
