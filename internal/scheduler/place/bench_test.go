package place

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"coracle/internal/object"
)

// sizes are the clusters measured.
var sizes = []int{100, 1000, 5000}

// cluster is nodes in three zones, with some other workload's pods on each.
func cluster(nodes, podsEach int) (*State, object.Reader) {
	s, r := world()
	for i := range nodes {
		s.SetNode(node(fmt.Sprint("n", i), label("zone", fmt.Sprint(i%3)), func(n *corev1.Node) {
			n.Status.Allocatable = corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("100000"), corev1.ResourceMemory: resource.MustParse("100000Gi"),
				corev1.ResourcePods: resource.MustParse("100000"),
			}
		}))
		for j := range podsEach {
			p := pod(fmt.Sprintf("there-%d-%d", i, j), requests("100m", "100Mi"), func(p *corev1.Pod) {
				p.Labels = map[string]string{"app": fmt.Sprint("app", j)}
				owned(p, types.UID(fmt.Sprint("app", j)))
			})
			s.AddPod(s.NewPod(p), fmt.Sprint("n", i))
		}
	}
	return s, r
}

func anyway(key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		spreadOver(key, 1, nil)(p)
		p.Spec.TopologySpreadConstraints[0].WhenUnsatisfiable = corev1.ScheduleAnyway
	}
}

// BenchmarkPlace measures one more pod of a workload: working it out, deciding and counting it.
// When a workload fits no more, or has as many pods as half the nodes, its pods go, uncounted.
func BenchmarkPlace(b *testing.B) {
	for _, kind := range []struct {
		name string
		edit func(*corev1.Pod, int)
	}{
		{"plain", func(*corev1.Pod, int) {}},
		{"mixed", func(p *corev1.Pod, i int) { requests(fmt.Sprintf("%dm", 10+i%20*10), "10Mi")(p) }},
		{"zone-spread", func(p *corev1.Pod, _ int) { spreadOver("zone", 1, nil)(p) }},
		{"zone-spread-anyway", func(p *corev1.Pod, _ int) { anyway("zone")(p) }},
		{"host-spread", func(p *corev1.Pod, _ int) { spreadOver(corev1.LabelHostname, 1, nil)(p) }},
		{"host-spread-anyway", func(p *corev1.Pod, _ int) { anyway(corev1.LabelHostname)(p) }},
		{"host-anti", func(p *corev1.Pod, _ int) { antiAffinity(corev1.LabelHostname)(p) }},
		{"zone-affinity", func(p *corev1.Pod, _ int) { affinity("zone")(p) }},
	} {
		for _, nodes := range sizes {
			for _, each := range []int{0, 10} {
				b.Run(fmt.Sprintf("%s/nodes=%d/pods=%d", kind.name, nodes, each), func(b *testing.B) {
					s, r := cluster(nodes, each)
					var placed []types.UID
					one := func(i int) {
						obj := pod(fmt.Sprint("p", i), requests("10m", "1Mi"), func(p *corev1.Pod) { owned(p, "rs") })
						kind.edit(obj, i)
						p := s.NewPod(obj)
						d := s.Place(p, r, "")
						if d.Node == "" {
							b.Fatal(d.Message())
						}
						s.AddPod(p, d.Node)
						placed = append(placed, p.UID)
					}
					for i := range 40 {
						one(-1 - i) // the first of each sort asks all nodes, once
					}
					b.ReportAllocs()
					i := 0
					for b.Loop() {
						if len(placed) > nodes/2 {
							b.StopTimer()
							for _, uid := range placed {
								s.RemovePod(uid)
							}
							placed = placed[:0]
							one(0)
							b.StartTimer()
						}
						i++
						one(i)
					}
				})
			}
		}
	}
}

// BenchmarkPreempt measures looking for victims where every node is full of less important pods.
func BenchmarkPreempt(b *testing.B) {
	for _, nodes := range sizes {
		for _, edit := range []struct {
			name string
			edit func(*corev1.Pod)
		}{{"plain", func(*corev1.Pod) {}}, {"zone-spread", spreadOver("zone", 5, nil)}} {
			b.Run(fmt.Sprintf("%s/nodes=%d", edit.name, nodes), func(b *testing.B) {
				s, r := world()
				for i := range nodes {
					s.SetNode(node(fmt.Sprint("n", i), label("zone", fmt.Sprint(i%3))))
					for j := range 10 {
						s.AddPod(s.NewPod(pod(fmt.Sprintf("p-%d-%d", i, j), requests("400m", "100Mi"))), fmt.Sprint("n", i))
					}
				}
				p := s.NewPod(pod("vip", requests("400m", "100Mi"), priority(100), edit.edit))
				b.ReportAllocs()
				for b.Loop() {
					if s.Place(p, r, "").Node != "" || s.Preempt(p, r) == nil {
						b.Fatal("no need to preempt, or no way")
					}
				}
			})
		}
	}
}

// BenchmarkRefuse measures refusing one of many alike pods when nothing has changed, and when
// something has.
func BenchmarkRefuse(b *testing.B) {
	for _, nodes := range sizes {
		for _, changes := range []bool{false, true} {
			b.Run(fmt.Sprintf("nodes=%d/changes=%t", nodes, changes), func(b *testing.B) {
				s, r := cluster(nodes, 10)
				p := s.NewPod(pod("p", requests("100000", "1Gi")))
				p.Object.Spec.Containers[0].Resources = corev1.ResourceRequirements{}
				s.Place(p, r, "")
				tiny := s.NewPod(pod("tiny", priority(0)))
				b.ReportAllocs()
				for b.Loop() {
					if changes {
						s.AddPod(tiny, "n0")
					}
					if s.Place(p, r, "").Node != "" || s.Preempt(p, r) != nil {
						b.Fatal("there is room")
					}
				}
			})
		}
	}
}

// BenchmarkMemory reports what the snapshot of 100,000 pods on 5,000 nodes holds, the objects aside.
func BenchmarkMemory(b *testing.B) {
	const nodes, pods, templates = 5000, 100_000, 100
	var objects []*corev1.Pod
	for i := range pods {
		objects = append(objects, pod(fmt.Sprint("p", i), requests("10m", "1Mi"), func(p *corev1.Pod) {
			p.Labels = map[string]string{"app": fmt.Sprint("app", i%templates), "pod-template-hash": fmt.Sprint(i % templates)}
			owned(p, types.UID(fmt.Sprintf("%036d", i%templates)))
		}))
	}
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for b.Loop() {
		s, _ := cluster(nodes, 0)
		before := heap()
		for i, obj := range objects {
			s.AddPod(s.NewPod(obj), fmt.Sprint("n", i%nodes))
		}
		b.ReportMetric(float64(heap()-before)/pods, "B/pod")
		runtime.KeepAlive(s)
	}
	runtime.KeepAlive(objects)
}
