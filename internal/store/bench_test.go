package store_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/scheme"
	"coracle/internal/store"
)

func protobufCodec() runtime.Codec {
	s := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	return scheme.Codecs.CodecForVersions(s, s, corev1.SchemeGroupVersion, runtime.InternalGroupVersioner)
}

func corePods() store.Resource {
	return store.Resource{
		Prefix: "/pods", Codec: protobufCodec(),
		New:     func() runtime.Object { return &corev1.Pod{} },
		NewList: func() runtime.Object { return &corev1.PodList{} },
		Index:   storage.IndexerFuncs{"spec.nodeName": func(o runtime.Object) string { return o.(*corev1.Pod).Spec.NodeName }},
	}
}

// benchPod is of the size of a Deployment's pod: about 1 KiB encoded.
func benchPod(i int) *corev1.Pod {
	yes := true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("counter-5d9c7b8f6-%06d", i), Namespace: "default", UID: types.UID(fmt.Sprintf("6f1c9a52-1d3c-4c59-9a1e-%012d", i)),
			GenerateName: "counter-5d9c7b8f6-", Labels: map[string]string{"app": "counter", "pod-template-hash": "5d9c7b8f6"},
			CreationTimestamp: metav1.Now(), Generation: 1,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "counter-5d9c7b8f6", UID: "c0ffee00-1d3c-4c59-9a1e-000000000000", Controller: &yes, BlockOwnerDeletion: &yes}},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "replicaset-controller", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", FieldsType: "FieldsV1",
				FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:metadata":{"f:generateName":{},"f:labels":{".":{},"f:app":{},"f:pod-template-hash":{}},"f:ownerReferences":{".":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"counter\"}":{".":{},"f:image":{},"f:name":{}}}}}`)}}},
		},
		Spec: corev1.PodSpec{
			NodeName: fmt.Sprint("node-", i%100), ServiceAccountName: "default", RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{{
				Name: "counter", Image: "counter:1.1", ImagePullPolicy: corev1.PullIfNotPresent,
				Env:          []corev1.EnvVar{{Name: "DATA", Value: "/data"}},
				Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
			}},
			Volumes:     []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
			Tolerations: []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute"}, {Key: "node.kubernetes.io/unreachable", Operator: "Exists", Effect: "NoExecute"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBurstable},
	}
}

func podKey(pod *corev1.Pod) string { return "/pods/" + pod.Namespace + "/" + pod.Name }

// inParallel runs n calls of fn on so many goroutines.
func inParallel(writers, n int, fn func(i int)) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				fn(i)
			}
		})
	}
	group.Wait()
}

func seed(b testing.TB, c *store.Collection, n int) {
	b.Helper()
	inParallel(256, n, func(i int) {
		pod := benchPod(i)
		if err := c.Create(context.Background(), podKey(pod), pod, nil, 0); err != nil {
			b.Error(err)
		}
	})
}

func BenchmarkCreatePod(b *testing.B) {
	for _, writers := range []int{1, 32, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			c := collection(b, openStore(b, store.Config{Dir: b.TempDir()}), corePods())
			pods := make([]*corev1.Pod, b.N)
			for i := range pods {
				pods[i] = benchPod(i)
			}
			b.ReportAllocs()
			b.ResetTimer()
			inParallel(writers, b.N, func(i int) {
				if err := c.Create(context.Background(), podKey(pods[i]), pods[i], &corev1.Pod{}, 0); err != nil {
					b.Error(err)
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
		})
	}
}

// BenchmarkCreateConfigMap is the write of 1 KiB that storage engines are compared by.
func BenchmarkCreateConfigMap(b *testing.B) {
	res := corePods()
	res.Prefix = "/configmaps"
	res.New = func() runtime.Object { return &corev1.ConfigMap{} }
	res.Index = nil
	value := make([]byte, 900)
	for i := range value {
		value[i] = 'a' + byte(i%26)
	}
	for _, writers := range []int{1, 32, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			c := collection(b, openStore(b, store.Config{Dir: b.TempDir()}), res)
			b.ReportAllocs()
			inParallel(writers, b.N, func(i int) {
				obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cm-%08d", i), Namespace: "default"}, Data: map[string]string{"v": string(value)}}
				if err := c.Create(context.Background(), "/configmaps/default/"+obj.Name, obj, &corev1.ConfigMap{}, 0); err != nil {
					b.Error(err)
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
		})
	}
}

func BenchmarkUpdateStatus(b *testing.B) {
	for _, writers := range []int{1, 32} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			c := collection(b, openStore(b, store.Config{Dir: b.TempDir()}), corePods())
			seed(b, c, 1000)
			b.ReportAllocs()
			b.ResetTimer()
			inParallel(writers, b.N, func(i int) {
				err := c.GuaranteedUpdate(context.Background(), podKey(benchPod(i%1000)), &corev1.Pod{}, false, nil,
					storage.SimpleUpdate(func(in runtime.Object) (runtime.Object, error) {
						in.(*corev1.Pod).Status.Message = fmt.Sprint(i)
						return in, nil
					}), nil)
				if err != nil {
					b.Error(err)
				}
			})
		})
	}
}

func BenchmarkGet(b *testing.B) {
	c := collection(b, openStore(b, store.Config{}), corePods())
	seed(b, c, 1000)
	key := podKey(benchPod(500))
	b.Run("copy", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := c.Get(context.Background(), key, storage.GetOptions{}, &corev1.Pod{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("shared", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Object(key); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkList5000(b *testing.B) {
	c := collection(b, openStore(b, store.Config{}), corePods())
	seed(b, c, 5000)
	opts := storage.ListOptions{Recursive: true, Predicate: storage.Everything}
	b.Run("copy", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := c.GetList(context.Background(), "/pods/default", opts, &corev1.PodList{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("shared", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := c.Objects(context.Background(), "/pods/default", opts); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("pages=500", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			opts := opts
			opts.Predicate.Limit = 500
			for {
				var list corev1.PodList
				if err := c.GetList(context.Background(), "/pods/default", opts, &list); err != nil {
					b.Fatal(err)
				}
				if opts.Predicate.Continue = list.Continue; list.Continue == "" {
					break
				}
			}
		}
	})
	b.Run("node", func(b *testing.B) {
		opts := opts
		opts.Predicate.Field = fields.OneTermEqualSelector("spec.nodeName", "node-7")
		opts.Predicate.GetAttrs = podAttrs
		b.ReportAllocs()
		for b.Loop() {
			if got, _, err := c.Objects(context.Background(), "/pods", opts); err != nil || len(got) != 50 {
				b.Fatal(len(got), err)
			}
		}
	})
}

func podAttrs(obj runtime.Object) (l labels.Set, f fields.Set, err error) {
	pod := obj.(*corev1.Pod)
	return pod.Labels, fields.Set{"metadata.name": pod.Name, "metadata.namespace": pod.Namespace, "spec.nodeName": pod.Spec.NodeName}, nil
}

// BenchmarkWatchFanOut is the cost of one write with so many watchers: all of everything, or each
// of one node of which one is concerned.
func BenchmarkWatchFanOut(b *testing.B) {
	for _, bench := range []struct {
		name     string
		watchers int
		byNode   bool
	}{{"all=10", 10, false}, {"all=100", 100, false}, {"node=1of5000", 5000, true}} {
		b.Run(bench.name, func(b *testing.B) {
			c := collection(b, openStore(b, store.Config{WatchQueue: 1 << 30}), corePods())
			ctx, cancel := context.WithCancel(store.Shared(context.Background()))
			var seen atomic.Int64
			var group sync.WaitGroup
			for i := range bench.watchers {
				opts := storage.ListOptions{Recursive: true, ResourceVersion: "1", Predicate: storage.Everything}
				if bench.byNode {
					opts.Predicate.Field = fields.OneTermEqualSelector("spec.nodeName", fmt.Sprint("node-", i))
					opts.Predicate.GetAttrs = podAttrs
				}
				w, err := c.Watch(ctx, "/pods", opts)
				if err != nil {
					b.Fatal(err)
				}
				group.Go(func() {
					for range w.ResultChan() {
						seen.Add(1)
					}
				})
			}
			b.ReportAllocs()
			b.ResetTimer()
			seed(b, c, b.N)
			want := int64(b.N)
			if !bench.byNode {
				want *= int64(bench.watchers)
			}
			for seen.Load() < want {
				time.Sleep(50 * time.Microsecond)
			}
			b.StopTimer()
			cancel()
			group.Wait()
		})
	}
}

func BenchmarkRestart100k(b *testing.B) {
	dir := b.TempDir()
	s, err := store.Open(store.Config{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	c, err := s.For(corePods())
	if err != nil {
		b.Fatal(err)
	}
	seed(b, c, 100_000)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for _, list := range []bool{false, true} {
		b.Run(fmt.Sprintf("list=%v", list), func(b *testing.B) {
			for b.Loop() {
				s, err := store.Open(store.Config{Dir: dir})
				if err != nil {
					b.Fatal(err)
				}
				c, err := s.For(corePods())
				if err != nil {
					b.Fatal(err)
				}
				if list {
					got, _, err := c.Objects(context.Background(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
					if err != nil || len(got) != 100_000 {
						b.Fatal(len(got), err)
					}
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
