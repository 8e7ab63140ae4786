package decorator_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"

	"coracle/internal/store"
	"coracle/internal/store/decorator"
	"coracle/internal/store/storetest"
)

// strategy accepts every pod as it is.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
}

type typer struct{}

func (typer) ObjectKinds(runtime.Object) ([]schema.GroupVersionKind, bool, error) {
	return []schema.GroupVersionKind{example.SchemeGroupVersion.WithKind("Pod")}, false, nil
}
func (typer) Recognizes(schema.GroupVersionKind) bool { return true }

func (strategy) NamespaceScoped() bool                                            { return true }
func (strategy) AllowCreateOnUpdate(context.Context) bool                         { return false }
func (strategy) AllowUnconditionalUpdate(context.Context) bool                    { return true }
func (strategy) PrepareForCreate(context.Context, runtime.Object)                 {}
func (strategy) PrepareForUpdate(context.Context, runtime.Object, runtime.Object) {}
func (strategy) Canonicalize(runtime.Object)                                      {}
func (strategy) Validate(context.Context, runtime.Object) field.ErrorList         { return nil }
func (strategy) WarningsOnCreate(context.Context, runtime.Object) []string        { return nil }
func (strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}
func (strategy) ValidateUpdate(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	return nil
}

func newRegistry(t *testing.T) (*registry.Store, *store.Store) {
	t.Helper()
	s, err := store.Open(store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	st := strategy{typer{}, names.SimpleNameGenerator}
	r := &registry.Store{
		NewFunc: storetest.NewPod, NewListFunc: storetest.NewPodList,
		DefaultQualifiedResource:  schema.GroupResource{Group: "example.io", Resource: "pods"},
		SingularQualifiedResource: schema.GroupResource{Group: "example.io", Resource: "pod"},
		CreateStrategy:            st, UpdateStrategy: st, DeleteStrategy: st,
		TableConvertor: rest.NewDefaultTableConvertor(schema.GroupResource{Resource: "pods"}),
	}
	err = r.CompleteWithOptions(&generic.StoreOptions{
		RESTOptions: decorator.Getter{Store: s, Codec: func(schema.GroupResource) runtime.Codec { return storetest.Codec() }},
		AttrFunc:    storetest.Attrs,
		TriggerFunc: storetest.Index(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, s
}

// TestRegistry drives the generic registry over the store: create, get, list, update, watch, delete
// of one and of a collection.
func TestRegistry(t *testing.T) {
	r, s := newRegistry(t)
	if c, ok := s.Collection("/example.io/pods"); !ok || r.Storage.Storage != storage.Interface(c) {
		t.Fatal("the registry does not use the store's collection at /example.io/pods")
	}
	ctx := request.WithNamespace(t.Context(), "ns")
	for i := range 3 {
		pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i), Namespace: "ns"}, Spec: example.PodSpec{NodeName: fmt.Sprint("n", i%2)}}
		if _, err := r.Create(ctx, pod, rest.ValidateAllObjectFunc, &metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	obj, err := r.List(ctx, &metainternal.ListOptions{LabelSelector: labels.Everything(), FieldSelector: fields.OneTermEqualSelector("spec.nodeName", "n0")})
	if err != nil {
		t.Fatal(err)
	}
	list := obj.(*example.PodList)
	if len(list.Items) != 2 {
		t.Errorf("%d pods on n0, want 2", len(list.Items))
	}
	w, err := r.Watch(ctx, &metainternal.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	got, err := r.Get(ctx, "p1", &metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	change := got.DeepCopyObject().(*example.Pod)
	change.Labels = map[string]string{"a": "b"}
	if _, _, err := r.Update(ctx, "p1", rest.DefaultUpdatedObjectInfo(change), nil, nil, false, &metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Delete(ctx, "p0", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []watch.EventType{watch.Modified, watch.Deleted} {
		if ev := <-w.ResultChan(); ev.Type != want {
			t.Errorf("event %v, want %s", ev, want)
		}
	}
	if _, err := r.DeleteCollection(ctx, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}, &metainternal.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if stats, err := r.Storage.Stats(ctx); err != nil || stats.ObjectCount != 0 {
		t.Errorf("after the collection was deleted: %+v, %v", stats, err)
	}
	if err := s.VerifyUnchanged(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.ReadinessCheck(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("readiness of a closed store: %v", err)
	}
}
