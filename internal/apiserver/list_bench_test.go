package apiserver

import (
	"context"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"

	corev1 "k8s.io/api/core/v1"

	"coracle/internal/apiserver/codec"
	"coracle/internal/apiserver/registry"
	"coracle/internal/kind"
	"coracle/internal/resource"
)

// processor returns the processor time that the process has used, in nanoseconds: what others on the machine do
// changes it little, unlike the time of day.
func processor(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano() + u.Stime.Nano())
}

// loop measures what one call costs in processor time.
func loop(b *testing.B, call func()) {
	b.Helper()
	call()
	b.ReportAllocs()
	began := processor(b)
	for b.Loop() {
		call()
	}
	b.ReportMetric((processor(b)-began)/float64(b.N), "cpu-ns/op")
}

// serializers are a server's.
var serializers = codec.New()

// many fills a server with so many objects of a kind.
func many(b *testing.B, c *cluster, res resource.Resource, n int) *registry.Registry {
	b.Helper()
	o := c.set.All[res]
	set := `{"f:status":{"f:conditions":{` + strings.Repeat(`"k:{\"type\":\"Ready\"}":{".":{},"f:status":{}},`, 6) + `".":{}}}}`
	for i := range n {
		m := configMap(fmt.Sprint("c", i), map[string]string{"k": strings.Repeat("x", 900)})
		obj, meta := runtime.Object(m), &m.ObjectMeta
		if res == resource.Pods {
			p := benchPod(fmt.Sprint("p", i))
			obj, meta = p, &p.ObjectMeta
		}
		meta.Labels = map[string]string{"app": "web"}
		meta.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubelet", Operation: "Update", FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(set)}}}
		if err := o.Stored.Create(context.Background(), registry.KeyOf(res, "default", meta.Name), obj, nil, 0); err != nil {
			b.Fatal(err)
		}
	}
	return o
}

// BenchmarkList lists 5,000 objects into nothing, by the short way and by upstream's handler's: the registry makes a
// list, which its serializer encodes.
func BenchmarkList(b *testing.B) {
	c := start(b)
	for _, res := range []resource.Resource{resource.ConfigMaps, resource.Pods} {
		o := many(b, c, res, 5000)
		for _, info := range serializers.SupportedMediaTypes() {
			if info.MediaType == runtime.ContentTypeYAML || info.MediaType == runtime.ContentTypeCBOR {
				continue
			}
			gv := res.GVK().GroupVersion()
			ours, theirs := serializers.EncoderForVersion(info.Serializer, gv), serializers.CodecFactory.EncoderForVersion(info.Serializer, gv)
			for _, limit := range []int64{0, 500} {
				name := fmt.Sprintf("%s/%s/limit=%d/", res.Plural, info.MediaTypeSubType, limit)
				options := &internalversion.ListOptions{Limit: limit}
				ctx := request.WithNamespace(context.Background(), "default")
				list := func(ctx context.Context, e runtime.Encoder) func() {
					return func() {
						found, err := o.List(ctx, options)
						if err == nil {
							err = e.Encode(found, io.Discard)
						}
						if err != nil {
							b.Fatal(err)
						}
					}
				}
				b.Run(name+"ours", func(b *testing.B) { loop(b, list(registry.PlainList(ctx), ours)) })
				b.Run(name+"upstream", func(b *testing.B) { loop(b, list(ctx, theirs)) })
			}
		}
	}
}

// BenchmarkSelectNothing lists what a selector matches nothing of, among many.
func BenchmarkSelectNothing(b *testing.B) {
	c := start(b)
	o := many(b, c, resource.ConfigMaps, 100_000)
	sel, err := labels.Parse("app=other")
	if err != nil {
		b.Fatal(err)
	}
	opts := recursive()
	opts.Predicate = storage.SelectionPredicate{Label: sel, GetAttrs: o.Kind.GetAttrs}
	b.Run("100000", func(b *testing.B) {
		loop(b, func() {
			if found, _, err := o.Stored.Objects(context.Background(), registry.KeyRoot(resource.ConfigMaps), opts); err != nil || len(found) > 0 {
				b.Fatal(len(found), err)
			}
		})
	})
}

// BenchmarkAnswer encodes one pod, as for a get or after a write.
func BenchmarkAnswer(b *testing.B) {
	c := start(b)
	o := many(b, c, resource.Pods, 1)
	obj, err := o.Stored.Object(registry.KeyOf(resource.Pods, "default", "p0"))
	if err != nil {
		b.Fatal(err)
	}
	for _, info := range serializers.SupportedMediaTypes() {
		if info.MediaType == runtime.ContentTypeYAML || info.MediaType == runtime.ContentTypeCBOR {
			continue
		}
		gv := resource.Pods.GVK().GroupVersion()
		ours, theirs := serializers.EncoderForVersion(info.Serializer, gv), serializers.CodecFactory.EncoderForVersion(info.Serializer, gv)
		encode := func(e runtime.Encoder, obj func() runtime.Object) func() {
			return func() {
				if err := e.Encode(obj(), io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.Run(info.MediaTypeSubType+"/ours", func(b *testing.B) { loop(b, encode(ours, func() runtime.Object { return obj })) })
		b.Run(info.MediaTypeSubType+"/upstream", func(b *testing.B) {
			loop(b, encode(theirs, func() runtime.Object { return registry.ShallowCopy(obj) }))
		})
	}
}

// BenchmarkFanOut is what a change costs that many watchers are told of, from the write to the last encoded event.
func BenchmarkFanOut(b *testing.B) {
	for _, watchers := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(watchers), func(b *testing.B) {
			c := start(b)
			o := many(b, c, resource.Pods, 1)
			k, _ := kind.For(resource.Pods)
			info, _ := runtime.SerializerInfoForMediaType(serializers.SupportedMediaTypes(), runtime.ContentTypeJSON)
			e := serializers.EncoderForVersion(info.Serializer, k.GVK().GroupVersion())
			var streams []watch.Interface
			for range watchers {
				opts := recursive()
				opts.ResourceVersion = fmt.Sprint(c.cfg.Store.Revision())
				w, err := o.Stored.Watch(b.Context(), registry.KeyRoot(resource.Pods), opts)
				if err != nil {
					b.Fatal(err)
				}
				defer w.Stop()
				streams = append(streams, w)
			}
			round := 0
			loop(b, func() {
				round++
				err := o.Stored.GuaranteedUpdate(context.Background(), registry.KeyOf(resource.Pods, "default", "p0"), &corev1.Pod{}, false, nil,
					func(in runtime.Object, _ storage.ResponseMeta) (runtime.Object, *uint64, error) {
						in.(*corev1.Pod).Status.Message = fmt.Sprint(round)
						return in, nil, nil
					}, nil)
				if err != nil {
					b.Fatal(err)
				}
				for _, w := range streams {
					if err := e.Encode((<-w.ResultChan()).Object, io.Discard); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

func recursive() storage.ListOptions {
	return storage.ListOptions{Recursive: true, Predicate: storage.Everything}
}
