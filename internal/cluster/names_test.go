package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	names "coracle/internal/dns"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// nowhere is a node whose pods only tests speak for.
const nowhere = "nowhere"

// BenchmarkAddressToSlice is what the server does from the acceptance of a pod's address until a watch shows it in a slice,
// in a service of 250 pods: the time that passes, and the processor's time for each pod.
func BenchmarkAddressToSlice(b *testing.B) {
	addressTo(b, func(s *discoveryv1.EndpointSlice, _, ip string) bool {
		return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return e.Addresses[0] == ip })
	})
}

// BenchmarkAddressToName is the same until a name server that is told of the slice answers with the address: all of the way but the
// line between a server and an agent.
func BenchmarkAddressToName(b *testing.B) {
	zone := names.New(names.Config{Domain: "cluster.local"})
	zone.SetService(late())
	out := make([]byte, 0, 512)
	addressTo(b, func(s *discoveryv1.EndpointSlice, pod, ip string) bool {
		zone.SetSlice(s)
		raw, err := new(dns.Msg).SetQuestion(pod+".late.default.svc.cluster.local.", dns.TypeA).Pack()
		if err != nil {
			b.Fatal(err)
		}
		reply, _ := zone.Answer(raw, nil, 0, out)
		m := new(dns.Msg)
		if err := m.Unpack(reply); err != nil {
			b.Fatal(err)
		}
		return len(m.Answer) == 1 && m.Answer[0].(*dns.A).A.String() == ip
	})
}

func late() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "late"},
		Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone, PublishNotReadyAddresses: true, Selector: map[string]string{"app": "late"},
		},
	}
}

// addressTo measures until a watch has shown a slice by which a pod is found. Besides times it counts how often
// controllers decided and wrote for each address.
func addressTo(b *testing.B, found func(s *discoveryv1.EndpointSlice, pod, ip string) bool) {
	const pods = 250
	w := start(b, 0)
	ctx := b.Context()
	w.make(late())
	w.make(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nowhere}})
	watching, err := w.Watch(ctx, resource.EndpointSlices, client.ListOptions{Namespace: "default"})
	if err != nil {
		b.Fatal(err)
	}
	defer watching.Stop()
	until := func(pod, ip string) {
		for e := range watching.ResultChan() {
			if s, ok := e.Object.(*discoveryv1.EndpointSlice); ok && found(s, pod, ip) {
				return
			}
		}
		b.Fatalf("%s is not found at %s", pod, ip)
	}
	var passes, writes int64
	var took []time.Duration
	var used time.Duration
	for round := 0; b.Loop(); round++ {
		b.StopTimer()
		if round > 0 && round%pods == 0 {
			for i := range pods {
				w.remove(fmt.Sprintf("late-%d", round-pods+i))
			}
		}
		name, ip := fmt.Sprintf("late-%d", round), fmt.Sprintf("198.18.%d.%d", round/250%250, round%250+1)
		pod := w.make(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": "late"}},
			Spec:       corev1.PodSpec{NodeName: nowhere, Hostname: name, Subdomain: "late", Containers: []corev1.Container{{Name: "main", Image: "none"}}},
		}).(*corev1.Pod).DeepCopy()
		pod.Status.Phase, pod.Status.PodIP, pod.Status.PodIPs = corev1.PodRunning, ip, []corev1.PodIP{{IP: ip}}
		w.until("nothing to do", w.loop.Idle)
		b.StartTimer()
		before, decided, written := processorTime(b), w.loop.Counters.Passes.Load(), w.loop.Counters.Actions.Load()
		if _, err := w.Update(ctx, pod, "status"); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		until(name, ip)
		took = append(took, time.Since(began))
		b.StopTimer()
		w.until("nothing to do", w.loop.Idle)
		used += processorTime(b) - before
		passes += w.loop.Counters.Passes.Load() - decided
		writes += w.loop.Counters.Actions.Load() - written
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(used.Microseconds())/float64(len(took)), "cpu-µs/pod")
	b.ReportMetric(float64(passes)/float64(len(took)), "decisions/pod")
	b.ReportMetric(float64(writes)/float64(len(took)), "writes/pod")
}

func processorTime(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (w *whole) remove(pod string) {
	w.t.Helper()
	now := int64(0)
	o, err := w.Get(context.Background(), resource.Pods, "default", pod)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.Delete(context.Background(), object.RefOf(o), metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		w.t.Fatal(err)
	}
}
