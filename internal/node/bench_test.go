package node

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/client"
	"coracle/internal/node/cri"
	crifake "coracle/internal/node/cri/fake"
	"coracle/internal/object"
	"coracle/internal/resource"
)

// BenchmarkPodLife measures what the agent itself takes of a pod's life, from creation to Ready
// and from deletion to gone, with a runtime and an API that take no time.
func BenchmarkPodLife(b *testing.B) {
	cluster := clusterOf("real")
	cfg := Config{
		Name: "one", Client: cluster, RuntimeSocket: "-", Dir: b.TempDir(), VolumeRoot: b.TempDir(),
	}
	if err := cfg.complete(); err != nil {
		b.Fatal(err)
	}
	runtime := crifake.New(images)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- run(ctx, cfg, &cri.Client{Runtime: runtime, Images: runtime}) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	w, err := cluster.Watch(ctx, resource.Pods, client.ListOptions{Revision: "1"})
	if err != nil {
		b.Fatal(err)
	}
	until := func(name string, is func(watch.Event, *corev1.Pod) bool) {
		for ev := range w.ResultChan() {
			if pod, ok := ev.Object.(*corev1.Pod); ok && pod.Name == name && is(ev, pod) {
				return
			}
		}
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		name := fmt.Sprint("pod", n)
		zero := int64(1)
		_, err := cluster.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{
			NodeName: "one", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &zero, Containers: []corev1.Container{{Name: "main", Image: "server:1"}},
		}})
		if err != nil {
			b.Fatal(err)
		}
		until(name, func(_ watch.Event, p *corev1.Pod) bool {
			return condition(p, corev1.PodReady).Status == corev1.ConditionTrue
		})
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
		if _, err := cluster.Delete(ctx, object.RefOf(pod), metav1.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
		until(name, func(ev watch.Event, _ *corev1.Pod) bool { return ev.Type == watch.Deleted })
	}
}
