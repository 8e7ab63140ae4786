package place

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/plan"
)

// benchState has nodes in three zones, with so many pods on each.
func benchState(nodes, each int, various bool) *State {
	s := NewState()
	for i := range nodes {
		cpu := "100000"
		if various {
			cpu = fmt.Sprint(1000 * (1 + i%17))
		}
		s.SetNode(node(fmt.Sprint("n", i), label("zone", fmt.Sprint(i%3)), func(n *corev1.Node) {
			n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("100000")
			n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse(cpu)
		}))
		for j := range each {
			name := fmt.Sprint("old-", i, "-", j)
			s.AddPod(NewPod(pod(name, requests("10m", "1Mi"), func(p *corev1.Pod) {
				owned(p, "old")
				p.Labels["app"] = "old"
			})), fmt.Sprint("n", i))
		}
	}
	return s
}

func BenchmarkPlace(b *testing.B) {
	plain := func(*corev1.Pod) {}
	for _, kind := range []struct {
		name    string
		edit    func(*corev1.Pod)
		various bool
	}{
		{"plain", plain, false}, {"various", plain, true}, {"spread-zone", spreadOver("zone", 1, nil), false},
		{"spread-host", spreadOver(corev1.LabelHostname, 1, nil), false}, {"anti-host", antiAffinity(corev1.LabelHostname), false},
		{"anti-host-various", antiAffinity(corev1.LabelHostname), true}, {"affinity-zone", affinity("zone"), false},
	} {
		for _, nodes := range []int{100, 1000, 5000} {
			for _, each := range []int{0, 10} {
				b.Run(fmt.Sprintf("%s/nodes=%d/pods=%d", kind.name, nodes, each), func(b *testing.B) {
					s, r := benchState(nodes, each, kind.various), noObjects()
					b.ReportAllocs()
					i, placed := 0, []types.UID{}
					for b.Loop() {
						i++
						p := NewPod(pod(fmt.Sprint("p", i), requests("10m", "1Mi"), kind.edit, func(p *corev1.Pod) { owned(p, "rs") }))
						d := s.Place(p, r, "")
						if d.Node == "" {
							for _, uid := range placed {
								s.RemovePod(uid)
							}
							placed = placed[:0]
							continue
						}
						s.AddPod(p, d.Node)
						placed = append(placed, p.UID)
					}
				})
			}
		}
	}
}

// BenchmarkRefuse asks about 10,000 alike pods that nothing can take.
func BenchmarkRefuse(b *testing.B) {
	for _, kind := range []struct {
		name string
		edit func(*corev1.Pod)
	}{{"plain", requests("200000", "1Mi")}, {"spread", func(p *corev1.Pod) { spreadOver("rack", 1, nil)(p) }}} {
		b.Run(kind.name, func(b *testing.B) {
			s, r := benchState(5000, 1, false), noObjects()
			var pods []*Pod
			for i := range 10000 {
				pods = append(pods, NewPod(pod(fmt.Sprint("p", i), kind.edit, priority(10))))
			}
			b.ReportAllocs()
			for b.Loop() {
				for _, p := range pods {
					if d := s.Place(p, r, ""); d.Node != "" || s.Preempt(p, r) != nil {
						b.Fatal("placed")
					}
				}
			}
		})
	}
}

func BenchmarkPreempt(b *testing.B) {
	for _, nodes := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			s, r := benchState(nodes, 10, false), noObjects()
			p := NewPod(pod("p", requests("99950", "1Mi"), priority(10)))
			b.ReportAllocs()
			for b.Loop() {
				if s.Preempt(p, r) == nil {
					b.Fatal("no room found")
				}
			}
		})
	}
}

// BenchmarkMemory reports what a pod costs in the state, beside its API object.
func BenchmarkMemory(b *testing.B) {
	const nodes, each = 5000, 20
	var objects []*corev1.Pod
	for i := range nodes * each {
		objects = append(objects, pod(fmt.Sprint("p", i), requests("10m", "1Mi"), func(p *corev1.Pod) { owned(p, "rs") }))
	}
	for b.Loop() {
		s := benchState(nodes, 0, false)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i, obj := range objects {
			s.AddPod(NewPod(obj), fmt.Sprint("n", i%nodes))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(nodes*each), "B/pod")
		runtime.KeepAlive(s)
	}
}

func noObjects() plan.Reader {
	_, r := world()
	return r
}
