package services

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"coracle/internal/object"
	"coracle/internal/resource"
)

// fill replaces the snapshot by services with so many endpoints each, in slices of 25 as a cluster has them.
func fill(w *world, services, endpoints int) {
	var all, slices []object.Object
	for i := range services {
		name := fmt.Sprintf("s-%d", i)
		ip := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String()
		all = append(all, service(name, ip, port("http", corev1.ProtocolTCP, 80)))
		var sl *discoveryv1.EndpointSlice
		for j := range endpoints {
			if j%25 == 0 {
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
	for _, list := range [][]object.Object{all, slices} {
		for _, o := range list {
			o.SetResourceVersion(fmt.Sprint(w.revision + 1))
		}
	}
	w.revision++
	w.snapshot.Replace(resource.Services, all, w.revision)
	w.revision++
	w.snapshot.Replace(resource.EndpointSlices, slices, w.revision)
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

// BenchmarkOneEndpoint is one endpoint changed among those of so many services, from the snapshot to the kernel's commit.
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

// BenchmarkMemory is what the router keeps of 10,000 services with two endpoints each, snapshot and all.
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
		snapshot := heap()
		w.settle()
		for range b.N {
			b.ReportMetric(snapshot-before, "picture-MB")
			b.ReportMetric(heap()-before, "all-MB")
		}
	})
}

// BenchmarkFirstPacket is what routing adds to the way of a connection's first packet from a pod to an endpoint, among so many
// services: the kernel carries a datagram there within the call that sends it, so that is what is measured, in turn with
// one sent to the endpoint itself.
func BenchmarkFirstPacket(b *testing.B) {
	for _, n := range []int{100, 30000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			inMachine(b, func(w *world) {
				w.cfg.Log = slog.New(slog.DiscardHandler)
				_, ipA := w.sandbox("a")
				client, _ := w.sandbox("client")
				fill(w, n, 2)
				w.put(service("dns", "10.96.255.1", port("", corev1.ProtocolUDP, 53)), slice("dns", "", corev1.ProtocolUDP, 8053, ipA))
				w.settle()
				direct := &unix.SockaddrInet4{Addr: ipA.As4(), Port: 8053}
				service := &unix.SockaddrInet4{Addr: [4]byte{10, 96, 255, 1}, Port: 53}
				var took [2][]time.Duration
				b.ResetTimer()
				err := w.in(client, func() error {
					for range b.N {
						for i, to := range []*unix.SockaddrInet4{direct, service} {
							d, err := firstPacket(to)
							if err != nil {
								return err
							}
							took[i] = append(took[i], d)
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
				for i := range took {
					slices.Sort(took[i])
				}
				us := func(i, percent int) float64 { return float64(took[i][len(took[i])*percent/100].Nanoseconds()) / 1000 }
				b.ReportMetric(us(0, 50), "direct-p50-us")
				b.ReportMetric(us(1, 50), "service-p50-us")
				b.ReportMetric(us(1, 50)-us(0, 50), "added-p50-us")
				b.ReportMetric(us(1, 10)-us(0, 10), "added-p10-us")
			})
		})
	}
}

// firstPacket sends a datagram from a socket of its own.
func firstPacket(to *unix.SockaddrInet4) (time.Duration, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var packet [16]byte
	begin := time.Now()
	err = unix.Sendto(fd, packet[:], 0, to)
	return time.Since(begin), err
}
