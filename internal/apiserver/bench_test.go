package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"coracle/internal/client"
	"coracle/internal/object"
	"coracle/internal/pki"
	"coracle/internal/resource"
	"coracle/internal/store"
)

// clients is how many callers the figures in docs/design/0003 are for.
const clients = 32

func onDisk(b *testing.B) *cluster {
	b.Helper()
	return startOn(b, store.Config{Dir: b.TempDir()})
}

// send posts until b is done, from many goroutines.
func send(b *testing.B, c *cluster, request func(n int64) (method, path string, body []byte), want int) {
	b.Helper()
	var n atomic.Int64
	connections := make(chan *http.Client, clients)
	for range clients {
		connections <- c.as("admin", pki.MastersGroup)
	}
	b.SetParallelism(clients / 2)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		client := <-connections
		defer func() { connections <- client }()
		for pb.Next() {
			method, path, body := request(n.Add(1))
			req, err := http.NewRequest(method, c.url+path, bytes.NewReader(body))
			if err != nil {
				b.Error(err)
				return
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != want {
				b.Errorf("status %d", resp.StatusCode)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

func kibi(name string) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q},"data":{"k":%q}}`, name, strings.Repeat("x", 900))
}

func BenchmarkHTTPCreate(b *testing.B) {
	c := onDisk(b)
	send(b, c, func(n int64) (string, string, []byte) {
		return "POST", "/api/v1/namespaces/default/configmaps", kibi(fmt.Sprint("c", n))
	}, http.StatusCreated)
}

func BenchmarkHTTPGet(b *testing.B) {
	c := onDisk(b)
	c.post("/api/v1/namespaces/default/configmaps", string(kibi("c"))).want(201)
	send(b, c, func(int64) (string, string, []byte) {
		return "GET", "/api/v1/namespaces/default/configmaps/c", nil
	}, http.StatusOK)
}

// BenchmarkHTTPList lists 5,001 objects: whole, and as raw bytes.
func BenchmarkHTTPList(b *testing.B) {
	c := onDisk(b)
	i, ctx := c.Client(), context.Background()
	for n := range 5000 {
		m := configMap(fmt.Sprint("c", n), map[string]string{"k": strings.Repeat("x", 900)})
		if _, err := i.Create(ctx, m); err != nil {
			b.Fatal(err)
		}
	}
	far := c.remote("admin", pki.MastersGroup)
	b.Run("raw", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.get(configMaps).want(200)
		}
	})
	b.Run("objects", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if items, _, err := far.List(ctx, resource.ConfigMaps, client.ListOptions{Namespace: "default"}); err != nil || len(items) != 5000 {
				b.Fatal(len(items), err)
			}
		}
	})
	b.Run("local", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if items, _, err := i.List(ctx, resource.ConfigMaps, client.ListOptions{Namespace: "default"}); err != nil || len(items) != 5000 {
				b.Fatal(len(items), err)
			}
		}
	})
}

// BenchmarkHTTPStatusUpdate is what a node's report of a pod costs.
func BenchmarkHTTPStatusUpdate(b *testing.B) {
	c := onDisk(b)
	account(b, c)
	far := c.remote("admin", pki.MastersGroup)
	ctx := client.WithManager(context.Background(), "kubelet")
	made, err := far.Create(ctx, benchPod("p"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for round := 0; b.Loop(); round++ {
		next := made.(*corev1.Pod).DeepCopy()
		next.Status.Phase = corev1.PodRunning
		next.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: []corev1.ConditionStatus{"True", "False"}[round%2], LastTransitionTime: metav1.Now()}}
		if made, err = far.Update(ctx, next, "status"); err != nil {
			b.Fatal(err)
		}
	}
}

func benchPod(name string) *corev1.Pod {
	p := podNamed(name)
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80}}
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "1"}}
	isController := true
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "r", UID: "u", Controller: &isController}}
	return p
}

func BenchmarkLocalCreate(b *testing.B) {
	for _, goroutines := range []int{1, 32, 256} {
		b.Run(fmt.Sprint(goroutines), func(b *testing.B) {
			c := onDisk(b)
			account(b, c)
			i := c.Client()
			var n atomic.Int64
			b.SetParallelism(max(goroutines/2, 1))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				ctx := client.WithManager(context.Background(), "replicaset-controller")
				for pb.Next() {
					if _, err := i.Create(ctx, benchPod(fmt.Sprint("p", n.Add(1)))); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}

func BenchmarkLocalStatusUpdate(b *testing.B) {
	c := onDisk(b)
	account(b, c)
	i := c.Client()
	b.SetParallelism(16)
	b.ReportAllocs()
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		ctx := client.WithManager(context.Background(), "kubelet")
		made, err := i.Create(ctx, benchPod(fmt.Sprint("p", n.Add(1))))
		if err != nil {
			b.Error(err)
			return
		}
		for round := 0; pb.Next(); round++ {
			next := made.(*corev1.Pod).DeepCopy()
			next.Status.Phase = corev1.PodRunning
			next.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: []corev1.ConditionStatus{"True", "False"}[round%2], LastTransitionTime: metav1.Now()}}
			if made, err = i.Update(ctx, next, "status"); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkLocalGet(b *testing.B) {
	c := onDisk(b)
	i := c.Client()
	ctx := context.Background()
	made := must[client.Object](b)(i.Create(ctx, configMap("c", nil)))
	ref := object.RefOf(made)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := i.Get(ctx, ref.Resource, ref.Namespace, ref.Name); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStart is from nothing to the first answer of /readyz: keys, store and server.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		c := startOn(b, store.Config{Dir: b.TempDir()})
		c.get("/readyz").want(200)
		c.stop()
	}
}
