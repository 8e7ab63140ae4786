package services

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"coracle/internal/plan"
	"coracle/internal/resource"
)

// fill replaces the picture by services with so many endpoints each, in slices of a hundred as a cluster has them.
func fill(w *world, services, endpoints int) {
	var all, slices []plan.Object
	for i := range services {
		name := fmt.Sprintf("s-%d", i)
		ip := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String()
		all = append(all, service(name, ip, port("http", corev1.ProtocolTCP, 80)))
		var sl *discoveryv1.EndpointSlice
		for j := range endpoints {
			if j%100 == 0 {
				sl = slice(name, "http", corev1.ProtocolTCP, 8080)
				sl.Name = fmt.Sprint(sl.Name, j)
				slices = append(slices, sl)
			}
			yes, node := true, nodeName
			sl.Endpoints = append(sl.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{address(i, j).String()}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}, NodeName: &node,
			})
		}
	}
	for _, list := range [][]plan.Object{all, slices} {
		for _, o := range list {
			o.SetResourceVersion(fmt.Sprint(w.revision + 1))
		}
	}
	w.revision++
	w.picture.Replace(resource.Services, all, w.revision)
	w.revision++
	w.picture.Replace(resource.EndpointSlices, slices, w.revision)
}

// BenchmarkFromNothing is the whole of a cluster's services written by an agent that finds no table.
func BenchmarkFromNothing(b *testing.B) {
	for _, size := range [][2]int{{5000, 50}, {45000, 2}} {
		b.Run(fmt.Sprintf("services=%d/endpoints=%d", size[0], size[1]), func(b *testing.B) {
			inMachine(b, func(w *world) {
				w.stop()
				w.cfg.Log = slog.New(slog.DiscardHandler)
				fill(w, size[0], size[1])
				for range b.N {
					b.StopTimer()
					if err := Remove(w.cfg.Table); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
					w.start()
					w.settle()
					w.stop()
				}
				w.start()
			})
		})
	}
}

// BenchmarkOneEndpoint is one endpoint changed among those of so many services, from the picture to the kernel's commit.
func BenchmarkOneEndpoint(b *testing.B) {
	for _, n := range []int{100, 45000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			inMachine(b, func(w *world) {
				fill(w, n, 2)
				w.settle()
				var took []time.Duration
				for i := range b.N {
					begin := time.Now()
					w.put(slice("s-7", "http", corev1.ProtocolTCP, 8080, address(7, 0), address(9999, i%200)))
					w.settle()
					took = append(took, time.Since(begin))
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
			})
		})
	}
}

// BenchmarkMemory is what the router keeps of 10,000 services with two endpoints each, picture and all.
func BenchmarkMemory(b *testing.B) {
	inMachine(b, func(w *world) {
		heap := func() float64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&m)
			return float64(m.HeapAlloc) / (1 << 20)
		}
		before := heap()
		fill(w, 10000, 2)
		picture := heap()
		w.settle()
		for range b.N {
			b.ReportMetric(picture-before, "picture-MB")
			b.ReportMetric(heap()-before, "all-MB")
		}
	})
}
