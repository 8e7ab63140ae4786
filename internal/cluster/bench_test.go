package cluster_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"coracle/internal/cluster"
	"coracle/internal/loop"
	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/view"
	"coracle/internal/workload"
)

// everyController is what a server runs.
func everyController() []plan.Controller {
	return append(cluster.Controllers(cluster.Config{RootCA: "PEM"}),
		workload.Controllers()...)
}

// BenchmarkPodChange is what one pod's status change costs before any decision: the snapshot of
// 10,000 pods takes it in, and every controller says whom it concerns.
func BenchmarkPodChange(b *testing.B) {
	controllers := everyController()
	v := view.New()
	for _, c := range controllers {
		v.AddIndexes(c.Indexes...)
	}
	core := loop.NewCore(controllers, 16)
	core.Start(v)
	yes := true
	pods := make([]object.Object, 10_000)
	for i := range pods {
		pods[i] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("ns-%d", i%100), Name: fmt.Sprintf("p%06d", i), UID: types.UID(fmt.Sprint(i)), Labels: map[string]string{"app": "web"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: fmt.Sprint(i / 100), UID: types.UID(fmt.Sprint("rs", i/100)), Controller: &yes}},
		}, Spec: corev1.PodSpec{NodeName: fmt.Sprint(i % 500)}}
	}
	v.Replace(resource.Pods, pods, 1)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		p := *pods[i%len(pods)].(*corev1.Pod)
		p.Status.Message = fmt.Sprint(i)
		ch := v.Apply(view.Event{Type: watch.Modified, Resource: resource.Pods, Object: &p, Revision: uint64(i + 2)})
		v.Read(func(r object.Reader) { core.Changed(r, ch, time.Time{}) })
	}
}
