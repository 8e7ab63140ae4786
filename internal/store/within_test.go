package store_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"coracle/internal/store"
)

// TestWithin: whoever has seen a container closed finds everything in it that ever will be.
func TestWithin(t *testing.T) {
	s := openStore(t, store.Config{Dir: t.TempDir()})
	houses := collection(t, s, store.Resource{
		Prefix: "/namespaces", Codec: protobufCodec(),
		New:     func() runtime.Object { return &corev1.Namespace{} },
		NewList: func() runtime.Object { return &corev1.NamespaceList{} },
	})
	shut := errors.New("shut")
	res := corePods()
	res.Within = &store.Within{
		Of:  houses,
		Key: func(key string) string { return "/namespaces/" + strings.Split(key, "/")[2] },
		Open: func(container runtime.Object, _ string) error {
			if ns, ok := container.(*corev1.Namespace); !ok || ns.Status.Phase == corev1.NamespaceTerminating {
				return shut
			}
			return nil
		},
	}
	pods := collection(t, s, res)
	create := func(i int) error {
		pod := benchPod(i)
		return pods.Create(t.Context(), "/pods/default/"+pod.Name, pod, nil, 0)
	}
	if err := create(0); !errors.Is(err, shut) {
		t.Fatalf("into nothing: %v", err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if err := houses.Create(t.Context(), "/namespaces/default", ns, nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := create(0); err != nil {
		t.Fatal(err)
	}

	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := w + 1; ; i += 8 {
				if err := create(i); err != nil {
					if !errors.Is(err, shut) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	err := houses.GuaranteedUpdate(t.Context(), "/namespaces/default", &corev1.Namespace{}, false, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
		o.(*corev1.Namespace).Status.Phase = corev1.NamespaceTerminating
		return o, nil
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	count := func() int {
		items, _, err := pods.Objects(t.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
		if err != nil {
			t.Fatal(err)
		}
		return len(items)
	}
	seen := count()
	writers.Wait()
	if all := count(); all != seen {
		t.Errorf("%d objects were there when the container was closed, %d in the end", seen, all)
	}

	// What is there can still be changed and removed.
	key := "/pods/default/" + benchPod(0).Name
	err = pods.GuaranteedUpdate(t.Context(), key, &corev1.Pod{}, false, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
		o.(*corev1.Pod).Spec.NodeName = "moved"
		return o, nil
	}), nil)
	if err != nil {
		t.Error(err)
	}
	if err := pods.Delete(t.Context(), key, &corev1.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}
